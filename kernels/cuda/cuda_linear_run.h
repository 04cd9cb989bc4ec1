/* cuda_linear_run.h - the sums of a linear: some tiles of weights against some tokens, column after column. */
// SPDX-License-Identifier: Apache-2.0
#ifndef CUDA_LINEAR_RUN_H
#define CUDA_LINEAR_RUN_H

#include "kernels/cuda/cuda_linear_part.h"

/* The sums of x over the runs of a half, of the lane's two tokens among eight: mma with ones, from 0. */
template <int format>
CU_DEV void linear_sums(const uint32_t (&x)[4], float (&sums)[cu_format<format>::runs][2]) {
    constexpr int runs = cu_format<format>::runs;
    const uint32_t ones[4] = {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u};
#pragma unroll
    for (int r = 0; r < runs; r++) {
        float sum[4] = {0, 0, 0, 0};
#pragma unroll
        for (int s = r; s < r + 2 / runs; s++)
            cu_mma_bf16(sum, ones, {x[2 * s], x[2 * s + 1]}, sum);
        sums[r][0] = sum[0];
        sums[r][1] = sum[1];
    }
}

/* Half a tile of each of `tiles` rows of tiles, ready to be multiplied. */
template <int format, int tiles> struct linear_half {
    using f = cu_format<format>;
    uint32_t a[tiles][2][4];
    float scale[tiles][f::runs][2], offset[tiles][f::runs][2];

    __device__ __forceinline__ void load(int m, const uint8_t *tile, int half, int lane) {
        const uint8_t *scales = tile + f::code_bytes + lane / 4 * 2 * f::row_scales;
        cu_load_operands<format>(tile, half, lane, a[m]);
#pragma unroll
        for (int r = 0; f::scaled && r < f::runs; r++)
#pragma unroll
            for (int row = 0; row < 2; row++)
                cu_read_scale<format>(scales + row * f::row_scales,
                                      f::run == 64 ? 0 : half * f::runs + r, scale[m][r][row],
                                      offset[m][r][row]);
    }

    /* x: the lane's of eight tokens, both steps; sums: of their runs, in formats with an offset. */
    __device__ __forceinline__ void add(float (&acc)[tiles][4], const uint32_t (&x)[4],
                                        const float (&sums)[f::runs][2]) const {
        if constexpr (f::scaled) {
#pragma unroll
            for (int r = 0; r < f::runs; r++)
#pragma unroll
                for (int m = 0; m < tiles; m++)
                    add_run(acc[m], m, r, x, sums[r]);
        } else {
#pragma unroll
            for (int s = 0; s < 2; s++)
#pragma unroll
                for (int m = 0; m < tiles; m++)
                    cu_mma_bf16(acc[m], a[m][s], {x[2 * s], x[2 * s + 1]}, acc[m]);
        }
    }

    __device__ __forceinline__ void add_run(float (&acc)[4], int m, int r, const uint32_t (&x)[4],
                                            const float (&sums)[2]) const {
        float p[4] = {0, 0, 0, 0};
#pragma unroll
        for (int s = r; s < r + 2 / f::runs; s++)
            cu_mma_bf16(p, a[m][s], {x[2 * s], x[2 * s + 1]}, p);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            acc[i] = __fmaf_rn(scale[m][r][i / 2], p[i], acc[i]);
            if (f::offset) acc[i] = __fmaf_rn(offset[m][r][i / 2], sums[i % 2], acc[i]);
        }
    }
};

/* Where a lane's inputs of a half lie from the half's first column on: two pieces of 8 bytes each. */
template <int format> CU_DEV uint32_t linear_input_at(int t, int piece) {
    return cu_format<format>::run == 16 ? 4u * t + 16u * piece : 8u * t + 4u * piece;
}

#endif
