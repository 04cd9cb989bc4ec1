/* cuda_linear_many.h - a linear for many tokens: blocks of 128 rows of weights by 128 or 192 tokens.
 *
 * In     weights in tiles, inputs [T,K] bf16, both through a ring of stages of 64 columns
 * Out    [T, N] f32 or bf16
 * Grid   (groups of tokens, groups of four pairs of tiles) x 256 threads; a warp has one pair and 64 tokens or, wide,
 *        two pairs and 48. It goes through the segments of the columns one after the other: what
 *        cuda_linear_few.h gives to eight warps, added in the same order, so that a token's bits do not depend on
 *        which of them it meets
 * Shared many_ring stages of the tokens' inputs and eight tiles; where a format has offsets also the inputs' sums
 *        over the runs of a stage, made by all warps while the stage before it is multiplied. At the end the outputs
 *        take the ring's place, to leave in whole lines.
 *        A token's 128 bytes are eight words of 16, word i at i ^ many_swizzle(token): eight lanes that read 16
 *        bytes each of two tokens, or sixteen that read 8 of four, meet different banks
 * Cost   each output has two sums, the segment's and the total, in registers but for some totals (many_total). Of 16
 *        columns a warp reads (32 + 64) * 32 bytes from shared memory for 16 steps of mma, wide (64 + 48) * 32 for 24:
 *        with whole weights, and what comes into the ring, shared memory of sm_80 is busy for 256 of the 256 cycles
 *        that a block's mma take, wide for 304 of 384. In a tree of eight segments totals have to wait three times for
 *        their other half, two of them at once: in shared memory where there is room behind the ring (sm_90 for both,
 *        sm_80 for one), else in device memory */
// SPDX-License-Identifier: Apache-2.0
#ifndef CUDA_LINEAR_MANY_H
#define CUDA_LINEAR_MANY_H

#include "kernels/cuda/cuda_linear_few.h"

enum {
    MANY_PAIRS = 4, /* of tiles, in a block */
    MANY_ROW_BYTES = CUDA_TILE_COLS * 2,
    MANY_TOKEN_STRIDE =
        MANY_PAIRS * 32 + 4, /* floats of a token's totals: lanes meet other banks */
};

/* How a block's eight warps share its rows and tokens. */
template <bool wide> struct many_shape {
    static constexpr int tiles = wide ? 4 : 2;  /* of a warp */
    static constexpr int eights = wide ? 6 : 8; /* of tokens, of a warp */
    static constexpr int row_warps = 2 * MANY_PAIRS / tiles;
    static constexpr int warp_tokens = 8 * eights;
    static constexpr int tokens = LINEAR_WARPS / row_warps * warp_tokens;
    static constexpr int input_bytes = tokens * MANY_ROW_BYTES; /* of a stage */
};

enum {
    MANY_TOKENS = many_shape<false>::tokens,
    MANY_WIDE_TOKENS = many_shape<true>::tokens,
    /* of all formats: bf16's */
    MANY_RING_MAX = 3 * (many_shape<false>::input_bytes + 2 * MANY_PAIRS * 2048),
    MANY_LEVEL_BYTES = MANY_TOKENS * MANY_PAIRS * 32 * 4, /* of a block's totals */
    MANY_LEVELS_MAX = 2, /* totals that wait for others, in a tree of eight */
};

template <int format, bool wide> struct many_ring {
    using shape = many_shape<wide>;
    static constexpr int tile_bytes = cu_format<format>::tile_bytes;
    static constexpr int stage_bytes = shape::input_bytes + 2 * MANY_PAIRS * tile_bytes;
    static constexpr int stages = tile_bytes <= 640 ? 4 : 3;
    static constexpr bool parked = wide || cu_format<format>::offset; /* else ptxas spills */
    static constexpr int runs = 2 * cu_format<format>::runs;          /* of a stage */
    /* A float4 for two tokens, of this stage and the next. */
    static constexpr int sum_bytes =
        cu_format<format>::offset ? 2 * runs * shape::tokens / 2 * 16 : 0;
    static constexpr int parked_bytes = parked ? shape::tiles * LINEAR_THREADS * 16 : 0;
    static constexpr int bytes = stages * stage_bytes + sum_bytes + parked_bytes;
    static_assert(bytes - parked_bytes >= shape::tokens * MANY_TOKEN_STRIDE * 4,
                  "the outputs take its place");
    static_assert(wide || bytes <= MANY_RING_MAX, "levels lie behind it");
};

