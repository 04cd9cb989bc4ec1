/* cuda_linear_run.h - the sums of a linear: some tiles of weights against some tokens, column after column. */
// SPDX-License-Identifier: Apache-2.0
#ifndef CUDA_LINEAR_RUN_H
#define CUDA_LINEAR_RUN_H

#include "kernels/cuda/cuda_linear_part.h"

/* What makes sums of x as an operand of mma: ones, or -16 where a format is biased. */
template <int format>
constexpr uint32_t linear_one = cu_format<format>::biased ? 0xc180c180u : 0x3f803f80u;

/* Those sums over the runs of a half, of eight tokens: a lane has its two tokens' twice, as the accumulators of mma have
 * them. ones: four of linear_one. */
template <int format>
CU_DEV void linear_sums(const uint32_t (&ones)[4], const uint32_t (&x)[4],
                        float (&sums)[cu_format<format>::runs][4]) {
    constexpr int runs = cu_format<format>::runs;
    const float none[4] = {0, 0, 0, 0};
#pragma unroll
    for (int r = 0; r < runs; r++) {
        constexpr int steps = 2 / runs;
        const int first = r * steps;
        cu_mma_bf16(sums[r], ones, {x[2 * first], x[2 * first + 1]}, none);
        if constexpr (steps == 2) cu_mma_bf16(sums[r], ones, {x[2], x[3]}, sums[r]);
    }
}

/* Half a tile of each of `tiles` rows of tiles, ready to be multiplied. */
template <int format, int tiles> struct linear_half {
    using f = cu_format<format>;
    uint32_t a[tiles][2][4];
    float scale[tiles][f::runs][2], offset[tiles][f::runs][2];

    __device__ __forceinline__ void load(int m, const uint8_t *tile, int half, int lane,
                                         const cu_scales<format> &scales) {
        cu_load_operands<format>(tile, half, lane, a[m]);
#pragma unroll
        for (int r = 0; f::scaled && r < f::runs; r++)
#pragma unroll
            for (int row = 0; row < 2; row++)
                scales.of(r, row, scale[m][r][row], offset[m][r][row]);
    }

    /* To the sums of tile m. x: the lane's of eight tokens, both steps; sums: of their runs, in formats with an
     * offset. */
    __device__ __forceinline__ void add(int m, float (&acc)[4], const uint32_t (&x)[4],
                                        const float (&sums)[f::runs][4]) const {
        if constexpr (f::scaled) {
#pragma unroll
            for (int r = 0; r < f::runs; r++)
                add_run(acc, m, r, x, sums[r]);
        } else {
#pragma unroll
            for (int s = 0; s < 2; s++)
                cu_mma_bf16(acc, a[m][s], {x[2 * s], x[2 * s + 1]}, acc);
        }
    }

    __device__ __forceinline__ void add_run(float (&acc)[4], int m, int r, const uint32_t (&x)[4],
                                            const float (&sums)[4]) const {
        constexpr int steps = 2 / f::runs;
        const int first = r * steps;
        const float none[4] = {0, 0, 0, 0};
        float p[4];
        cu_mma_bf16(p, a[m][first], {x[2 * first], x[2 * first + 1]}, f::biased ? sums : none);
        if constexpr (steps == 2) cu_mma_bf16(p, a[m][1], {x[2], x[3]}, p);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            acc[i] = __fmaf_rn(scale[m][r][i / 2], p[i], acc[i]);
            if (f::offset) acc[i] = __fmaf_rn(offset[m][r][i / 2], sums[i], acc[i]);
        }
    }
};

/* Where a lane's inputs of a half lie from the half's first column on: two pieces of 8 bytes each. */
template <int format> CU_DEV uint32_t linear_input_at(int t, int piece) {
    return cu_format<format>::run == 16 ? 4u * t + 16u * piece : 8u * t + 4u * piece;
}

#endif
