/* cuda_linear_few.h - a linear for few tokens: every warp a segment of the columns.
 *
 * In     weights in tiles, streamed once through a ring of each warp's own; inputs [T,K] bf16 straight from
 *        memory (they are in L1 or L2) into registers
 * Out    [T, N] f32 or bf16
 * Grid   (groups of 8 * n tokens, pairs of tiles) x 256 threads; warp w sums segment w of the columns, then
 *        the segments' sums are added in order or as a tree. A rank's part of a tree has half the segments or
 *        less: then a warp has one tile of the pair, and twice the stages
 * Shared a ring of few_ring::stages stages for each warp; the sums of the segments take its place at the end
 * Cost   the weights' bytes: no barrier until the end, 32 to 64 KiB in flight in each multiprocessor */
// SPDX-License-Identifier: Apache-2.0
#ifndef CUDA_LINEAR_FEW_H
#define CUDA_LINEAR_FEW_H

#include "kernels/cuda/cuda_linear_run.h"

enum {
    FEW_TOKEN_STRIDE =
        36 /* floats of a token's sums of 32 rows: lanes t and t + 1 meet other banks */
};

/* How tiles go through a ring; deep: how many times as many stages. */
template <int format, int tiles, int deep = 1> struct few_ring {
    using f = cu_format<format>;
    /* Whole weights take half a tile a stage: a tile of 2 KiB would cost a block its neighbour. */
    static constexpr int halves = f::codes == CODES_BF16 ? 1 : 2;
    static constexpr int cols = 32 * halves;
    static constexpr int tile_bytes = f::tile_bytes * halves / 2; /* of a stage */
    static constexpr int stages = deep * (cuda_code_bits(f::codes) == 8 ? 3 : 4);
    static constexpr int warp_bytes = stages * tiles * tile_bytes;
};

constexpr int few_sum_bytes(int n) {
    return LINEAR_SEGMENTS * 8 * n * FEW_TOKEN_STRIDE * static_cast<int>(sizeof(float));
}

/* A lane's inputs of a stage, from column col on; rows: of its tokens. Beyond the last column it reads others,
 * which meet weights of 0. */
template <int format, int n, int halves>
CU_DEV void few_inputs(const uint16_t *const (&rows)[n], uint32_t cols, uint32_t col, int t,
                       uint32_t (&x)[n][halves][4]) {
#pragma unroll
    for (int h = 0; h < halves; h++) {
        const uint32_t at0 = col + 32 * h + linear_input_at<format>(t, 0);
        const uint32_t at1 = col + 32 * h + linear_input_at<format>(t, 1);
#pragma unroll
        for (int i = 0; i < n; i++)
            if constexpr (cu_format<format>::run == 16) {
                const uint2 v = *reinterpret_cast<const uint2 *>(rows[i] + min(at0, cols - 4));
                const uint2 w = *reinterpret_cast<const uint2 *>(rows[i] + min(at1, cols - 4));
                x[i][h][0] = v.x, x[i][h][1] = v.y, x[i][h][2] = w.x, x[i][h][3] = w.y;
            } else {
                const uint4 v = cu_load16(rows[i] + min(at0, cols - 8));
                x[i][h][0] = v.x, x[i][h][1] = v.y, x[i][h][2] = v.z, x[i][h][3] = v.w;
            }
    }
}

/* How a stage comes in. Codes of each tile in whole lines, a word of 16 bytes a lane; then the scales of all tiles at
 * once, of which a tile has at most 16 words. */
template <int format, int tiles> struct few_stream {
    static constexpr int bytes = few_ring<format, tiles>::tile_bytes;
    static constexpr int codes = bytes / 512 * 512, scales = bytes % 512, words = scales / 16;
    static_assert(words * tiles <= 32, "a word each lane");
    const uint8_t *from[tiles]; /* the lane's next codes */
    const uint8_t *scales_from; /* its next scales */
    uint32_t scales_to;         /* where they belong in a stage */
    bool has_scales;
    uint64_t once;

    /* tile: rows of tiles, `at` bytes on. */
    __device__ __forceinline__ few_stream(const uint8_t *const (&tile)[tiles], size_t at,
                                          int lane) {
        const int of = words ? lane / (words ? words : 1) : 0, word = lane - of * words;
#pragma unroll
        for (int m = 0; m < tiles; m++)
            from[m] = cu_opaque(tile[m] + at + lane * 16);
        scales_from = cu_opaque((of == 0 ? tile[0] : tile[tiles - 1]) + at + codes + word * 16);
        scales_to = static_cast<uint32_t>(of * bytes + codes + word * 16);
        has_scales = lane < words * tiles;
        once = cu_evict_first();
    }

    /* The next stage to `stage`. */
    __device__ __forceinline__ void fetch(uint8_t *stage, int lane) {
#pragma unroll
        for (int m = 0; m < tiles; m++) {
#pragma unroll
            for (int at = 0; at < codes; at += 512)
                cu_cp_async16_policy(stage + m * bytes + at + lane * 16, from[m] + at, true, once);
            from[m] += bytes;
        }
        if (words == 0) return;
        if (has_scales) cu_cp_async16_policy(stage + scales_to, scales_from, true, once);
        scales_from += bytes;
    }
};

