/* gpu_rates.cu - what a device can multiply at most with mma.sync, and random numbers made where they are wanted.
 *
 * gpu_mma   out[thread] = sum over its accumulators of `rounds` products
 * Grid      (blocks) x 256 threads; enough independent accumulators a warp to fill the pipe
 * Units     MMA_FLOPS operations an instruction
 * Needs     sm_80 up
 * Cost      rounds * MMA_TILES * MMA_WARPS * blocks instructions, no memory traffic
 *
 * gpu_fill  a word at index i is a hash of i and the seed, exponents bounded */
// SPDX-License-Identifier: Apache-2.0
#include "bench/gpu/gpu_rates.h"

#include "kernels/cuda/cu.h"

static __global__ void mma_rate(uint32_t rounds, float *out) {
    uint32_t a[4], b[2];
    float sums[MMA_TILES][4] = {};
    for (int i = 0; i < 4; i++)
        a[i] = 0x3f803f80u + threadIdx.x; /* about 1, and not known to the compiler */
    for (int i = 0; i < 2; i++)
        b[i] = 0x3f803f80u - threadIdx.x;
    for (uint32_t round = 0; round < rounds; round++)
#pragma unroll
        for (int tile = 0; tile < MMA_TILES; tile++)
            cu_mma_bf16(sums[tile], a, b, sums[tile]);
    float sum = 0;
#pragma unroll
    for (int tile = 0; tile < MMA_TILES; tile++)
        for (int i = 0; i < 4; i++)
            sum += sums[tile][i];
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

extern "C" int gpu_mma(uint32_t blocks, uint32_t rounds, float *out, void *stream) {
    return CU_LAUNCH(mma_rate, dim3(blocks), dim3(MMA_WARPS * 32), 0,
                     static_cast<cudaStream_t>(stream), rounds, out);
}

static __global__ void fill_words(uint32_t *words, uint64_t count, uint32_t seed) {
    const uint64_t stride = static_cast<uint64_t>(gridDim.x) * blockDim.x;
    for (uint64_t i = blockIdx.x * static_cast<uint64_t>(blockDim.x) + threadIdx.x; i < count;
         i += stride) {
        uint32_t word = (static_cast<uint32_t>(i) ^ seed) * 2654435761u;
        word = (word ^ word >> 15) * 2246822519u;
        word ^= word >> 13;
        words[i] = (word & 0x80ff80ffu) | 0x3f003f00u; /* signs, low exponent bit and fractions */
    }
}

extern "C" int gpu_fill(uint32_t *words, uint64_t count, uint32_t seed, void *stream) {
    const uint64_t blocks = (count + 255) / 256;
    return CU_LAUNCH(fill_words, dim3(static_cast<unsigned>(blocks < 4096 ? blocks : 4096)),
                     dim3(256), 0, static_cast<cudaStream_t>(stream), words, count, seed);
}