/* Bits 0 and 1 of a token's number as bits 2 and 1. */
CU_DEV int many_swizzle(int token) { return (token & 1) << 2 | (token & 2); }

/* What a thread brings into each stage: a word of the inputs of every 32nd token and, with the rest of its warp, one of
 * the block's eight tiles. */
template <int format, bool wide> struct many_stream {
    using shape = many_shape<wide>;
    static constexpr int tile_bytes = many_ring<format, wide>::tile_bytes;
    static constexpr int step = LINEAR_THREADS / 8; /* tokens; many_swizzle has them alike */
    const uint16_t *inputs;                         /* the next stage's, of its first token */
    const uint8_t *tile;                            /* likewise */
    int left;                                       /* tokens from its first one on */

    /* tiles: the warp's row of them. */
    __device__ __forceinline__ many_stream(const linear_part &part, uint32_t token_count,
                                           const uint8_t *tiles) {
        const uint32_t token = blockIdx.x * shape::tokens + threadIdx.x / 8;
        inputs =
            cu_opaque(part.in + static_cast<size_t>(token) * part.in_stride + threadIdx.x % 8 * 8);
        tile = cu_opaque(tiles + cu_lane() * 16);
        left = static_cast<int>(token_count) - static_cast<int>(token);
    }

    /* The next stage, from column `col` on; beyond the last token or column zeros. */
    __device__ __forceinline__ void fetch(const linear_part &part, uint32_t col, uint8_t *stage) {
        const int token = threadIdx.x / 8, word = threadIdx.x % 8;
        const int left_inside = col + word * 8 < part.in_cols ? left : 0;
        uint8_t *to = stage + token * MANY_ROW_BYTES + (word ^ many_swizzle(token)) * 16;
        const uint16_t *from = inputs;
#pragma unroll
        for (int i = 0; i < shape::tokens / step; i++) {
            cu_cp_async16(to + i * step * MANY_ROW_BYTES, from, i * step < left_inside);
            from += static_cast<size_t>(step) * part.in_stride;
        }
        inputs += CUDA_TILE_COLS;
        to = stage + shape::input_bytes + threadIdx.x / 32 * tile_bytes + cu_lane() * 16;
#pragma unroll
        for (int at = 0; at < tile_bytes; at += 512)
            if (at + 512 <= tile_bytes || at + cu_lane() * 16 < tile_bytes)
                cu_cp_async16(to + at, tile + at);
        tile += tile_bytes;
    }
};

/* A lane's inputs of a half, of its token among the eight that begin at `token`, a multiple of 8. */
template <int format>
CU_DEV void many_inputs(const uint8_t *inputs, int token, int half, int lane, uint32_t (&x)[4]) {
    const uint8_t *row = inputs + (token + lane / 4) * MANY_ROW_BYTES;
    const int at0 = half * 64 + 2 * linear_input_at<format>(lane % 4, 0);
    const int at1 = half * 64 + 2 * linear_input_at<format>(lane % 4, 1);
    const int word0 = (at0 / 16 ^ many_swizzle(lane / 4)) * 16;
    const int word1 = (at1 / 16 ^ many_swizzle(lane / 4)) * 16;
    if (cu_format<format>::run == 16) {
        const uint2 v = *reinterpret_cast<const uint2 *>(row + word0 + at0 % 16);
        const uint2 w = *reinterpret_cast<const uint2 *>(row + word1 + at1 % 16);
        x[0] = v.x, x[1] = v.y, x[2] = w.x, x[3] = w.y;
    } else {
        const uint4 v = cu_load16(row + word0);
        x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
    }
}

/* A warp's share of a stage's sums, [run of the stage][two tokens]: twice those of both, as mma begins with them. */
template <int format, bool wide>
CU_DEV void many_sum(const uint8_t *stage, int warp, float4 *sums) {
    constexpr int runs = cu_format<format>::runs, tokens = many_shape<wide>::tokens;
    const int lane = cu_lane();
    constexpr uint32_t one = linear_one<format>;
#pragma unroll
    for (int i = 0; i < tokens / 8 / LINEAR_WARPS; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int first = 8 * (warp + i * LINEAR_WARPS);
            uint32_t x[4];
            float sum[runs][4];
            many_inputs<format>(stage, first, h, lane, x);
            linear_sums<format>({one, one, one, one}, x, sum);
#pragma unroll
            for (int r = 0; r < runs; r++)
                if (lane < 4) /* the other lanes have the same */
                    sums[(h * runs + r) * (tokens / 2) + first / 2 + lane] =
                        make_float4(sum[r][0], sum[r][1], sum[r][2], sum[r][3]);
        }
}