template <int format, int tiles, int n>
CU_DEV void few_add(const uint8_t *slot,
                    const uint32_t (&x)[n][few_ring<format, tiles>::halves][4], int lane,
                    const uint32_t (&ones)[4], float (&acc)[n][tiles][4]) {
    using ring = few_ring<format, tiles>;
    constexpr int runs = cu_format<format>::runs;
    float sums[n][ring::halves][runs][4] = {};
#pragma unroll
    for (int i = 0; cu_format<format>::offset && i < n; i++)
#pragma unroll
        for (int h = 0; h < ring::halves; h++)
            linear_sums<format>(ones, x[i][h], sums[i][h]);
#pragma unroll
    for (int m = 0; m < tiles; m++) {
        cu_scales<format> scales[2];
        cu_load_scales<format>(slot + m * ring::tile_bytes, lane, scales);
#pragma unroll
        for (int h = 0; h < ring::halves; h++) {
            linear_half<format, 1> half;
            half.load(0, slot + m * ring::tile_bytes, h, lane, scales[h]);
#pragma unroll
            for (int i = 0; i < n; i++)
                half.add(0, acc[i][m], x[i][h], sums[i][h]);
        }
    }
}

/* A warp's sums over the tiles [begin, end) of the columns; `begin` may be `end`. tile: the rows of tiles; token:
 * the first of the block's. Tokens beyond the last are the last one again, and not stored. */
template <int format, int tiles, int n, int deep = 1>
CU_DEV void few_run(const linear_part &part, uint32_t token_count, uint32_t token,
                    const uint8_t *const (&tile)[tiles], uint32_t begin, uint32_t end,
                    uint8_t *slots, float (&acc)[n][tiles][4]) {
    using ring = few_ring<format, tiles, deep>;
    constexpr int stage_bytes = tiles * ring::tile_bytes, last = (ring::stages - 1) * stage_bytes;
    const int lane = cu_lane();
    const uint16_t *rows[n];
    begin *= 2 / ring::halves;
    end *= 2 / ring::halves;
    few_stream<format, tiles> stream(tile, static_cast<size_t>(begin) * ring::tile_bytes, lane);
#pragma unroll
    for (int i = 0; i < n; i++)
        rows[i] = cu_opaque(part.in +
                            static_cast<size_t>(min(token + lane / 4 + 8 * i, token_count - 1)) *
                                part.in_stride);
#pragma unroll
    for (int s = 0; s < ring::stages - 1; s++) {
        if (begin + s < end) stream.fetch(slots + s * stage_bytes, lane);
        cu_cp_async_commit();
    }
    constexpr uint32_t one = linear_one<format>;
    const uint32_t ones[4] = {cu_kept(one, 0), cu_kept(one, 1), cu_kept(one, 2), cu_kept(one, 3)};
    const uint32_t cols = part.in_cols;
    int slot = 0, ahead = last;
    for (uint32_t c = begin; c < end; c++) {
        uint32_t x[n][ring::halves][4];
        few_inputs<format, n, ring::halves>(rows, cols, c * ring::cols, lane % 4, x);
        cu_cp_async_wait<ring::stages - 2>();
        __syncwarp(); /* all lanes' copies are here; all are done with the slot before this one */
        if (c + ring::stages - 1 < end) stream.fetch(slots + ahead, lane);
        cu_cp_async_commit();
        few_add<format, tiles, n>(slots + slot, x, lane, ones, acc);
        ahead = slot;
        slot = slot == last ? 0 : slot + stage_bytes;
    }
    cu_cp_async_wait<0>();
}

/* Of a segment, rows row and row + 1 (of 32) and a token of the block. */
template <int n>
CU_DEV const float2 *few_sum(const float *sums, uint32_t segment, int token, int row) {
    return reinterpret_cast<const float2 *>(
        sums + (static_cast<int>(segment) * 8 * n + token) * FEW_TOKEN_STRIDE + row);
}

/* A warp's sums to shared memory, [segment][token][row of 32]. */
template <int tiles, int n>
CU_DEV void few_keep(float *sums, int segment, int first_tile, const float (&acc)[n][tiles][4]) {
    const int lane = cu_lane(), g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < n; i++)
#pragma unroll
        for (int m = 0; m < tiles; m++)
#pragma unroll
            for (int odd = 0; odd < 2; odd++) {
                const int token = (segment * n + i) * 8 + 2 * t + odd;
                float *to = sums + token * FEW_TOKEN_STRIDE + (first_tile + m) * 16 + 2 * g;
                *reinterpret_cast<float2 *>(to) = make_float2(acc[i][m][odd], acc[i][m][odd + 2]);
            }
}

CU_DEV float2 few_plus(float2 a, float2 b) {
    return make_float2(__fadd_rn(a.x, b.x), __fadd_rn(a.y, b.y));
}

