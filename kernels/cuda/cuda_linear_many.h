/* cuda_linear_many.h - a linear for many tokens: blocks of 128 rows of weights by 128 tokens.
 *
 * In     weights in tiles, inputs [T,K] bf16, both through a ring of stages of 64 columns
 * Out    [T, N] f32 or bf16
 * Grid   (groups of 128 tokens, groups of four pairs of tiles) x 256 threads; a warp has one pair and 64 tokens.
 *        It goes through the segments of the columns one after the other: what cuda_linear_few.h gives to eight
 *        warps, added in the same order, so that a token's bits do not depend on which of the two it meets
 * Shared many_ring stages of 128 tokens' inputs and eight tiles; where a format has offsets also the inputs' sums
 *        over the runs of a stage, of which each warp makes a quarter of those that its tokens need. At the end
 *        the outputs take the ring's place, to leave in whole lines.
 *        A token's 128 bytes are eight words of 16, word i at i ^ many_swizzle(token): eight lanes that read 16
 *        bytes each of two tokens, or sixteen that read 8 of four, meet different banks
 * Cost   a warp has two sums of each output in registers (the segment's, the total): 2 x 64 a thread. In a tree
 *        of eight segments totals have to wait three times for their other half, two of them at once: in shared
 *        memory where there is room behind the ring (sm_90 for both, sm_80 for one), else in device memory */
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
    MANY_TOKEN_STRIDE =
        MANY_PAIRS * 32 + 4, /* floats of a token's totals: lanes meet other banks */
    MANY_RING_MAX = 3 * (MANY_INPUT_BYTES + 2 * MANY_PAIRS * 2048), /* of all formats: bf16's */
    MANY_LEVEL_BYTES = MANY_TOKENS * MANY_PAIRS * 32 * 4,           /* of a block's totals */
    MANY_LEVELS_MAX = 2, /* totals that wait for others, in a tree of eight */
};

