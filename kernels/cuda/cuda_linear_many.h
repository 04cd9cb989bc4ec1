/* cuda_linear_many.h - a linear for many tokens: blocks of 128 rows of weights by 128 tokens.
 *
 * In     weights in tiles, inputs [T,K] bf16, both through a ring of stages of 64 columns
 * Out    [T, N] f32 or bf16
 * Grid   (groups of 128 tokens, groups of four pairs of tiles) x 256 threads; a warp has one pair and 64 tokens.
 *        It goes through the segments of the columns one after the other: what cuda_linear_few.h gives to eight
 *        warps, added in the same order, so that a token's bits do not depend on which of the two it meets
 * Shared many_ring stages of 128 tokens' inputs and eight tiles. A token's 128 bytes are eight words of 16,
 *        word i at i ^ many_swizzle(token): eight lanes that read 16 bytes each of two tokens, or sixteen that
 *        read 8 of four, meet different banks
 * Cost   a warp has two sums of each output in registers (the segment's, the total): 2 x 64 a thread */
// SPDX-License-Identifier: Apache-2.0
#ifndef CUDA_LINEAR_MANY_H
#define CUDA_LINEAR_MANY_H

#include "kernels/cuda/cuda_linear_few.h"

enum {
    MANY_TOKENS = 128,
    MANY_PAIRS = 4,
    MANY_WARP_TOKENS = 64,
    MANY_EIGHTS = MANY_WARP_TOKENS / 8,
    MANY_ROW_BYTES = CUDA_TILE_COLS * 2,
    MANY_INPUT_BYTES = MANY_TOKENS * MANY_ROW_BYTES,
};

template <int format> struct many_ring {
    static constexpr int tile_bytes = cu_format<format>::tile_bytes;
    static constexpr int stage_bytes = MANY_INPUT_BYTES + 2 * MANY_PAIRS * tile_bytes;
    static constexpr int stages = cuda_code_bits(cu_format<format>::codes) == 4 ? 4 : 3;
    static constexpr int bytes = stages * stage_bytes;
};

/* Bits 0 and 1 of a token's number as bits 2 and 1. */
CU_DEV int many_swizzle(int token) { return (token & 1) << 2 | (token & 2); }

/* The inputs of 128 tokens for one tile of columns; beyond the last token or column zeros. */
CU_DEV void many_fetch_inputs(const linear_part &part, uint32_t token_count, uint32_t first,
                              uint32_t col, uint8_t *to) {
    constexpr int step = LINEAR_THREADS / 8; /* tokens; many_swizzle has them alike */
    const int token = threadIdx.x / 8, word = threadIdx.x % 8;
    const bool inside = col + word * 8 < part.in_cols;
    const uint16_t *from =
        part.in + static_cast<size_t>(first + token) * part.in_stride + col + word * 8;
    to += token * MANY_ROW_BYTES + (word ^ many_swizzle(token)) * 16;
#pragma unroll
    for (int i = 0; i < MANY_TOKENS / step; i++) {
        const bool live = inside && first + token + i * step < token_count;
        cu_cp_async16(to + i * step * MANY_ROW_BYTES, live ? from : part.in, live);
        from += static_cast<size_t>(step) * part.in_stride;
    }
}

/* A tile of a block's eight. */
template <int format> CU_DEV void many_fetch_tile(const uint8_t *tile, uint8_t *to) {
    constexpr int bytes = many_ring<format>::tile_bytes;
    const int lane = cu_lane();
#pragma unroll
    for (int at = 0; at < bytes; at += 512)
        if (at + 512 <= bytes || at + lane * 16 < bytes)
            cu_cp_async16(to + at + lane * 16, tile + at + lane * 16);
}

/* A lane's inputs of a half, of its token among the eight that begin at `token`. */
template <int format>
CU_DEV void many_inputs(const uint8_t *inputs, int token, int half, int lane, uint32_t (&x)[4]) {
    token += lane / 4;
    const uint8_t *row = inputs + token * MANY_ROW_BYTES;
    const int at0 = half * 64 + 2 * linear_input_at<format>(lane % 4, 0);
    const int at1 = half * 64 + 2 * linear_input_at<format>(lane % 4, 1);
    const int word0 = (at0 / 16 ^ many_swizzle(token)) * 16;
    const int word1 = (at1 / 16 ^ many_swizzle(token)) * 16;
    if (cu_format<format>::run == 16) {
        const uint2 v = *reinterpret_cast<const uint2 *>(row + word0 + at0 % 16);
        const uint2 w = *reinterpret_cast<const uint2 *>(row + word1 + at1 % 16);
        x[0] = v.x, x[1] = v.y, x[2] = w.x, x[3] = w.y;
    } else {
        const uint4 v = cu_load16(row + word0);
        x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
    }
}

/* One stage: a warp's pair of tiles against its tokens. */
template <int format>
CU_DEV void many_add(const uint8_t *stage, int pair, int token, float (&acc)[MANY_EIGHTS][2][4]) {
    const int lane = cu_lane();
    const uint8_t *tiles = stage + MANY_INPUT_BYTES + pair * 2 * many_ring<format>::tile_bytes;
#pragma unroll 1
    for (int h = 0; h < 2; h++) {
        linear_half<format, 2> half;
#pragma unroll
        for (int m = 0; m < 2; m++)
            half.load(m, tiles + m * many_ring<format>::tile_bytes, h, lane);
#pragma unroll
        for (int i = 0; i < MANY_EIGHTS; i++) {
            uint32_t x[4];
            many_inputs<format>(stage, token + 8 * i, h, lane, x);
            half.add(acc[i], x);
        }
    }
}

