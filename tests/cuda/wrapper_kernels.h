/* wrapper_kernels.h - one small kernel for each wrapper of cu.h; for test_cuda_wrappers.c.
 *
 * All have one form: in and out are device memory of WRAPPER_WORDS words each, what they hold is said
 * at each; one block, unless said. Return a cudaError_t. */
// SPDX-License-Identifier: Apache-2.0
#ifndef WRAPPER_KERNELS_H
#define WRAPPER_KERNELS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { WRAPPER_WORDS = 8192 };

typedef int wrapper_kernel(const uint32_t *in, uint32_t *out, void *stream);

/* out = in, 32 words by each of: load16 + store16, load16_once, load16_policy with evict first and
 * with evict last (32 words each, by 8 threads a way), then store16_once, after a prefetch. */
wrapper_kernel wrapper_loads;
/* 32 words by each of: cp_async16, cp_async16_policy, cp_async_ca<4>, <8>, <16>; then the same five with
 * ok false: zeros. */
wrapper_kernel wrapper_copies;
/* Two groups of 32 words; out[0..31] read after wait<1>, out[32..63] after wait<0>. */
wrapper_kernel wrapper_copy_groups;
/* in: four 8x8 matrices of 16 bits, row after row. out: registers [x1, x2, x4, then trans][lane][n],
 * that is 32, 64, 128, 32, 64, 128 words. */
wrapper_kernel wrapper_ldmatrix;
/* in: A [16][16], B [8][16] (its columns), C [16][8] as f32. out: D [16][8]. */
wrapper_kernel wrapper_mma_bf16, wrapper_mma_f16;
/* in: A [16][32] bytes, B [8][32] bytes, C [16][8] i32. out: D [16][8] i32. */
wrapper_kernel wrapper_mma_s8;
/* 32 threads; out[op * 32 + lane] for each op in the order of test_cuda_wrappers.c. */
wrapper_kernel wrapper_shuffles, wrapper_votes, wrapper_reductions, wrapper_words, wrapper_numbers;
/* 4 blocks of 64 threads on the same counters: out[0..9], in the order of the test. */
wrapper_kernel wrapper_atomics;
/* 96 threads; out[op * 96 + thread]. */
wrapper_kernel wrapper_barriers;
/* 96 threads; 40,000 bytes of static and 60,000 of dynamic shared memory. out[thread] = in[95 - thread]. */
wrapper_kernel wrapper_shared;

#ifdef __cplusplus
}
#endif
#endif
