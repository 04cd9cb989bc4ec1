/* cu.h - the only header of device words that a kernel file includes.
 *
 * One source, two worlds: nvcc compiles it for the device, g++ for the emulator (tests/cudaemu). All
 * PTX of the project is here, each wrapper beside its emulated twin; tests/cuda/test_cuda_wrappers.c
 * runs one test over both. What has no twin does not compile in the emulator, and that is meant.
 *
 * Rules for kernels (tests/cudaemu/README.md says why):
 *   launches     CU_LAUNCH((kernel<64, 8>), grid, block, shared_bytes, stream, args...), a cudaError_t
 *   shared       CU_SHARED(T, name, [a][b]); CU_SHARED_A(16, T, name, [a]) where it is read or written in
 *                words longer than T, by cp.async or by ldmatrix; CU_DYN_SHARED(T, name)
 *   warps        cu_warp_id(), cu_lane(); full mask, no warp operation under divergent control
 *   barriers     no thread leaves before one, unless all of its block do
 *   cp.async     commit each round, even an empty one; wait<0> before the end
 *   never        asm, <<<, __shared__ outside of this file (tests/kernel_rules.sh looks) */
// SPDX-License-Identifier: Apache-2.0
#ifndef CU_H
#define CU_H

#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define CU_DEV static __device__ __forceinline__
#define CU_HOST_DEV static __host__ __device__ __forceinline__
#include "cu_ptx.h"
#else
#include "cuda_emu.h"
#define CU_DEV [[maybe_unused]] static inline
#define CU_HOST_DEV [[maybe_unused]] static inline
#include "cu_twin.h"
#endif

#define CU_FULL 0xffffffffu

/* ---- one source from here on */

/* Index of the warp in its block, in a form that the compiler can prove equal for all lanes: with
 * threadIdx.x >> 5 as a loop's bound ptxas gives up convergence, and spills. */
CU_DEV int cu_warp_id() { return __shfl_sync(CU_FULL, (int)(threadIdx.x >> 5), 0); }
CU_DEV int cu_lane() { return (int)(threadIdx.x & 31); }

/* Sum and maximum of the warp, in every lane; the order is the same in each. */
CU_DEV float cu_warp_sum(float v) {
#pragma unroll
    for (int o = 16; o; o >>= 1)
        v += __shfl_xor_sync(CU_FULL, v, o);
    return v;
}
CU_DEV float cu_warp_max(float v) {
#pragma unroll
    for (int o = 16; o; o >>= 1)
        v = fmaxf(v, __shfl_xor_sync(CU_FULL, v, o));
    return v;
}

/* The two bf16 of a word, and a word of two floats rounded to bf16 (a in the low half). */
CU_HOST_DEV float cu_bf_lo(uint32_t u) {
    union {
        uint32_t u;
        float f;
    } x = {u << 16};
    return x.f;
}
CU_HOST_DEV float cu_bf_hi(uint32_t u) {
    union {
        uint32_t u;
        float f;
    } x = {u & 0xffff0000u};
    return x.f;
}
CU_DEV uint16_t cu_to_bf16(float f) { return __bfloat16_as_ushort(__float2bfloat16(f)); }
CU_DEV float cu_from_bf16(uint16_t b) { return cu_bf_lo(b); }
CU_DEV uint16_t cu_to_f16(float f) { return __half_as_ushort(__float2half(f)); }
CU_DEV float cu_from_f16(uint16_t h) { return __half2float(__ushort_as_half(h)); }

CU_DEV uint4 cu_zero16() { return make_uint4(0, 0, 0, 0); }

/* ceil(a / b) */
CU_HOST_DEV int cu_ceil(int a, int b) { return (a + b - 1) / b; }

#endif