/* A stage's half h: a warp's tiles against its tokens. tiles: the warp's first; sums: of its first tokens. */
template <int format, bool wide>
CU_DEV void many_add(int h, const uint8_t *inputs, const uint8_t *tiles, const float4 *sums,
                     int token,
                     float (&acc)[many_shape<wide>::eights][many_shape<wide>::tiles][4]) {
    using shape = many_shape<wide>;
    constexpr int runs = cu_format<format>::runs, tile_bytes = many_ring<format, wide>::tile_bytes;
    const int lane = cu_lane();
    linear_half<format, shape::tiles> half;
#pragma unroll
    for (int m = 0; m < shape::tiles; m++) {
        cu_scales<format> scales;
        cu_load_scales_of<format>(tiles + m * tile_bytes, h, lane, scales);
        half.load(m, tiles + m * tile_bytes, h, lane, scales);
    }
#pragma unroll
    for (int i = 0; i < shape::eights; i++) {
        uint32_t x[4];
        float sum[runs][4] = {};
        many_inputs<format>(inputs, token + 8 * i, h, lane, x);
#pragma unroll
        for (int r = 0; cu_format<format>::offset && r < runs; r++) {
            const float4 v =
                sums[(h * runs + r) * (shape::tokens / 2) + token / 2 + 4 * i + lane % 4];
            sum[r][0] = v.x, sum[r][1] = v.y, sum[r][2] = v.z, sum[r][3] = v.w;
        }
#pragma unroll
        for (int m = 0; m < shape::tiles; m++)
            half.add(m, acc[i][m], x, sum);
    }
}

/* A thread's totals: in registers but for the last eight tokens', which lie in shared memory if `parked`, beside those
 * of the block's other threads. Only the end of a segment asks for them. */
template <int eights, int tiles, bool parked> struct many_total {
    static constexpr int near = (eights - parked) * tiles, far = parked * tiles;
    float kept[near][4];
    float4 *there; /* [far], LINEAR_THREADS apart */

    __device__ __forceinline__ explicit many_total(void *shared)
        : kept{}, there(static_cast<float4 *>(shared) + threadIdx.x) {
#pragma unroll
        for (int k = 0; k < far; k++)
            there[k * LINEAR_THREADS] = make_float4(0, 0, 0, 0);
    }

    /* change(k, y) for all four of each tile and eight, k = eight * tiles + tile. */
    template <class Change> __device__ __forceinline__ void each(Change &&change) {
#pragma unroll
        for (int k = 0; k < near; k++)
            change(k, kept[k]);
#pragma unroll
        for (int k = 0; k < far; k++) {
            float4 &v = there[k * LINEAR_THREADS];
            float y[4] = {v.x, v.y, v.z, v.w};
            change(near + k, y);
            v = make_float4(y[0], y[1], y[2], y[3]);
        }
    }

    /* A segment's sums join, which begin anew. */
    __device__ __forceinline__ void add(float (&acc)[eights][tiles][4]) {
        each([&](int k, float(&y)[4]) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float &sum = acc[k / tiles][k % tiles][j];
                y[j] = __fadd_rn(y[j], sum);
                sum = 0;
            }
        });
    }

    /* Of a tree: all goes to a level, as each tile's four beside the other threads', .. */
    __device__ __forceinline__ void push(uint8_t *to) {
        each([&](int k, float(&y)[4]) {
            *reinterpret_cast<float4 *>(to + k * LINEAR_THREADS * sizeof(float4)) =
                make_float4(y[0], y[1], y[2], y[3]);
            y[0] = y[1] = y[2] = y[3] = 0;
        });
    }
    /* .. and joins from there. */
    __device__ __forceinline__ void pop(const uint8_t *from) {
        each([&](int k, float(&y)[4]) {
            const float4 v =
                *reinterpret_cast<const float4 *>(from + k * LINEAR_THREADS * sizeof(float4));
            y[0] = __fadd_rn(v.x, y[0]), y[1] = __fadd_rn(v.y, y[1]);
            y[2] = __fadd_rn(v.z, y[2]), y[3] = __fadd_rn(v.w, y[3]);
        });
    }

    /* To shared memory, [token of the block][row of the block]; row, token: the warp's first. */
    __device__ __forceinline__ void keep(float *sums, int row, int token) {
        const int g = cu_lane() / 4, t = cu_lane() % 4;
        sums += (token + 2 * t) * MANY_TOKEN_STRIDE + row + 2 * g;
        each([&](int k, float(&y)[4]) {
#pragma unroll
            for (int odd = 0; odd < 2; odd++)
                *reinterpret_cast<float2 *>(sums + (8 * (k / tiles) + odd) * MANY_TOKEN_STRIDE +
                                            k % tiles * CUDA_TILE_ROWS) =
                    make_float2(y[odd], y[odd + 2]);
        });
    }
};

