/* cu_twin.h - the emulator's half of cu.h: what each wrapper of cu_ptx.h does; same names, same order. */
// SPDX-License-Identifier: Apache-2.0
#ifndef CU_TWIN_H
#define CU_TWIN_H

#define CU_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                  \
    (::cuemu::launch(#kernel, (grid), (block), (shared_bytes), (stream), (kernel), __VA_ARGS__))

/* ---- shared memory */
#define CU_SHARED(T, name, dims) CU_SHARED_A(alignof(T), T, name, dims)
#define CU_SHARED_A(align, T, name, dims)                                                          \
    using name##_array = T dims;                                                                   \
    static const char name##_key = 0;                                                              \
    name##_array &name = *static_cast<name##_array *>(                                             \
        ::cuemu::shared_array(&name##_key, sizeof(name##_array), align, EMU_HERE))
#define CU_DYN_SHARED(T, name) T *name = static_cast<T *>(::cuemu::shared_dynamic(EMU_HERE))

CU_DEV uint32_t cu_shared_address(const void *p) {
    return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(p));
}

template <class T> CU_DEV const T *cu_opaque(const T *p) { return p; }

/* ---- loads and stores of 16 bytes: an address with less alignment faults, as on the device */
CU_DEV uint4 cu_load16(const void *p, cuemu::Place place = EMU_HERE) {
    if (reinterpret_cast<uintptr_t>(p) & 15) cuemu::fail("load not aligned to 16", place);
    return *static_cast<const uint4 *>(p);
}
CU_DEV void cu_store16(void *p, uint4 v, cuemu::Place place = EMU_HERE) {
    if (reinterpret_cast<uintptr_t>(p) & 15) cuemu::fail("store not aligned to 16", place);
    *static_cast<uint4 *>(p) = v;
}

CU_DEV uint4 cu_load16_once(const void *p, cuemu::Place place = EMU_HERE) {
    if (cuemu::is_shared(p, 1)) cuemu::fail("global load from shared memory", place);
    return cu_load16(p, place);
}
CU_DEV uint64_t cu_evict_first() { return 1; }
CU_DEV uint64_t cu_evict_last() { return 2; }
CU_DEV uint4 cu_load16_policy(const void *p, uint64_t, cuemu::Place place = EMU_HERE) {
    return cu_load16_once(p, place);
}
CU_DEV void cu_store16_once(void *p, uint4 v, cuemu::Place place = EMU_HERE) {
    cu_store16(p, v, place);
}
CU_DEV void cu_prefetch_l2(const void *) {}

/* ---- cp.async */
CU_DEV void cu_cp_async16(void *to, const void *from, bool ok = true,
                          cuemu::Place place = EMU_HERE) {
    cuemu::copy_async<16>(to, from, ok, place);
}
CU_DEV void cu_cp_async16_policy(void *to, const void *from, bool ok, uint64_t,
                                 cuemu::Place place = EMU_HERE) {
    cuemu::copy_async<16>(to, from, ok, place);
}
template <int bytes>
CU_DEV void cu_cp_async_ca(void *to, const void *from, bool ok = true,
                           cuemu::Place place = EMU_HERE) {
    static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async.ca");
    cuemu::copy_async<bytes>(to, from, ok, place);
}
CU_DEV void cu_cp_async_commit() { cuemu::copy_commit(); }
template <int pending> CU_DEV void cu_cp_async_wait() { cuemu::copy_wait(pending); }

/* ---- ldmatrix */
CU_DEV void cu_ldmatrix_x1(uint32_t &r, const void *row, cuemu::Place place = EMU_HERE) {
    cuemu::matrix_load<1, false>(&r, row, place);
}
CU_DEV void cu_ldmatrix_x1_trans(uint32_t &r, const void *row, cuemu::Place place = EMU_HERE) {
    cuemu::matrix_load<1, true>(&r, row, place);
}
CU_DEV void cu_ldmatrix_x2(uint32_t (&r)[2], const void *row, cuemu::Place place = EMU_HERE) {
    cuemu::matrix_load<2, false>(r, row, place);
}
CU_DEV void cu_ldmatrix_x2_trans(uint32_t (&r)[2], const void *row, cuemu::Place place = EMU_HERE) {
    cuemu::matrix_load<2, true>(r, row, place);
}
CU_DEV void cu_ldmatrix_x4(uint32_t (&r)[4], const void *row, cuemu::Place place = EMU_HERE) {
    cuemu::matrix_load<4, false>(r, row, place);
}
CU_DEV void cu_ldmatrix_x4_trans(uint32_t (&r)[4], const void *row, cuemu::Place place = EMU_HERE) {
    cuemu::matrix_load<4, true>(r, row, place);
}

/* ---- mma.sync */
CU_DEV void cu_mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                        const float (&c)[4], cuemu::Place place = EMU_HERE) {
    cuemu::matrix_product(cuemu::product_bf16, d, a, b, c, "mma bf16", place);
}
CU_DEV void cu_mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                       const float (&c)[4], cuemu::Place place = EMU_HERE) {
    cuemu::matrix_product(cuemu::product_f16, d, a, b, c, "mma f16", place);
}
CU_DEV void cu_mma_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                      const int32_t (&c)[4], cuemu::Place place = EMU_HERE) {
    cuemu::matrix_product(cuemu::product_s8, d, a, b, c, "mma s8", place);
}

/* ---- words and numbers */
template <int table> CU_DEV uint32_t cu_lop3(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d = 0;
    for (int i = 0; i < 8; i++)
        if (table >> i & 1) d |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return d;
}
/* Whole powers of two are exact. */
CU_DEV float cu_exp2(float x) {
    return x == floorf(x) ? exp2f(x) : cuemu::rough(exp2f(x), x, 2);
}
CU_DEV uint32_t cu_pack_bf16(float low, float high) {
    return __float2bfloat16(low).x | uint32_t{__float2bfloat16(high).x} << 16;
}
CU_DEV uint32_t cu_pack_f16(float low, float high) {
    return __float2half(low).x | uint32_t{__float2half(high).x} << 16;
}
CU_DEV uint32_t cu_fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
    uint16_t r[2];
    for (int i = 0; i < 2; i++)
        r[i] = __hfma(__nv_bfloat16{static_cast<uint16_t>(a >> 16 * i)},
                      __nv_bfloat16{static_cast<uint16_t>(b >> 16 * i)},
                      __nv_bfloat16{static_cast<uint16_t>(c >> 16 * i)})
                   .x;
    return r[0] | uint32_t{r[1]} << 16;
}
CU_DEV uint32_t cu_fma_f16x2(uint32_t a, uint32_t b, uint32_t c) {
    uint16_t r[2];
    for (int i = 0; i < 2; i++)
        r[i] = __hfma(__half{static_cast<uint16_t>(a >> 16 * i)},
                      __half{static_cast<uint16_t>(b >> 16 * i)},
                      __half{static_cast<uint16_t>(c >> 16 * i)})
                   .x;
    return r[0] | uint32_t{r[1]} << 16;
}

#endif
