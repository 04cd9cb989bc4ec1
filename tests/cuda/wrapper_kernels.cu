/* wrapper_kernels.cu - the device half of test_cuda_wrappers.c: each wrapper of cu.h called once. */
// SPDX-License-Identifier: Apache-2.0
#include "cu.h"
#include "wrapper_kernels.h"

#define WRAPPER(name, blocks, threads, bytes)                                                      \
    extern "C" int wrapper_##name(const uint32_t *in, uint32_t *out, void *stream) {               \
        return CU_LAUNCH(name, dim3(blocks), dim3(threads), bytes,                                 \
                         static_cast<cudaStream_t>(stream), in, out);                              \
    }

static __global__ void loads(const uint32_t *in, uint32_t *out) {
    const int way = threadIdx.x / 8;
    const uint32_t *from = in + threadIdx.x * 4;
    uint32_t *to = out + threadIdx.x * 4;
    cu_prefetch_l2(from);
    if (way == 0) cu_store16(to, cu_load16(from));
    if (way == 1) cu_store16(to, cu_load16_once(from));
    if (way == 2) cu_store16(to, cu_load16_policy(from, cu_evict_first()));
    if (way == 3) cu_store16(to, cu_load16_policy(from, cu_evict_last()));
    if (way == 4) cu_store16_once(to, cu_load16(from));
}
WRAPPER(loads, 1, 40, 0)

static __global__ void copies(const uint32_t *in, uint32_t *out) {
    CU_SHARED_A(16, uint32_t, s, [10][32]);
    const int t = threadIdx.x;
    for (int half = 0; half < 2; half++) {
        uint32_t(*to)[32] = s + 5 * half;
        const uint32_t *from = in + 160 * half;
        const bool ok = half == 0;
        if (t < 8) {
            cu_cp_async16(&to[0][t * 4], from + t * 4, ok);
            cu_cp_async16_policy(&to[1][t * 4], from + 32 + t * 4, ok, cu_evict_first());
            cu_cp_async_ca<16>(&to[4][t * 4], from + 128 + t * 4, ok);
        }
        if (t < 16) cu_cp_async_ca<8>(&to[3][t * 2], from + 96 + t * 2, ok);
        cu_cp_async_ca<4>(&to[2][t], from + 64 + t, ok);
    }
    cu_cp_async_commit();
    cu_cp_async_wait<0>();
    __syncthreads();
    for (int i = 0; i < 10; i++)
        out[i * 32 + t] = s[i][t];
}
WRAPPER(copies, 1, 32, 0)

static __global__ void copy_groups(const uint32_t *in, uint32_t *out) {
    CU_SHARED_A(16, uint32_t, s, [64]);
    const int t = threadIdx.x;
    for (int group = 0; group < 2; group++) {
        if (t < 8) cu_cp_async16(&s[group * 32 + t * 4], in + group * 32 + t * 4);
        cu_cp_async_commit();
    }
    cu_cp_async_wait<1>();
    __syncthreads();
    out[t] = s[t];
    cu_cp_async_wait<0>();
    __syncthreads();
    out[32 + t] = s[32 + t];
}
WRAPPER(copy_groups, 1, 32, 0)

static __global__ void ldmatrix(const uint32_t *in, uint32_t *out) {
    CU_SHARED_A(16, uint32_t, s, [128]);
    const int l = cu_lane();
    for (int i = l; i < 128; i += 32)
        s[i] = in[i];
    __syncwarp();
    const uint32_t *row = s + l * 4;
    uint32_t r1, r2[2], r4[4];
    for (int trans = 0; trans < 2; trans++) {
        uint32_t *to = out + 224 * trans;
        if (trans) {
            cu_ldmatrix_x1_trans(r1, row);
            cu_ldmatrix_x2_trans(r2, row);
            cu_ldmatrix_x4_trans(r4, row);
        } else {
            cu_ldmatrix_x1(r1, row);
            cu_ldmatrix_x2(r2, row);
            cu_ldmatrix_x4(r4, row);
        }
        to[l] = r1;
        for (int i = 0; i < 2; i++)
            to[32 + l * 2 + i] = r2[i];
        for (int i = 0; i < 4; i++)
            to[96 + l * 4 + i] = r4[i];
    }
}
WRAPPER(ldmatrix, 1, 32, 0)

/* Fragments straight from memory by the PTX ISA's figures, `words` to a row of A and a column of B. */
CU_DEV void fragments(uint32_t (&a)[4], uint32_t (&b)[2], const uint32_t *in, int words) {
    const int g = cu_lane() / 4, t = cu_lane() % 4;
    for (int i = 0; i < 4; i++)
        a[i] = in[(g + 8 * (i % 2)) * words + 4 * (i / 2) + t];
    for (int i = 0; i < 2; i++)
        b[i] = in[16 * words + g * words + 4 * i + t];
}

/* Index in C and D of accumulator i of this lane. */
CU_DEV int accumulator(int i) {
    return (cu_lane() / 4 + 8 * (i / 2)) * 8 + 2 * (cu_lane() % 4) + i % 2;
}