/* A thread's place in a level of its block. */
CU_DEV uint8_t *many_level(const linear_params &p, uint8_t *on_chip, uint32_t level) {
    const size_t blocks = static_cast<size_t>(gridDim.x) * gridDim.y;
    const size_t block = static_cast<size_t>(blockIdx.y) * gridDim.x + blockIdx.x;
    uint8_t *at = level < p.levels_on_chip
                      ? on_chip + level * MANY_LEVEL_BYTES
                      : p.stack + ((level - p.levels_on_chip) * blocks + block) * MANY_LEVEL_BYTES;
    return at + threadIdx.x * sizeof(float4);
}

/* A segment is done. In a tree one of an even number begins a node, so that the total waits for it; one of an odd
 * number ends as many nodes as it has ones at its end. */
template <int eights, int tiles, bool parked>
CU_DEV void many_end_segment(const linear_params &p, uint32_t segment, uint8_t *on_chip,
                             uint32_t &level, float (&acc)[eights][tiles][4],
                             many_total<eights, tiles, parked> &total) {
    if (p.tree && segment % 2 == 0 && segment > 0) total.push(many_level(p, on_chip, level++));
    total.add(acc);
    if (p.tree && segment % 2 == 1)
#pragma unroll 1
        for (uint32_t ones = segment / 2; ones % 2; ones /= 2)
            total.pop(many_level(p, on_chip, --level));
}