template <int format> struct many_ring {
    static constexpr int tile_bytes = cu_format<format>::tile_bytes;
    static constexpr int stage_bytes = MANY_INPUT_BYTES + 2 * MANY_PAIRS * tile_bytes;
    static constexpr int stages = cuda_code_bits(cu_format<format>::codes) == 4 ? 4 : 3;
    static constexpr int run_count = 2 * cu_format<format>::runs; /* of a stage */
    static constexpr int sum_bytes = cu_format<format>::offset ? run_count * MANY_TOKENS * 4 : 0;
    static constexpr int bytes = stages * stage_bytes + sum_bytes;
    static_assert(bytes >= MANY_TOKENS * MANY_TOKEN_STRIDE * 4, "the outputs take its place");
    static_assert(bytes <= MANY_RING_MAX, "levels lie behind it");
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

/* The sums of a quarter of a warp's tokens, [run of the stage][token of the block]. */
template <int format>
CU_DEV void many_sum(const uint8_t *stage, int quarter, int token, float *sums) {
    constexpr int runs = cu_format<format>::runs, eights = MANY_EIGHTS / MANY_PAIRS;
    const int lane = cu_lane();
#pragma unroll
    for (int i = 0; i < eights; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int first = token + 8 * (quarter * eights + i);
            uint32_t x[4];
            float sum[runs][2];
            many_inputs<format>(stage, first, h, lane, x);
            linear_sums<format>(x, sum);
#pragma unroll
            for (int r = 0; r < runs; r++)
                if (lane < 4) /* the other lanes have the same */
                    *reinterpret_cast<float2 *>(sums + (h * runs + r) * MANY_TOKENS + first +
                                                2 * lane) = make_float2(sum[r][0], sum[r][1]);
        }
}

/* One stage: a warp's pair of tiles against its tokens. */
template <int format>
CU_DEV void many_add(const uint8_t *stage, const float *sums, int pair, int token,
                     float (&acc)[MANY_EIGHTS][2][4]) {
    constexpr int runs = cu_format<format>::runs, tile_bytes = many_ring<format>::tile_bytes;
    const int lane = cu_lane();
    const uint8_t *tiles = stage + MANY_INPUT_BYTES + pair * 2 * tile_bytes;
    sums += token + 2 * (lane % 4);
#pragma unroll 1 /* both halves at once would not fit into registers */
    for (int h = 0; h < 2; h++) {
        linear_half<format, 2> half;
#pragma unroll
        for (int m = 0; m < 2; m++)
            half.load(m, tiles + m * tile_bytes, h, lane);
#pragma unroll
        for (int i = 0; i < MANY_EIGHTS; i++) {
            uint32_t x[4];
            float sum[runs][2] = {};
            many_inputs<format>(stage, token + 8 * i, h, lane, x);
#pragma unroll
            for (int r = 0; cu_format<format>::offset && r < runs; r++) {
                const float2 v =
                    *reinterpret_cast<const float2 *>(sums + (h * runs + r) * MANY_TOKENS + 8 * i);
                sum[r][0] = v.x, sum[r][1] = v.y;
            }
            half.add(acc[i], x, sum);
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

/* Where a thread's total of a level waits: 16 times 16 bytes, each beside those of the block's other threads. */
CU_DEV uint8_t *many_level(const linear_params &p, uint8_t *on_chip, uint32_t level) {
    const size_t blocks = static_cast<size_t>(gridDim.x) * gridDim.y;
    const size_t block = static_cast<size_t>(blockIdx.y) * gridDim.x + blockIdx.x;
    uint8_t *at = level < p.levels_on_chip
                      ? on_chip + level * MANY_LEVEL_BYTES
                      : p.stack + ((level - p.levels_on_chip) * blocks + block) * MANY_LEVEL_BYTES;
    return at + threadIdx.x * sizeof(float4);
}

CU_DEV void many_push(uint8_t *to, float (&total)[MANY_EIGHTS][2][4]) {
#pragma unroll
    for (int i = 0; i < MANY_EIGHTS; i++)
#pragma unroll
        for (int m = 0; m < 2; m++) {
            float(&y)[4] = total[i][m];
            *reinterpret_cast<float4 *>(to + (2 * i + m) * LINEAR_THREADS * sizeof(float4)) =
                make_float4(y[0], y[1], y[2], y[3]);
            y[0] = y[1] = y[2] = y[3] = 0;
        }
}

CU_DEV void many_pop(const uint8_t *from, float (&total)[MANY_EIGHTS][2][4]) {
#pragma unroll
    for (int i = 0; i < MANY_EIGHTS; i++)
#pragma unroll
        for (int m = 0; m < 2; m++) {
            float(&y)[4] = total[i][m];
            const float4 v = *reinterpret_cast<const float4 *>(from + (2 * i + m) * LINEAR_THREADS *
                                                                          sizeof(float4));
            y[0] = __fadd_rn(v.x, y[0]), y[1] = __fadd_rn(v.y, y[1]);
            y[2] = __fadd_rn(v.z, y[2]), y[3] = __fadd_rn(v.w, y[3]);
        }
}

/* A segment is done. In a tree one of an even number begins a node, so that the total waits for it; one of an odd
 * number ends as many nodes as it has ones at its end. */
CU_DEV void many_end_segment(const linear_params &p, uint32_t segment, uint8_t *on_chip,
                             uint32_t &level, float (&acc)[MANY_EIGHTS][2][4],
                             float (&total)[MANY_EIGHTS][2][4]) {
    if (p.tree && segment % 2 == 0 && segment > 0)
        many_push(many_level(p, on_chip, level++), total);
    many_close_segment(acc, total);
    if (p.tree && segment % 2 == 1)
#pragma unroll 1
        for (uint32_t ones = segment / 2; ones % 2; ones /= 2)
            many_pop(many_level(p, on_chip, --level), total);
}

/* A warp's totals to shared memory, [token of the block][row of the block]. */
CU_DEV void many_keep(float *sums, int pair, int token, const float (&y)[MANY_EIGHTS][2][4]) {
    const int g = cu_lane() / 4, t = cu_lane() % 4;
    sums += (token + 2 * t) * MANY_TOKEN_STRIDE + pair * 32 + 2 * g;
#pragma unroll
    for (int i = 0; i < MANY_EIGHTS; i++)
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int odd = 0; odd < 2; odd++)
                *reinterpret_cast<float2 *>(sums + (8 * i + odd) * MANY_TOKEN_STRIDE + m * 16) =
                    make_float2(y[i][m][odd], y[i][m][odd + 2]);
}

/* All outputs of the block; first: its first pair of tiles. */
CU_DEV void many_finish(const linear_params &p, const linear_pair &first, const float *sums) {
    const uint32_t row0 = first.tile[0] * CUDA_TILE_ROWS, token0 = blockIdx.x * MANY_TOKENS;
    const int rows = p.gated ? 8 * MANY_PAIRS : 16 * MANY_PAIRS; /* pairs of rows */
#pragma unroll 1
    for (int e = threadIdx.x; e < rows * MANY_TOKENS; e += LINEAR_THREADS) {
        const int row = e % rows * 2, token = e / rows;
        const float *at = sums + token * MANY_TOKEN_STRIDE;
        if (p.gated) {
            at += row / 16 * 32 + row % 16;
            const float gate[2] = {at[0], at[1]}, up[2] = {at[16], at[17]};
            linear_finish_gated(p, token0 + token, row0 + row, gate, up);
        } else {
            linear_finish(p, first.part[0], token0 + token, row0 + row, at[row], at[row + 1]);
        }
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
    float *sums = reinterpret_cast<float *>(shared + ring::stages * ring::stage_bytes);
    int slot = 0;
    uint32_t c = 0, level = 0;
#pragma unroll 1
    for (uint32_t segment = 0; segment < p.segments; segment++) {
        for (const uint32_t border = p.border[segment + 1]; c < border; c++) {
            cu_cp_async_wait<ring::stages - 2>();
            __syncthreads(); /* the stage is here; all are done with the one before it */
            const int before = (slot == 0 ? ring::stages : slot) - 1, ahead = ring::stages - 1;
            if (c + ahead < p.chunks) fetch(c + ahead, shared + before * ring::stage_bytes);
            cu_cp_async_commit();
            const uint8_t *stage = shared + slot * ring::stage_bytes;
            if (cu_format<format>::offset) {
                many_sum<format>(stage, own, side * MANY_WARP_TOKENS, sums);
                __syncthreads();
            }
            many_add<format>(stage, sums, own, side * MANY_WARP_TOKENS, acc);
            slot = slot + 1 == ring::stages ? 0 : slot + 1;
        }
        many_end_segment(p, segment, shared + ring::bytes, level, acc, total);
    }
    cu_cp_async_wait<0>();
    __syncthreads(); /* the ring is done with */
    float *outputs = reinterpret_cast<float *>(shared);
    many_keep(outputs, own, side * MANY_WARP_TOKENS, total);
    __syncthreads();
    many_finish(p, linear_pair_of(p, blockIdx.y * MANY_PAIRS, MANY_PAIRS), outputs);
}

template <int format> int linear_many_launch(const linear_params &p, cudaStream_t stream) {
    const int levels = static_cast<int>(p.levels_on_chip) * MANY_LEVEL_BYTES;
    const int bytes = many_ring<format>::bytes + levels;
    const cudaError_t code = cudaFuncSetAttribute(
        linear_many<format>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (code != cudaSuccess) return code;
    uint32_t groups = cu_ceil(p.pairs[0], MANY_PAIRS);
    for (uint32_t i = 1; i < p.part_count && !p.gated; i++)
        groups += cu_ceil(p.pairs[i], MANY_PAIRS);
    const dim3 grid(cu_ceil(p.token_count, MANY_TOKENS), groups);
    return CU_LAUNCH((linear_many<format>), grid, dim3(LINEAR_THREADS), bytes, stream, p);
}

/* Formats that few have: their few tokens are always 32. */
constexpr bool linear_is_rare(int format) {
    return format == CUDA_C4_LESS_16 || format == CUDA_C4_STEPS_16 ||
           format == CUDA_C4_FLOAT_ZERO || format == CUDA_C8_OFFSET || format == CUDA_C8_FLOAT_ZERO;
}

/* All shapes of a format; for the files that have one kind of codes each. */
template <int format>
int linear_launch(const linear_params &p, linear_shape shape, cudaStream_t stream) {
    if (shape == LINEAR_128) return linear_many_launch<format>(p, stream);
    if constexpr (!linear_is_rare(format)) {
        if (shape == LINEAR_8) return linear_few_launch<format, 1>(p, stream);
        if (shape == LINEAR_16) return linear_few_launch<format, 2>(p, stream);
    }
    return linear_few_launch<format, 4>(p, stream);
}

#endif