template <bool bf16> static __device__ void mma_float(const uint32_t *in, uint32_t *out) {
    uint32_t a[4], b[2];
    float c[4], d[4];
    fragments(a, b, in, 8);
    for (int i = 0; i < 4; i++)
        c[i] = __uint_as_float(in[24 * 8 + accumulator(i)]);
    if (bf16)
        cu_mma_bf16(d, a, b, c);
    else
        cu_mma_f16(d, a, b, c);
    for (int i = 0; i < 4; i++)
        out[accumulator(i)] = __float_as_uint(d[i]);
}

static __global__ void mma_bf16(const uint32_t *in, uint32_t *out) { mma_float<true>(in, out); }
WRAPPER(mma_bf16, 1, 32, 0)

static __global__ void mma_f16(const uint32_t *in, uint32_t *out) { mma_float<false>(in, out); }
WRAPPER(mma_f16, 1, 32, 0)

static __global__ void mma_s8(const uint32_t *in, uint32_t *out) {
    uint32_t a[4], b[2];
    int32_t c[4];
    fragments(a, b, in, 8);
    for (int i = 0; i < 4; i++)
        c[i] = (int32_t)in[24 * 8 + accumulator(i)];
    cu_mma_s8(c, a, b, c);
    for (int i = 0; i < 4; i++)
        out[accumulator(i)] = (uint32_t)c[i];
}
WRAPPER(mma_s8, 1, 32, 0)

static __global__ void shuffles(const uint32_t *in, uint32_t *out) {
    const int l = cu_lane();
    const uint32_t v = in[l];
    out[0 * 32 + l] = __shfl_sync(CU_FULL, v, 5);
    out[1 * 32 + l] = __shfl_sync(CU_FULL, v, l + 3, 8);
    out[2 * 32 + l] = __shfl_xor_sync(CU_FULL, v, 9);
    out[3 * 32 + l] = __shfl_xor_sync(CU_FULL, v, 3, 4);
    out[4 * 32 + l] = __shfl_down_sync(CU_FULL, v, 7);
    out[5 * 32 + l] = __shfl_down_sync(CU_FULL, v, 3, 16);
    out[6 * 32 + l] = __shfl_up_sync(CU_FULL, v, 4);
    out[7 * 32 + l] = __shfl_up_sync(CU_FULL, v, 5, 8);
    out[8 * 32 + l] = (uint32_t)cu_warp_sum((float)l);
    out[9 * 32 + l] = (uint32_t)cu_warp_max((float)(v & 0xffff));
    out[10 * 32 + l] = (uint32_t)(__shfl_xor_sync(CU_FULL, (unsigned long long)v << 20, 1) >> 20);
}
WRAPPER(shuffles, 1, 32, 0)

static __global__ void votes(const uint32_t *in, uint32_t *out) {
    const int l = cu_lane();
    const bool odd = in[l] & 1;
    out[0 * 32 + l] = __ballot_sync(CU_FULL, odd);
    out[1 * 32 + l] = (uint32_t)__any_sync(CU_FULL, l == 31);
    out[2 * 32 + l] = (uint32_t)__any_sync(CU_FULL, l == 32);
    out[3 * 32 + l] = (uint32_t)__all_sync(CU_FULL, l != 31);
    out[4 * 32 + l] = (uint32_t)__all_sync(CU_FULL, l != 32);
    out[5 * 32 + l] = __match_any_sync(CU_FULL, in[l] % 5);
}
WRAPPER(votes, 1, 32, 0)

static __global__ void reductions(const uint32_t *in, uint32_t *out) {
    const int l = cu_lane();
    const uint32_t v = in[l];
    out[0 * 32 + l] = __reduce_add_sync(CU_FULL, v);
    out[1 * 32 + l] = (uint32_t)__reduce_add_sync(CU_FULL, (int)v);
    out[2 * 32 + l] = __reduce_min_sync(CU_FULL, v);
    out[3 * 32 + l] = (uint32_t)__reduce_min_sync(CU_FULL, (int)v);
    out[4 * 32 + l] = __reduce_max_sync(CU_FULL, v);
    out[5 * 32 + l] = (uint32_t)__reduce_max_sync(CU_FULL, (int)v);
    out[6 * 32 + l] = __reduce_and_sync(CU_FULL, v);
    out[7 * 32 + l] = __reduce_or_sync(CU_FULL, v);
    out[8 * 32 + l] = __reduce_xor_sync(CU_FULL, v);
}
WRAPPER(reductions, 1, 32, 0)

