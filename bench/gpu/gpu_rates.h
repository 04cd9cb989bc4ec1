/* gpu_rates.h - kernels that only measure the device. Launchers return a cudaError_t. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_GPU_RATES_H
#define ESPALIER_GPU_RATES_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    MMA_WARPS = 8,
    MMA_TILES = 16,
    MMA_FLOPS = 2 * 16 * 8 * 16
}; /* of a block; of a warp; of one mma */

/* blocks of MMA_WARPS warps, each of which multiplies `rounds` times MMA_TILES tiles m16n8k16 of bf16 out of
 * registers; out [blocks * MMA_WARPS * 32] keeps the sums from being thrown away. */
int gpu_mma(uint32_t blocks, uint32_t rounds, float *out, void *stream);

/* words [count] = random words whose halves are bf16 from -2 to 2. */
int gpu_fill(uint32_t *words, uint64_t count, uint32_t seed, void *stream);

#ifdef __cplusplus
}
#endif

#endif
