/* cuda_linear_few.h - a linear for few tokens: every warp a segment of the columns.
 *
 * In     weights in tiles, streamed once through a ring of each warp's own; inputs [T,K] bf16 straight from
 *        memory (they are in L1 or L2) into registers, one tile ahead
 * Out    [T, N] f32 or bf16
 * Grid   (groups of 8 * n tokens, pairs of tiles) x 256 threads; warp w sums segment w of the columns, then
 *        the segments' sums are added in order
 * Shared a ring of linear_few_stages stages for each warp; the sums of the segments take its place at the end
 * Cost   the weights' bytes: no barrier until the end, 32 to 64 KiB in flight in each multiprocessor */
// SPDX-License-Identifier: Apache-2.0
#ifndef CUDA_LINEAR_FEW_H
#define CUDA_LINEAR_FEW_H

#include "kernels/cuda/cuda_linear_run.h"

enum {
    FEW_TOKEN_STRIDE =
        36 /* floats of a token's sums of 32 rows: lanes t and t + 1 meet other banks */
};

/* How tiles go through a ring. */
template <int format, int tiles> struct few_ring {
    using f = cu_format<format>;
    /* Whole weights take half a tile a stage: a tile of 2 KiB would cost a block its neighbour. */
    static constexpr int halves = f::codes == CODES_BF16 ? 1 : 2;
    static constexpr int cols = 32 * halves;
    static constexpr int tile_bytes = f::tile_bytes * halves / 2; /* of a stage */
    static constexpr int stages = cuda_code_bits(f::codes) == 8 ? 3 : 4;
    static constexpr int warp_bytes = stages * tiles * tile_bytes;
};

constexpr int few_sum_bytes(int n) {
    return LINEAR_SEGMENTS * 8 * n * FEW_TOKEN_STRIDE * static_cast<int>(sizeof(float));
}

/* A lane's inputs of `halves` halves. */
template <int format, int n, int halves>
CU_DEV void few_inputs(const linear_part &part, uint32_t token_count, uint32_t token, uint32_t col,
                       int t, uint32_t (&x)[n][halves * 4]) {
#pragma unroll
    for (int i = 0; i < n; i++)
#pragma unroll
        for (int h = 0; h < halves; h++) {
            const uint32_t at0 = col + 32 * h + linear_input_at<format>(t, 0);
            const uint32_t at1 = col + 32 * h + linear_input_at<format>(t, 1);
            const bool live = token + 8 * i < token_count;
            const uint16_t *row =
                part.in + static_cast<size_t>(live ? token + 8 * i : 0) * part.in_stride;
            if (cu_format<format>::run == 16) {
                uint2 v = make_uint2(0, 0), w = v;
                if (live && at0 < part.in_cols) v = *reinterpret_cast<const uint2 *>(row + at0);
                if (live && at1 < part.in_cols) w = *reinterpret_cast<const uint2 *>(row + at1);
                x[i][4 * h] = v.x, x[i][4 * h + 1] = v.y;
                x[i][4 * h + 2] = w.x, x[i][4 * h + 3] = w.y;
            } else {
                uint4 v = cu_zero16();
                if (live && at0 < part.in_cols) v = cu_load16(row + at0);
                x[i][4 * h] = v.x, x[i][4 * h + 1] = v.y;
                x[i][4 * h + 2] = v.z, x[i][4 * h + 3] = v.w;
            }
        }
}

/* One stage of the ring. */
template <int format, int tiles>
CU_DEV void few_fetch(const uint8_t *const (&from)[tiles], uint32_t stage, uint8_t *to, int lane,
                      uint64_t once) {
    using ring = few_ring<format, tiles>;
#pragma unroll
    for (int m = 0; m < tiles; m++) {
        const uint8_t *tile = from[m] + static_cast<size_t>(stage) * ring::tile_bytes;
#pragma unroll
        for (int at = 0; at < ring::tile_bytes; at += 512)
            if (at + 512 <= ring::tile_bytes || at + lane * 16 < ring::tile_bytes)
                cu_cp_async16_policy(to + m * ring::tile_bytes + at + lane * 16,
                                     tile + at + lane * 16, true, once);
    }
}

template <int format, int tiles, int n>
CU_DEV void few_add(const uint8_t *slot,
                    const uint32_t (&x)[n][few_ring<format, tiles>::halves * 4], int lane,
                    float (&acc)[n][tiles][4]) {
    using ring = few_ring<format, tiles>;
#pragma unroll
    for (int h = 0; h < ring::halves; h++) {
        linear_half<format, tiles> half;
#pragma unroll
        for (int m = 0; m < tiles; m++)
            half.load(m, slot + m * ring::tile_bytes, h, lane);
#pragma unroll
        for (int i = 0; i < n; i++) {
            const uint32_t b[4] = {x[i][4 * h], x[i][4 * h + 1], x[i][4 * h + 2], x[i][4 * h + 3]};
            half.add(acc[i], b);
        }
    }
}