static __global__ void words(const uint32_t *in, uint32_t *out) {
    const int l = cu_lane();
    const uint32_t a = in[l], b = in[32 + l], c = in[64 + l];
    out[0 * 32 + l] = cu_lop3<0xe8>(a, b, c);
    out[1 * 32 + l] = cu_lop3<0x96>(a, b, c);
    out[2 * 32 + l] = __byte_perm(a, b, 0x7531);
    out[3 * 32 + l] = __byte_perm(a, b, 0x8c4f);
    out[4 * 32 + l] = __funnelshift_l(a, b, 5);
    out[5 * 32 + l] = __funnelshift_r(a, b, 37);
    out[6 * 32 + l] = __brev(a);
    out[7 * 32 + l] = __umulhi(a, b);
    out[8 * 32 + l] = (uint32_t)__dp4a((int)a, (int)b, (int)c);
    out[9 * 32 + l] = (uint32_t)(__popc(a) + 64 * __clz((int)(a >> 9)) + 4096 * __ffs((int)b));
    out[10 * 32 + l] =
        (uint32_t)(__popcll((unsigned long long)a << 32 | b) + 256 * __clzll((long long)(a >> 4)));
    out[11 * 32 + l] = __dp4a(a, b, c);
}
WRAPPER(words, 1, 32, 0)

/* in[l]: the bits of a float; small integers, so that nothing is rounded but where it is meant. */
static __global__ void numbers(const uint32_t *in, uint32_t *out) {
    const int l = cu_lane();
    const float x = __uint_as_float(in[l]), y = __uint_as_float(in[32 + l]);
    out[0 * 32 + l] = cu_pack_bf16(x, y);
    out[1 * 32 + l] = cu_pack_f16(x, y);
    out[2 * 32 + l] = cu_fma_bf16x2(cu_pack_bf16(x, y), cu_pack_bf16(y, y), cu_pack_bf16(x, x));
    out[3 * 32 + l] = cu_fma_f16x2(cu_pack_f16(x, y), cu_pack_f16(y, y), cu_pack_f16(x, x));
    out[4 * 32 + l] = __float_as_uint(cu_exp2(x));
    out[5 * 32 + l] = __float_as_uint(cu_bf_lo(cu_pack_bf16(x, y)) - cu_bf_hi(cu_pack_bf16(x, y)));
    out[6 * 32 + l] = cu_to_bf16(x) | (uint32_t)cu_to_f16(y) << 16;
    out[7 * 32 + l] = __float_as_uint(cu_from_bf16(cu_to_bf16(x)) + cu_from_f16(cu_to_f16(y)));
    out[8 * 32 + l] = (uint32_t)__float2int_rn(x * 0.5f);
    out[9 * 32 + l] = (uint32_t)__float2int_rz(x * 0.5f);
    out[10 * 32 + l] = __float_as_uint(__fmaf_rn(x, y, x));
}
WRAPPER(numbers, 1, 32, 0)

static __global__ void atomics(const uint32_t *in, uint32_t *out) {
    const uint32_t id = blockIdx.x * 64 + threadIdx.x, v = in[id];
    atomicAdd(&out[0], v);
    atomicAdd(reinterpret_cast<int *>(&out[1]), -(int)id);
    atomicSub(&out[2], 1u);
    atomicMin(&out[3], v);
    atomicMax(&out[4], v);
    atomicMax(reinterpret_cast<int *>(&out[5]), (int)v);
    atomicAnd(&out[6], v | 1u);
    atomicOr(&out[7], 1u << (id & 31));
    atomicXor(&out[8], v);
    if (atomicCAS(&out[9], 0u, id + 1) == 0u) atomicExch(&out[10], 77u);
    atomicInc(&out[11], 100u);
    atomicAdd(reinterpret_cast<unsigned long long *>(&out[12]), 0x100000000ull + id);
}
WRAPPER(atomics, 4, 64, 0)

static __global__ void barriers(const uint32_t *in, uint32_t *out) {
    CU_SHARED(uint32_t, s, [96]);
    const int t = threadIdx.x;
    s[t] = in[t];
    __syncthreads();
    out[t] = s[95 - t];
    out[96 + t] = (uint32_t)__syncthreads_count(t % 3 == 0);
    out[192 + t] = (uint32_t)__syncthreads_or(t == 50);
    out[288 + t] = (uint32_t)__syncthreads_and(t != 50);
    out[384 + t] = (uint32_t)__syncthreads_or(t == 96);
    out[480 + t] = (uint32_t)(cu_warp_id() * 32 + cu_lane());
}
WRAPPER(barriers, 1, 96, 0)

enum { STATIC_WORDS = 10000, DYNAMIC_BYTES = 60000 };
static __global__ void shared(const uint32_t *in, uint32_t *out) {
    CU_SHARED(uint32_t, s, [STATIC_WORDS]);
    CU_DYN_SHARED(uint32_t, d);
    const int t = threadIdx.x, last = DYNAMIC_BYTES / 4 - 1;
    s[STATIC_WORDS - 1 - t] = in[t];
    __syncthreads();
    d[last - t] = s[STATIC_WORDS - 1 - (95 - t)];
    __syncthreads();
    out[t] = d[last - t];
}
extern "C" int wrapper_shared(const uint32_t *in, uint32_t *out, void *stream) {
    cudaError_t error =
        cudaFuncSetAttribute(shared, cudaFuncAttributeMaxDynamicSharedMemorySize, DYNAMIC_BYTES);
    if (error != cudaSuccess) return error;
    return CU_LAUNCH(shared, dim3(1), dim3(96), DYNAMIC_BYTES, static_cast<cudaStream_t>(stream),
                     in, out);
}