/* The sum of all segments, as p has them added, of rows row and row + 1 (of 32) and a token of the block. Sums begin
 * with 0 + s, so that none is -0, and segments that are not there change nothing. */
template <int n>
CU_DEV float2 few_total(const linear_params &p, const float *sums, int token, int row) {
    float2 total = make_float2(0, 0);
    if (!p.tree) {
        for (uint32_t s = 0; s < p.segments; s++)
            total = few_plus(total, *few_sum<n>(sums, s, token, row));
        return total;
    }
    float2 node[LINEAR_SEGMENTS];
#pragma unroll
    for (uint32_t s = 0; s < LINEAR_SEGMENTS; s++)
        node[s] = s < p.segments ? few_plus(total, *few_sum<n>(sums, s, token, row)) : total;
#pragma unroll
    for (int width = LINEAR_SEGMENTS / 2; width > 0; width /= 2)
#pragma unroll
        for (int i = 0; i < width; i++)
            node[i] = few_plus(node[2 * i], node[2 * i + 1]);
    return node[0];
}

template <int n>
CU_DEV void few_finish(const linear_params &p, const linear_pair &pair, const float *sums) {
    const uint32_t first = blockIdx.x * 8 * n;
    const int rows = p.gated ? 8 : 16; /* pairs of rows */
#pragma unroll 1
    for (int e = threadIdx.x; e < rows * 8 * n; e += LINEAR_THREADS) {
        const int row = e % rows * 2, token = e / rows;
        const float2 y = few_total<n>(p, sums, token, row);
        if (p.gated) {
            const float2 up = few_total<n>(p, sums, token, row + 16);
            const float gates[2] = {y.x, y.y}, ups[2] = {up.x, up.y};
            linear_finish_gated(p, first + token, pair.tile[0] * 16 + row, gates, ups);
        } else {
            linear_finish(p, pair.part[0], first + token, pair.tile[0] * 16 + row, y.x, y.y);
        }
    }
}

/* Blocks in a multiprocessor at once: left to itself ptxas aims at more than shared memory has room for, and
 * spills. */
constexpr int few_blocks(int n) { return n == 1 ? 3 : n == 2 ? 2 : 1; }

/* Segment `segment` of the columns, for both tiles of a pair (tiles 2) or the one that is number `side`; or nothing,
 * for a warp that has none. */
template <int format, int tiles, int n>
CU_DEV void few_segment(const linear_params &p, const linear_pair &pair, uint32_t segment, int side,
                        uint8_t *shared) {
    constexpr int tile_bytes = cu_format<format>::tile_bytes;
    const bool works = side < 2;
    const uint32_t begin = works ? p.border[segment] : 0, end = works ? p.border[segment + 1] : 0;
    const uint8_t *from[tiles];
#pragma unroll
    for (int m = 0; m < tiles; m++)
        from[m] = m + side == 0 ? linear_tiles(p, pair.part[0], pair.tile[0], tile_bytes)
                                : linear_tiles(p, pair.part[1], pair.tile[1], tile_bytes);
    float acc[n][tiles][4] = {};
    few_run<format, tiles, n, 2 / tiles>(
        p.part[pair.part[0]], p.token_count, blockIdx.x * 8 * n, from, begin, end,
        shared + cu_warp_id() * few_ring<format, 2>::warp_bytes, acc);
    __syncthreads(); /* the rings are done with */
    if (works) few_keep<tiles, n>(reinterpret_cast<float *>(shared), segment, side, acc);
}

template <int format, int n>
__global__ void __launch_bounds__(LINEAR_THREADS, few_blocks(n))
    linear_few(const __grid_constant__ linear_params p) {
    CU_DYN_SHARED(uint8_t, shared);
    const uint32_t warp = static_cast<uint32_t>(cu_warp_id());
    const linear_pair pair = linear_pair_of(p, blockIdx.y, 1);
    if (p.tree && p.segments < LINEAR_WARPS)
        few_segment<format, 1, n>(p, pair, warp % p.segments, warp / p.segments, shared);
    else
        few_segment<format, 2, n>(p, pair, warp, 0, shared);
    __syncthreads();
    few_finish<n>(p, pair, reinterpret_cast<const float *>(shared));
}

template <int format, int n> int linear_few_launch(const linear_params &p, cudaStream_t stream) {
    constexpr int ring = LINEAR_WARPS * few_ring<format, 2>::warp_bytes;
    constexpr int bytes = ring > few_sum_bytes(n) ? ring : few_sum_bytes(n);
    const cudaError_t code = cudaFuncSetAttribute(
        linear_few<format, n>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (code != cudaSuccess) return code;
    uint32_t pairs = p.pairs[0];
    for (uint32_t i = 1; i < p.part_count && !p.gated; i++)
        pairs += p.pairs[i];
    const dim3 grid(cu_ceil(p.token_count, 8 * n), pairs);
    return CU_LAUNCH((linear_few<format, n>), grid, dim3(LINEAR_THREADS), bytes, stream, p);
}

#endif