/* A warp's sums over the tiles [begin, end) of the columns; `begin` may be `end`. from: the rows of tiles. */
template <int format, int tiles, int n>
CU_DEV void few_run(const linear_part &part, uint32_t token_count, uint32_t token,
                    const uint8_t *const (&from)[tiles], uint32_t begin, uint32_t end,
                    uint8_t *slots, float (&acc)[n][tiles][4]) {
    using ring = few_ring<format, tiles>;
    constexpr int stage_bytes = tiles * ring::tile_bytes;
    const int lane = cu_lane(), t = lane % 4;
    const uint64_t once = cu_evict_first();
    uint32_t x[n][ring::halves * 4], next[n][ring::halves * 4];
    begin *= 2 / ring::halves;
    end *= 2 / ring::halves;
#pragma unroll
    for (int s = 0; s < ring::stages - 1; s++) {
        if (begin + s < end)
            few_fetch<format, tiles>(from, begin + s, slots + s * stage_bytes, lane, once);
        cu_cp_async_commit();
    }
    if (begin < end)
        few_inputs<format, n, ring::halves>(part, token_count, token + lane / 4, begin * ring::cols,
                                            t, next);
    for (uint32_t c = begin; c < end; c++) {
        const uint32_t slot = (c - begin) % ring::stages, ahead = c + ring::stages - 1;
#pragma unroll
        for (int i = 0; i < n; i++)
#pragma unroll
            for (int j = 0; j < ring::halves * 4; j++)
                x[i][j] = next[i][j];
        if (c + 1 < end)
            few_inputs<format, n, ring::halves>(part, token_count, token + lane / 4,
                                                (c + 1) * ring::cols, t, next);
        cu_cp_async_wait<ring::stages - 2>();
        __syncwarp(); /* all lanes' copies are here; all are done with the slot before this one */
        if (ahead < end)
            few_fetch<format, tiles>(
                from, ahead, slots + (ahead - begin) % ring::stages * stage_bytes, lane, once);
        cu_cp_async_commit();
        few_add<format, tiles, n>(slots + slot * stage_bytes, x, lane, acc);
    }
    cu_cp_async_wait<0>();
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

/* The sum of all segments, in order, of rows row and row + 1 (of 32) and a token of the block. */
template <int n> CU_DEV float2 few_total(const float *sums, uint32_t segments, int token, int row) {
    float2 total = make_float2(0, 0);
    for (uint32_t s = 0; s < segments; s++) {
        const float2 one = *reinterpret_cast<const float2 *>(
            sums + (static_cast<int>(s) * 8 * n + token) * FEW_TOKEN_STRIDE + row);
        total.x = __fadd_rn(total.x, one.x);
        total.y = __fadd_rn(total.y, one.y);
    }
    return total;
}

template <int n>
CU_DEV void few_finish(const linear_params &p, const linear_pair &pair, const float *sums) {
    const uint32_t first = blockIdx.x * 8 * n, segments = cu_ceil(p.chunks, p.segment);
    const int rows = p.gated ? 8 : 16; /* pairs of rows */
    for (int e = threadIdx.x; e < rows * 8 * n; e += LINEAR_THREADS) {
        const int row = e % rows * 2, token = e / rows;
        const float2 y = few_total<n>(sums, segments, token, row);
        if (p.gated) {
            const float2 up = few_total<n>(sums, segments, token, row + 16);
            const float gates[2] = {y.x, y.y}, ups[2] = {up.x, up.y};
            linear_finish_gated(p, first + token, pair.tile[0] * 16 + row, gates, ups);
        } else {
            linear_finish(p, pair.part[0], first + token, pair.tile[0] * 16 + row, y.x, y.y);
        }
    }
}

template <int format, int n>
__global__ void __launch_bounds__(LINEAR_THREADS)
    linear_few(const __grid_constant__ linear_params p) {
    CU_DYN_SHARED(uint8_t, shared);
    using f = cu_format<format>;
    const int warp = cu_warp_id();
    const linear_pair pair = linear_pair_of(p, blockIdx.y, 1);
    const uint8_t *from[2] = {linear_tiles(p, pair.part[0], pair.tile[0], f::tile_bytes),
                              linear_tiles(p, pair.part[1], pair.tile[1], f::tile_bytes)};
    const uint32_t begin = min(warp * p.segment, p.chunks), end = min(begin + p.segment, p.chunks);
    float acc[n][2][4] = {};
    few_run<format, 2, n>(p.part[pair.part[0]], p.token_count, blockIdx.x * 8 * n, from, begin, end,
                          shared + warp * few_ring<format, 2>::warp_bytes, acc);
    __syncthreads(); /* the rings are done with */
    float *sums = reinterpret_cast<float *>(shared);
    few_keep<2, n>(sums, warp, 0, acc);
    __syncthreads();
    few_finish<n>(p, pair, sums);
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