/* All outputs of the block; first: its first pair of tiles. */
template <bool wide>
CU_DEV void many_finish(const linear_params &p, const linear_pair &first, const float *sums) {
    constexpr int tokens = many_shape<wide>::tokens;
    const uint32_t row0 = first.tile[0] * CUDA_TILE_ROWS, token0 = blockIdx.x * tokens;
    const int rows = p.gated ? 8 * MANY_PAIRS : 16 * MANY_PAIRS; /* pairs of rows */
#pragma unroll 1
    for (int e = threadIdx.x; e < rows * tokens; e += LINEAR_THREADS) {
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

/* Tile `at` of the block's eight: one after another pair by pair. */
template <int tile_bytes> CU_DEV const uint8_t *many_tiles(const linear_params &p, int at) {
    const linear_pair pair = linear_pair_of(p, blockIdx.y * MANY_PAIRS + at / 2, MANY_PAIRS);
    return at % 2 ? linear_tiles(p, pair.part[1], pair.tile[1], tile_bytes)
                  : linear_tiles(p, pair.part[0], pair.tile[0], tile_bytes);
}

/* Wide: for whole weights, which are bound by shared memory otherwise; not for trees. */
template <int format, bool wide>
__global__ void __launch_bounds__(LINEAR_THREADS, 1)
    linear_many(const __grid_constant__ linear_params p) {
    CU_DYN_SHARED(uint8_t, shared);
    using ring = many_ring<format, wide>;
    using shape = many_shape<wide>;
    constexpr bool sums_too = cu_format<format>::offset;
    /* Which half a later stage is asked for before: the second, so that mma has something to do meanwhile; but the first
     * where the next round waits for it. */
    constexpr int fetch_at = sums_too && ring::stages == 3 ? 0 : 1;
    const int warp = cu_warp_id();
    const int own_tile = warp % shape::row_warps * shape::tiles;
    const int own_token = warp / shape::row_warps * shape::warp_tokens;
    const linear_part &part =
        p.part[linear_pair_of(p, blockIdx.y * MANY_PAIRS, MANY_PAIRS).part[0]];
    many_stream<format, wide> stream(part, p.token_count, many_tiles<ring::tile_bytes>(p, warp));
    float acc[shape::eights][shape::tiles][4] = {};
    many_total<shape::eights, shape::tiles, ring::parked> total(shared + ring::bytes -
                                                                ring::parked_bytes);
#pragma unroll
    for (int s = 0; s < ring::stages - 1; s++) {
        if (static_cast<uint32_t>(s) < p.chunks)
            stream.fetch(part, s * CUDA_TILE_COLS, shared + s * ring::stage_bytes);
        cu_cp_async_commit();
    }
    float4 *sums = reinterpret_cast<float4 *>(shared + ring::stages * ring::stage_bytes);
    constexpr int stage_sums = ring::sum_bytes / 2 / static_cast<int>(sizeof(float4));
    if (sums_too) {
        cu_cp_async_wait<ring::stages - 2>();
        __syncthreads();
        many_sum<format, wide>(shared, warp, sums);
    }
    int slot = 0;
    uint32_t c = 0;
    [[maybe_unused]] uint32_t level = 0;
#pragma unroll 1
    for (uint32_t segment = 0; segment < p.segments; segment++) {
#pragma unroll 1
        for (const uint32_t border = p.border[segment + 1]; c < border; c++) {
            /* This stage is here, and the next one if its sums are made now. */
            cu_cp_async_wait<ring::stages - 2 - (sums_too ? 1 : 0)>();
            __syncthreads(); /* .. of all; all are done with the one before it */
            const uint8_t *stage = shared + slot * ring::stage_bytes;
            const uint8_t *tiles = stage + shape::input_bytes + own_tile * ring::tile_bytes;
            const float4 *own_sums = sums + (sums_too && c % 2 ? stage_sums : 0);
            const int before = (slot == 0 ? ring::stages : slot) - 1, ahead = ring::stages - 1;
            slot = slot + 1 == ring::stages ? 0 : slot + 1;
#pragma unroll 1 /* both halves at once would not fit into registers */
            for (int h = 0; h < 2; h++) {
                if (h == fetch_at) {
                    if (c + ahead < p.chunks)
                        stream.fetch(part, (c + ahead) * CUDA_TILE_COLS,
                                     shared + before * ring::stage_bytes);
                    cu_cp_async_commit();
                    if (sums_too && c + 1 < p.chunks)
                        many_sum<format, wide>(shared + slot * ring::stage_bytes, warp,
                                               sums + (c % 2 ? 0 : stage_sums));
                }
                many_add<format, wide>(h, stage, tiles, own_sums, own_token, acc);
            }
        }
        if constexpr (wide)
            total.add(acc);
        else
            many_end_segment(p, segment, shared + ring::bytes, level, acc, total);
    }
    cu_cp_async_wait<0>();
    __syncthreads(); /* the ring is done with */
    float *outputs = reinterpret_cast<float *>(shared);
    total.keep(outputs, own_tile * CUDA_TILE_ROWS, own_token);
    __syncthreads();
    many_finish<wide>(p, linear_pair_of(p, blockIdx.y * MANY_PAIRS, MANY_PAIRS), outputs);
}

/* Of four pairs of tiles, of all parts. */
static inline uint32_t many_groups(const linear_params &p) {
    uint32_t groups = cu_ceil(p.pairs[0], MANY_PAIRS);
    for (uint32_t i = 1; i < p.part_count && !p.gated; i++)
        groups += cu_ceil(p.pairs[i], MANY_PAIRS);
    return groups;
}

template <int format, bool wide>
int linear_many_launch(const linear_params &p, cudaStream_t stream) {
    const int levels = wide ? 0 : static_cast<int>(p.levels_on_chip) * MANY_LEVEL_BYTES;
    const int bytes = many_ring<format, wide>::bytes + levels;
    const cudaError_t code = cudaFuncSetAttribute(
        linear_many<format, wide>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (code != cudaSuccess) return code;
    const dim3 grid(cu_ceil(p.token_count, many_shape<wide>::tokens), many_groups(p));
    return CU_LAUNCH((linear_many<format, wide>), grid, dim3(LINEAR_THREADS), bytes, stream, p);
}

/* Formats that few have: their few tokens are always 32. */
constexpr bool linear_is_rare(int format) {
    return format == CUDA_C4_LESS_16 || format == CUDA_C4_STEPS_16 ||
           format == CUDA_C4_FLOAT_ZERO || format == CUDA_C8_OFFSET || format == CUDA_C8_FLOAT_ZERO;
}

/* All shapes of a format; for the files that have one kind of codes each. */
template <int format>
int linear_launch(const linear_params &p, linear_shape shape, cudaStream_t stream) {
    if (shape == LINEAR_192) {
        if constexpr (cu_format<format>::codes == CODES_BF16)
            return linear_many_launch<format, true>(p, stream);
        return cudaErrorInvalidValue;
    }
    if (shape == LINEAR_128) return linear_many_launch<format, false>(p, stream);
    if constexpr (!linear_is_rare(format)) {
        if (shape == LINEAR_8) return linear_few_launch<format, 1>(p, stream);
        if (shape == LINEAR_16) return linear_few_launch<format, 2>(p, stream);
    }
    return linear_few_launch<format, 4>(p, stream);
}

#endif
