/* cu_ptx.h - the device's half of cu.h: PTX in wrappers. Its twin is cu_twin.h; same names, same order. */
// SPDX-License-Identifier: Apache-2.0
#ifndef CU_PTX_H
#define CU_PTX_H

#define CU_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                  \
    ([&]() -> cudaError_t {                                                                        \
        kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__);                        \
        return cudaGetLastError();                                                                 \
    }())

/* ---- shared memory */
#define CU_SHARED(T, name, dims) __shared__ T name dims
#define CU_SHARED_A(align, T, name, dims)                                                          \
    __shared__ __align__(align)                                                                    \
    T name dims
#define CU_DYN_SHARED(T, name)                                                                     \
    extern __shared__ __align__(128) unsigned char cu_dynamic_shared[];                            \
    T *name = reinterpret_cast<T *>(cu_dynamic_shared)

CU_DEV uint32_t cu_shared_address(const void *p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

/* p, an address of global memory, of which the compiler no longer knows how it came about: else it adds all of that up
 * again at each use, in a loop's every round. */
template <class T> CU_DEV const T *cu_opaque(const T *p) {
    size_t at = __cvta_generic_to_global(p);
    asm volatile("" : "+l"(at));
    return static_cast<const T *>(__cvta_global_to_generic(at));
}

/* ---- loads and stores of 16 bytes */
CU_DEV uint4 cu_load16(const void *p) { return *static_cast<const uint4 *>(p); }
CU_DEV void cu_store16(void *p, uint4 v) { *static_cast<uint4 *>(p) = v; }

CU_DEV uint4 cu_load16_once(const void *p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(__cvta_generic_to_global(p)));
    return v;
}
CU_DEV uint64_t cu_evict_first() {
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}
CU_DEV uint64_t cu_evict_last() {
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}
CU_DEV uint4 cu_load16_policy(const void *p, uint64_t policy) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%0,%1,%2,%3}, [%4], %5;"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(__cvta_generic_to_global(p)), "l"(policy));
    return v;
}
CU_DEV void cu_store16_once(void *p, uint4 v) { __stcs(static_cast<uint4 *>(p), v); }
CU_DEV void cu_prefetch_l2(const void *p) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(p)));
}

/* ---- cp.async */
CU_DEV void cu_cp_async16(void *to, const void *from, bool ok = true) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(cu_shared_address(to)),
                 "l"(__cvta_generic_to_global(from)), "r"(ok ? 16 : 0)
                 : "memory");
}
CU_DEV void cu_cp_async16_policy(void *to, const void *from, bool ok, uint64_t policy) {
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(
                     cu_shared_address(to)),
                 "l"(__cvta_generic_to_global(from)), "r"(ok ? 16 : 0), "l"(policy)
                 : "memory");
}
template <int bytes> CU_DEV void cu_cp_async_ca(void *to, const void *from, bool ok = true) {
    static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async.ca");
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(cu_shared_address(to)),
                 "l"(__cvta_generic_to_global(from)), "n"(bytes), "r"(ok ? bytes : 0)
                 : "memory");
}
CU_DEV void cu_cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending> CU_DEV void cu_cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

/* ---- ldmatrix */
CU_DEV void cu_ldmatrix_x1(uint32_t &r, const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                 : "=r"(r)
                 : "r"(cu_shared_address(row))
                 : "memory");
}
CU_DEV void cu_ldmatrix_x1_trans(uint32_t &r, const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(r)
                 : "r"(cu_shared_address(row))
                 : "memory");
}
CU_DEV void cu_ldmatrix_x2(uint32_t (&r)[2], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(cu_shared_address(row))
                 : "memory");
}
CU_DEV void cu_ldmatrix_x2_trans(uint32_t (&r)[2], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(cu_shared_address(row))
                 : "memory");
}
CU_DEV void cu_ldmatrix_x4(uint32_t (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(cu_shared_address(row))
                 : "memory");
}
CU_DEV void cu_ldmatrix_x4_trans(uint32_t (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(cu_shared_address(row))
                 : "memory");
}

/* ---- mma.sync: d = a b + c; d may be c. Fragments as in the PTX ISA. */
CU_DEV void cu_mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                        const float (&c)[4]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]),
                   "f"(c[1]), "f"(c[2]), "f"(c[3]));
}
CU_DEV void cu_mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                       const float (&c)[4]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]),
                   "f"(c[1]), "f"(c[2]), "f"(c[3]));
}
CU_DEV void cu_mma_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                      const int32_t (&c)[4]) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]),
                   "r"(c[1]), "r"(c[2]), "r"(c[3]));
}

/* ---- words and numbers */
/* Any function of three bits, bit by bit: bit (a << 2 | b << 1 | c) of table. */
template <int table> CU_DEV uint32_t cu_lop3(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(d) : "r"(a), "r"(b), "r"(c), "n"(table));
    return d;
}
/* 2^x, approximate; 2^-inf is 0. */
CU_DEV float cu_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
CU_DEV uint32_t cu_pack_bf16(float low, float high) {
    uint32_t d;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
    return d;
}
CU_DEV uint32_t cu_pack_f16(float low, float high) {
    uint32_t d;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
    return d;
}
/* a * b + c of two bf16 (or f16) in a word, each rounded once. */
CU_DEV uint32_t cu_fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
CU_DEV uint32_t cu_fma_f16x2(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

#endif
