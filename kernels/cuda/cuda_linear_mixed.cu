/* cuda_linear_mixed.cu - a gated linear whose gate and up have different formats or orders of inputs.
 *
 * As cuda_linear_few.h, for 16 tokens, but the two matrices one after the other, each with its own code and
 * its own inputs. Rare and not fast for many tokens: each 16 of them read the weights again, from L2. The same
 * bits as the others' */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_linear_few.h"

enum {
    MIXED_EIGHTS = 2,
    MIXED_RING_BYTES = 4096, /* of a warp, one tile a stage, any format */
};

template <int format>
CU_DEV void mixed_run(const linear_params &p, const linear_part &part, uint32_t tile, int warp,
                      uint8_t *slots, float (&acc)[MIXED_EIGHTS][1][4]) {
    static_assert(few_ring<format, 1>::warp_bytes <= MIXED_RING_BYTES, "a ring has room");
    const size_t row_bytes = static_cast<size_t>(p.chunks) * cu_format<format>::tile_bytes;
    const uint8_t *from[1] = {part.tiles + tile * row_bytes};
    few_run<format, 1, MIXED_EIGHTS>(part, p.token_count, blockIdx.x * 8 * MIXED_EIGHTS, from,
                                     p.border[warp], p.border[warp + 1], slots, acc);
}

static __global__ void __launch_bounds__(LINEAR_THREADS)
    linear_mixed(const __grid_constant__ linear_params p) {
    CU_DYN_SHARED(uint8_t, shared);
    const int warp = cu_warp_id();
    const linear_pair pair = linear_pair_of(p, blockIdx.y, 1);
    float *sums = reinterpret_cast<float *>(shared + LINEAR_WARPS * MIXED_RING_BYTES);
    uint8_t *slots = shared + warp * MIXED_RING_BYTES;
#pragma unroll 1
    for (int m = 0; m < 2; m++) {
        float acc[MIXED_EIGHTS][1][4] = {};
        const linear_part &part = p.part[m];
        switch (part.format) {
#define MIXED_CASE(name)                                                                           \
    case CUDA_##name:                                                                              \
        mixed_run<CUDA_##name>(p, part, pair.tile[0], warp, slots, acc);                           \
        break;
            MIXED_CASE(BF16)
            MIXED_CASE(C4_HALF)
            MIXED_CASE(C4_HALF_64)
            MIXED_CASE(C4_OFFSET)
            MIXED_CASE(C4_LESS)
            MIXED_CASE(C4_LESS_16)
            MIXED_CASE(C4_STEPS_16)
            MIXED_CASE(C4_ZERO)
            MIXED_CASE(C4_ZERO_64)
            MIXED_CASE(C4_FLOAT_ZERO)
            MIXED_CASE(C8_HALF)
            MIXED_CASE(C8_OFFSET)
            MIXED_CASE(C8_LESS)
            MIXED_CASE(C8_STEPS_16)
            MIXED_CASE(C8_FLOAT_ZERO)
            MIXED_CASE(E4M3_FLOAT)
#undef MIXED_CASE
        default:
            break;
        }
        __syncwarp(); /* the next ring is this one */
        few_keep<1, MIXED_EIGHTS>(sums, warp, m, acc);
    }
    __syncthreads();
    few_finish<MIXED_EIGHTS>(p, pair, sums);
}

int linear_launch_mixed(const linear_params &p, cudaStream_t stream) {
    constexpr int bytes = LINEAR_WARPS * MIXED_RING_BYTES + few_sum_bytes(MIXED_EIGHTS);
    const cudaError_t code =
        cudaFuncSetAttribute(linear_mixed, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (code != cudaSuccess) return code;
    const dim3 grid(cu_ceil(p.token_count, 8 * MIXED_EIGHTS), p.pairs[0]);
    return CU_LAUNCH(linear_mixed, grid, dim3(LINEAR_THREADS), bytes, stream, p);
}