CU_DEV void many_close_segment(float (&acc)[MANY_EIGHTS][2][4], float (&total)[MANY_EIGHTS][2][4]) {
#pragma unroll
    for (int i = 0; i < MANY_EIGHTS; i++)
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                total[i][m][j] = __fadd_rn(total[i][m][j], acc[i][m][j]);
                acc[i][m][j] = 0;
            }
}

CU_DEV void many_finish(const linear_params &p, const linear_pair &pair, uint32_t token,
                        const float (&y)[MANY_EIGHTS][2][4]) {
    const int g = cu_lane() / 4, t = cu_lane() % 4;
#pragma unroll
    for (int i = 0; i < MANY_EIGHTS; i++)
#pragma unroll
        for (int odd = 0; odd < 2; odd++) {
            const uint32_t at = token + 8 * i + 2 * t + odd;
            if (p.gated) {
                const float gate[2] = {y[i][0][odd], y[i][0][odd + 2]};
                const float up[2] = {y[i][1][odd], y[i][1][odd + 2]};
                linear_finish_gated(p, at, pair.tile[0] * 16 + 2 * g, gate, up);
                continue;
            }
#pragma unroll
            for (int m = 0; m < 2; m++)
                linear_finish(p, pair.part[0], at, pair.tile[m] * 16 + 2 * g, y[i][m][odd],
                              y[i][m][odd + 2]);
        }
}

template <int format>
__global__ void __launch_bounds__(LINEAR_THREADS, 1)
    linear_many(const __grid_constant__ linear_params p) {
    CU_DYN_SHARED(uint8_t, shared);
    using ring = many_ring<format>;
    const int warp = cu_warp_id(), own = warp % MANY_PAIRS;
    const uint32_t first = blockIdx.x * MANY_TOKENS;
    const linear_pair pair = linear_pair_of(p, blockIdx.y * MANY_PAIRS + own, MANY_PAIRS);
    const linear_part &part = p.part[pair.part[0]];
    /* Each warp fetches one tile of the eight, out of its own pair. */
    const int side = warp / MANY_PAIRS;
    const uint8_t *from = side ? linear_tiles(p, pair.part[1], pair.tile[1], ring::tile_bytes)
                               : linear_tiles(p, pair.part[0], pair.tile[0], ring::tile_bytes);
    const int tile_at = MANY_INPUT_BYTES + (own * 2 + side) * ring::tile_bytes;
    float acc[MANY_EIGHTS][2][4] = {}, total[MANY_EIGHTS][2][4] = {};
    const auto fetch = [&](uint32_t chunk, uint8_t *stage) {
        many_fetch_inputs(part, p.token_count, first, chunk * CUDA_TILE_COLS, stage);
        many_fetch_tile<format>(from + static_cast<size_t>(chunk) * ring::tile_bytes,
                                stage + tile_at);
    };
#pragma unroll
    for (int s = 0; s < ring::stages - 1; s++) {
        if (static_cast<uint32_t>(s) < p.chunks) fetch(s, shared + s * ring::stage_bytes);
        cu_cp_async_commit();
    }
    int slot = 0;
    uint32_t border = p.segment;
    for (uint32_t c = 0; c < p.chunks; c++) {
        if (c == border) {
            many_close_segment(acc, total);
            border += p.segment;
        }
        cu_cp_async_wait<ring::stages - 2>();
        __syncthreads(); /* the stage is here; all are done with the one before it */
        const int before = (slot == 0 ? ring::stages : slot) - 1, ahead = ring::stages - 1;
        if (c + ahead < p.chunks) fetch(c + ahead, shared + before * ring::stage_bytes);
        cu_cp_async_commit();
        many_add<format>(shared + slot * ring::stage_bytes, own, side * MANY_WARP_TOKENS, acc);
        slot = slot + 1 == ring::stages ? 0 : slot + 1;
    }
    cu_cp_async_wait<0>();
    many_close_segment(acc, total);
    many_finish(p, pair, first + side * MANY_WARP_TOKENS, total);
}

template <int format> int linear_many_launch(const linear_params &p, cudaStream_t stream) {
    constexpr int bytes = many_ring<format>::bytes;
    const cudaError_t code = cudaFuncSetAttribute(
        linear_many<format>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (code != cudaSuccess) return code;
    uint32_t groups = cu_ceil(p.pairs[0], MANY_PAIRS);
    for (uint32_t i = 1; i < p.part_count && !p.gated; i++)
        groups += cu_ceil(p.pairs[i], MANY_PAIRS);
    const dim3 grid(cu_ceil(p.token_count, MANY_TOKENS), groups);
    return CU_LAUNCH((linear_many<format>), grid, dim3(LINEAR_THREADS), bytes, stream, p);
}

/* All shapes of a format; for the files that have one kind of codes each. */
template <int format>
int linear_launch(const linear_params &p, linear_shape shape, cudaStream_t stream) {
    switch (shape) {
    case LINEAR_8:
        return linear_few_launch<format, 1>(p, stream);
    case LINEAR_16:
        return linear_few_launch<format, 2>(p, stream);
    case LINEAR_32:
        return linear_few_launch<format, 4>(p, stream);
    default:
        return linear_many_launch<format>(p, stream);
    }
}

#endif
