/* cuda_attention_tile.h - one tile of attention (cuda_attention.cu) against its keys: the kernels for decodes and
 * for prefill chunks, over pages of bf16 or of int8.
 *
 * int8. Codes are whole numbers and as bf16 exact: they go into mma as they are, made to bf16 in registers
 * (codes_of), and scales come in afterwards: a key's to its scores, a value's to its weight before that is
 * rounded to bf16. ldmatrix moves pairs of bytes, so what it gives a lane is other dims than of bf16:
 *
 *   keys    4 dims running, 4c to 4c + 3 of 16 for lane%4 = c. Codes 0 and 2, 1 and 3 become a word each;
 *           queries lie the same way, and a sum over dims does not mind the order
 *   values  of a pair of keys 2 dims running: one for each of two mma. So those have the even and the odd ones
 *           of 16 dims, and lane%4 = c has sums of dims 4c to 4c + 3 (column_of, tile_of) */
// SPDX-License-Identifier: Apache-2.0
#ifndef CUDA_ATTENTION_TILE_H
#define CUDA_ATTENTION_TILE_H

#include "kernels/cuda/cu.h"
#include "kernels/cuda/cuda_attention_plan.h"
#include "kernels/cuda/cuda_kv.h"

namespace attention {

/* What a launch needs, as the kernels take it. */
struct View {
    const float *qkv;
    uint16_t *out;
    const unsigned char *keys; /* of frame 0, this layer, kv head 0 */
    uint64_t frame_bytes, to_values;
    const uint32_t *tables;
    const cuda_attention_plan *plan;
    float *partial_sums;   /* [kv_heads][partial_rows][dim] */
    float2 *partial_tops;  /* [kv_heads][partial_rows]: maximum, sum of weights */
    uint32_t partial_rows; /* of each kv head, as many as there is room for */
    uint32_t table_stride;
    uint32_t heads, kv_heads, group, dim;
    int window; /* 0: none */
    bool bidirectional;
    float q_scale;
    float cap; /* base 2; 0: none */
};

/* A kernel: heads of up to W dims, tiles of so many warps, pages of int8 or of bf16. */
template <int W, int WARPS, bool INT8> struct Shape {
    static constexpr bool int8 = INT8;
    static constexpr int width = W, warps = WARPS, threads = 32 * WARPS;
    static constexpr int keys = W > 128 ? 16 : 32; /* of a block, which is what a stage holds */
    /* Bytes of a row, and from one to the next in shared memory: an odd number of 16 bytes, so that the
     * eight rows of a matrix that ldmatrix reads lie in all banks once. */
    static constexpr int row = W * (INT8 ? 1 : 2), stride = row + 16;
    static constexpr int scales =
        2 * keys * stride; /* behind keys and values; theirs, in that order */
    static constexpr int stage = scales + (INT8 ? 2 * keys * 4 : 0); /* bytes */
    static constexpr int stages = INT8 || (WARPS > 1 && W <= 128) ? 3 : 2;
    /* Where the sums of all chunks do not fit registers beside those of one: [W / 8][32] float4 a warp. */
    static constexpr bool totals_shared = W > 128;
    static constexpr int totals = totals_shared ? WARPS * ATTENTION_TILE_ROWS * W : 0; /* floats */
    static constexpr int bytes = stages * stage + totals * 4;
};

/* Items are read again where they are needed: registers are scarce. */
template <class S> CU_DEV uint32_t item_count(const View &v) {
    return S::warps > 1 ? v.plan->wide_count : v.plan->narrow_count;
}

template <class S> CU_DEV const attention_item *item_at(const View &v, uint32_t i) {
    const attention_item *items = reinterpret_cast<const attention_item *>(v.plan + 1);
    return items + (S::warps > 1 ? v.plan->narrow_count : 0) + i;
}

/* --- rows: a warp has 16; its lane l has rows l/4 and l/4 + 8 ----------------------------------- */

/* The last key that a row sees says which is the first. */
struct Sight {
    int last[2];        /* of this lane's rows; -1: there is no such row */
    int oldest, newest; /* of the warp's first and last row; -1: it has none */
};

CU_DEV int first_key(const View &v, int last) { return v.window ? last - v.window + 1 : 0; }

CU_DEV int last_key(const View &v, const attention_item &item, uint32_t row) {
    if (row >= item.rows) return -1;
    return v.bidirectional ? (int)item.length - 1
                           : (int)(item.position + (item.row + row) / v.group);
}

CU_DEV Sight sight_of(const View &v, const attention_item &item, int warp, int lane) {
    const uint32_t low = (uint32_t)warp * ATTENTION_TILE_ROWS, row = low + (uint32_t)lane / 4;
    Sight sight;
    sight.last[0] = last_key(v, item, row);
    sight.last[1] = last_key(v, item, row + 8);
    sight.oldest = last_key(v, item, low);
    sight.newest = last_key(v, item, min(low + ATTENTION_TILE_ROWS, item.rows) - 1);
    if (sight.oldest < 0) sight.newest = -1;
    return sight;
}

/* Whether some row of the warp sees a key of [key, end). */
CU_DEV bool is_seen(const View &v, const Sight &sight, int key, int end) {
    return key <= sight.newest && end > first_key(v, sight.oldest);
}

/* Whether every row sees all of them. */
CU_DEV bool is_seen_by_all(const View &v, const Sight &sight, int key, int end) {
    return key >= first_key(v, sight.newest) && end <= sight.oldest + 1;
}

/* Which query head of which token a row of the tile is: elements before it in an array of `row_heads` heads
 * a token. */
CU_DEV size_t row_offset(const View &v, const attention_item &item, uint32_t kv_head, uint32_t row,
                         uint32_t row_heads) {
    uint32_t flat = item.row + row;
    return ((size_t)(item.token + flat / v.group) * row_heads + kv_head * v.group +
            flat % v.group) *
           v.dim;
}

CU_DEV float2 load_pair(const View &v, const float *row, bool there, int column) {
    if (!there || column >= (int)v.dim) return make_float2(0.0f, 0.0f);
    const float2 pair = *reinterpret_cast<const float2 *>(row + column);
    return make_float2(pair.x * v.q_scale, pair.y * v.q_scale);
}

/* The four dims of 16 that a lane has of a row, as they meet those of keys. */
template <class S>
CU_DEV void load_query(const View &v, const float *row, bool there, int column, int lane,
                       uint32_t &low, uint32_t &high) {
    const int first = column + lane % 4 * (S::int8 ? 4 : 2);
    const float2 a = load_pair(v, row, there, first);
    const float2 b = load_pair(v, row, there, first + (S::int8 ? 2 : 8));
    low = S::int8 ? cu_pack_bf16(a.x, b.x) : cu_pack_bf16(a.x, a.y);
    high = S::int8 ? cu_pack_bf16(a.y, b.y) : cu_pack_bf16(b.x, b.y);
}

/* The queries as first operand: 16 rows x 16 dims a fragment. */
template <class S>
CU_DEV void load_queries(const View &v, const attention_item &item, uint32_t kv_head, int warp,
                         int lane, uint32_t (&q)[S::width / 16][4]) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        uint32_t row = (uint32_t)(warp * ATTENTION_TILE_ROWS + lane / 4 + 8 * r);
        bool there = row < item.rows;
        const float *from =
            v.qkv + (there ? row_offset(v, item, kv_head, row, v.heads + 2 * v.kv_heads) : 0);
#pragma unroll
        for (int i = 0; i < S::width / 16; i++)
            load_query<S>(v, from, there, i * 16, lane, q[i][r], q[i][2 + r]);
    }
}

/* --- keys and values on their way into shared memory -------------------------------------------- */

/* The frames of 32 pages at a time, one a lane; of pages behind a window or not written yet 0. */
struct Frames {
    int begin; /* of the 32; -1: none are there */
    uint32_t frame;
};

/* All lanes of a warp ask for the same page. */
template <class S>
CU_DEV uint32_t frame_of(const View &v, uint32_t i, Frames &frames, int page, int lane) {
    if ((page & ~31) != frames.begin) {
        const attention_item *item = item_at<S>(v, i);
        frames.begin = page & ~31;
        const int mine = frames.begin + lane, first = (int)item->key / KV_PAGE_TOKENS;
        const int last = (int)(item->key + item->keys - 1) / KV_PAGE_TOKENS;
        const uint32_t *table = v.tables + (size_t)item->seq * v.table_stride;
        frames.frame = mine >= first && mine <= last ? __ldg(table + mine) : 0;
    }
    return __shfl_sync(CU_FULL, frames.frame, page & 31);
}

/* A page's keys or values of a head; of those not in [first, end) and behind a row's end 0, never NaN. */
template <class S>
CU_DEV void load_page(const unsigned char *from, int row_bytes, int first, int end,
                      unsigned char *to) {
    constexpr int PIECES = S::row / 16;
    constexpr int LANES = PIECES <= 2    ? 2
                          : PIECES <= 4  ? 4
                          : PIECES <= 8  ? 8
                          : PIECES <= 16 ? 16
                                         : 32;
    constexpr int STEP = S::threads / LANES; /* rows at a time */
    const int mine = (int)threadIdx.x / LANES, column = (int)threadIdx.x % LANES * 16;
    if (column >= S::row) return;
    from += mine * row_bytes + column;
    to += mine * S::stride + column;
#pragma unroll 2
    for (int row = mine; row < KV_PAGE_TOKENS; row += STEP) {
        cu_cp_async16(to, from, row >= first && row < end && column < row_bytes);
        from += STEP * row_bytes;
        to += STEP * S::stride;
    }
}

/* The scales of its keys and of its values; likewise. */
template <class S>
CU_DEV void load_scales(const unsigned char *from, uint64_t to_values, int first, int end,
                        unsigned char *to) {
    if (threadIdx.x >= 2 * KV_PAGE_TOKENS) return;
    const int row = (int)threadIdx.x % KV_PAGE_TOKENS;
    const bool is_v = threadIdx.x >= KV_PAGE_TOKENS;
    cu_cp_async_ca<4>(to + (is_v ? S::keys * 4 : 0) + row * 4,
                      from + (is_v ? to_values : 0) + row * 4, row >= first && row < end);
}

/* Asks for the block that begins at `key`. */
template <class S>
CU_DEV void load_block(const View &v, uint32_t i, uint32_t kv_head, Frames &frames, int key,
                       unsigned char *stage) {
    const attention_item *item = item_at<S>(v, i);
    const int lane = cu_lane(), row_bytes = (int)CUDA_KV_ROW(v.dim, S::int8);
    const int rows_bytes = KV_PAGE_TOKENS * row_bytes;
    const int block_bytes = rows_bytes + (S::int8 ? KV_PAGE_TOKENS * 4 : 0);
    for (int at = 0; at < S::keys; at += KV_PAGE_TOKENS) {
        const unsigned char *from =
            v.keys + frame_of<S>(v, i, frames, (key + at) / KV_PAGE_TOKENS, lane) * v.frame_bytes +
            (size_t)kv_head * block_bytes;
        int first = (int)item->key - (key + at), end = first + (int)item->keys;
        load_page<S>(from, row_bytes, first, end, stage + at * S::stride);
        load_page<S>(from + v.to_values, row_bytes, first, end, stage + (S::keys + at) * S::stride);
        if constexpr (S::int8)
            load_scales<S>(from + rows_bytes, v.to_values, first, end, stage + S::scales + at * 4);
    }
}

/* --- sums of a chunk -------------------------------------------------------------------------- */

template <class S> struct Sums {
    float out[S::width / 8][4]; /* fragments: rows l/4 (0, 1) and l/4 + 8 (2, 3) */
    float top[2], weight[2];    /* of a row; weight: this lane's part until the chunk is closed */
};

template <class S> CU_DEV void clear(Sums<S> &sums) {
#pragma unroll
    for (int i = 0; i < S::width / 8; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            sums.out[i][j] = 0.0f;
    sums.top[0] = sums.top[1] = -INFINITY;
    sums.weight[0] = sums.weight[1] = 0.0f;
}

template <class S> using Scores = float[S::keys / 8][4];

/* Four codes as bf16, exactly: those in even bytes, and those in odd ones. A code's low seven bits behind the
 * exponent of 128 are 128 more than themselves; its sign chooses between that and 256 to take away. */
CU_DEV void codes_of(uint32_t bytes, uint32_t &even, uint32_t &odd) {
    constexpr int OF_MASKED = 0xea; /* a & b | c */
    constexpr uint32_t ONES = 0x3f803f80u;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t low = cu_lop3<OF_MASKED>(bytes, 0x007f007fu, 0x43004300u);
        const uint32_t less = cu_lop3<OF_MASKED>(bytes, 0x00800080u, 0xc300c300u);
        (i ? odd : even) = cu_fma_bf16x2(low, ONES, less);
        bytes >>= 8;
    }
}

/* The keys are 16 and 32 bytes of their rows at a time: what four matrices of ldmatrix hold. */
template <class S>
CU_DEV void score_keys(const uint32_t (&q)[S::width / 16][4], const uint32_t (&k)[4], int i,
                       float (&low)[4], float (&high)[4]) {
    if constexpr (S::int8) {
        uint32_t codes[2];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            codes_of(k[j], codes[0], codes[1]);
            cu_mma_bf16(j < 2 ? low : high, q[2 * i + j % 2], codes, j < 2 ? low : high);
        }
    } else {
        const uint32_t first[2] = {k[0], k[1]}, second[2] = {k[2], k[3]};
        cu_mma_bf16(low, q[i], first, low);
        cu_mma_bf16(high, q[i], second, high);
    }
}

/* Of this lane's keys of eight, or of its values. */
CU_DEV float2 scales_at(const unsigned char *scales, int first, int lane) {
    return *reinterpret_cast<const float2 *>(scales + (first + lane % 4 * 2) * 4);
}

template <class S>
CU_DEV void score(const uint32_t (&q)[S::width / 16][4], const unsigned char *stage, int lane,
                  Scores<S> &scores) {
    const unsigned char *mine =
        stage + ((lane & 7) + lane / 16 * 8) * S::stride + lane / 8 % 2 * 16;
#pragma unroll
    for (int n = 0; n < S::keys / 8; n++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            scores[n][j] = 0.0f;
#pragma unroll
    for (int i = 0; i < S::row / 32; i++)
#pragma unroll
        for (int n = 0; n < S::keys / 16; n++) {
            uint32_t k[4];
            cu_ldmatrix_x4(k, mine + n * 16 * S::stride + i * 32);
            score_keys<S>(q, k, i, scores[2 * n], scores[2 * n + 1]);
        }
#pragma unroll
    for (int n = 0; S::int8 && n < S::keys / 8; n++) {
        const float2 scale = scales_at(stage + S::scales, n * 8, lane);
#pragma unroll
        for (int j = 0; j < 4; j++)
            scores[n][j] = __fmul_rn(scores[n][j], j % 2 ? scale.y : scale.x);
    }
}

/* softcap * tanh(s / softcap), base 2; q_scale has made s what exp2 wants: tanh(x) = 1 - 2/(e^2x + 1). */
template <class S> CU_DEV void cap_scores(const View &v, Scores<S> &scores) {
#pragma unroll
    for (int n = 0; n < S::keys / 8; n++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            scores[n][j] =
                fmaf(-2.0f * v.cap, __fdividef(1.0f, cu_exp2(scores[n][j]) + 1.0f), v.cap);
}

template <class S>
CU_DEV void mask_scores(const View &v, const Sight &sight, int key, int lane, Scores<S> &scores) {
#pragma unroll
    for (int n = 0; n < S::keys / 8; n++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int at = key + n * 8 + lane % 4 * 2 + (j & 1), last = sight.last[j >> 1];
            if (at < first_key(v, last) || at > last) scores[n][j] = -INFINITY;
        }
}

/* The maximum to subtract: 0 while a row has seen nothing, so that its weights are 0 and not NaN. */
CU_DEV float base_of(float top) { return top == -INFINITY ? 0.0f : top; }

/* Scores become weights; sums so far shrink to the new maximum. */
template <class S> CU_DEV void weigh(Scores<S> &scores, Sums<S> &sums) {
    float shrink[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float top = sums.top[r], added = 0.0f;
#pragma unroll
        for (int n = 0; n < S::keys / 8; n++)
            top = fmaxf(top, fmaxf(scores[n][2 * r], scores[n][2 * r + 1]));
        top = fmaxf(top, __shfl_xor_sync(CU_FULL, top, 1));
        top = fmaxf(top, __shfl_xor_sync(CU_FULL, top, 2));
        float base = base_of(top);
        shrink[r] = cu_exp2(sums.top[r] - base);
        sums.top[r] = top;
#pragma unroll
        for (int n = 0; n < S::keys / 8; n++)
#pragma unroll
            for (int j = 2 * r; j < 2 * r + 2; j++) {
                scores[n][j] = cu_exp2(scores[n][j] - base);
                added += scores[n][j];
            }
        sums.weight[r] = fmaf(sums.weight[r], shrink[r], added);
    }
    /* Times 1 changes no bit: after the first blocks this is rare. */
    if (!__any_sync(CU_FULL, shrink[0] != 1.0f || shrink[1] != 1.0f)) return;
#pragma unroll
    for (int i = 0; i < S::width / 8; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            sums.out[i][j] *= shrink[j >> 1];
}

/* Two rows' weights of 8 keys, as half of the first operand. */
template <class S>
CU_DEV void pack_weights(const float (&weights)[4], const unsigned char *scales, int first,
                         int lane, uint32_t &low, uint32_t &high) {
    float2 scale = make_float2(1.0f, 1.0f);
    if constexpr (S::int8) scale = scales_at(scales, first, lane);
    low = cu_pack_bf16(weights[0] * scale.x, weights[1] * scale.y);
    high = cu_pack_bf16(weights[2] * scale.x, weights[3] * scale.y);
}

/* 16 values, and 32 bytes of their rows: what four matrices of ldmatrix hold. */
template <class S>
CU_DEV void add_rows(const uint32_t (&w)[4], const uint32_t (&v)[4], int i, Sums<S> &sums) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint32_t *of = v + 2 * half;
        if constexpr (S::int8) {
            float(*out)[4] = sums.out + 4 * i + 2 * half;
            uint32_t even[2], odd[2];
            codes_of(of[0], even[0], odd[0]);
            codes_of(of[1], even[1], odd[1]);
            cu_mma_bf16(out[0], w, even, out[0]);
            cu_mma_bf16(out[1], w, odd, out[1]);
        } else {
            const uint32_t both[2] = {of[0], of[1]};
            cu_mma_bf16(sums.out[2 * i + half], w, both, sums.out[2 * i + half]);
        }
    }
}

template <class S>
CU_DEV void add_values(const Scores<S> &weights, const unsigned char *stage, int lane,
                       Sums<S> &sums) {
    const unsigned char *values = stage + S::keys * S::stride;
    const unsigned char *mine = values + (lane & 15) * S::stride + lane / 16 * 16;
    const unsigned char *scales = stage + S::scales + S::keys * 4;
#pragma unroll
    for (int n = 0; n < S::keys / 16; n++) {
        uint32_t w[4];
        pack_weights<S>(weights[2 * n], scales, n * 16, lane, w[0], w[1]);
        pack_weights<S>(weights[2 * n + 1], scales, n * 16 + 8, lane, w[2], w[3]);
#pragma unroll
        for (int i = 0; i < S::row / 32; i++) {
            uint32_t v[4];
            cu_ldmatrix_x4_trans(v, mine + n * 16 * S::stride + i * 32);
            add_rows<S>(w, v, i, sums);
        }
    }
}

template <class S>
CU_DEV void attend_block(const View &v, const Sight &sight, const uint32_t (&q)[S::width / 16][4],
                         const unsigned char *stage, int key, int lane, Sums<S> &sums) {
    Scores<S> scores;
    score<S>(q, stage, lane, scores);
    if (v.cap != 0.0f) cap_scores<S>(v, scores);
    if (!is_seen_by_all(v, sight, key, key + S::keys)) mask_scores<S>(v, sight, key, lane, scores);
    weigh<S>(scores, sums);
    add_values<S>(scores, stage, lane, sums);
}

/* --- chunks into rows ------------------------------------------------------------------------- */

struct Fold {
    float top, keep, take; /* the new maximum; factors of what there is, and of what comes */
};

CU_DEV Fold fold_of(float top, float coming) {
    Fold fold;
    fold.top = fmaxf(top, coming);
    fold.keep = cu_exp2(top - base_of(fold.top));
    fold.take = cu_exp2(coming - base_of(fold.top));
    return fold;
}

CU_DEV float folded(const Fold &fold, float sum, float coming) {
    return fmaf(sum, fold.keep, coming * fold.take);
}

/* A row's sums over all chunks so far. */
template <class S> struct Totals {
    float top[2], weight[2];
    float out[S::totals_shared ? 1 : S::width / 8][4];
    float4 *shared; /* [W / 8][32], this lane's entries; when totals_shared */
};

template <class S> CU_DEV void clear_totals(Totals<S> &totals) {
    totals.top[0] = totals.top[1] = -INFINITY;
    totals.weight[0] = totals.weight[1] = 0.0f;
#pragma unroll
    for (int i = 0; i < S::width / 8; i++)
        if constexpr (S::totals_shared)
            totals.shared[i * 32] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        else
            totals.out[i][0] = totals.out[i][1] = totals.out[i][2] = totals.out[i][3] = 0.0f;
}

template <class S> CU_DEV void fold_chunk(const Sums<S> &sums, Totals<S> &totals) {
    Fold fold[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        fold[r] = fold_of(totals.top[r], sums.top[r]);
        totals.top[r] = fold[r].top;
        totals.weight[r] = folded(fold[r], totals.weight[r], sums.weight[r]);
    }
#pragma unroll
    for (int i = 0; i < S::width / 8; i++) {
        const float(&coming)[4] = sums.out[i];
        if constexpr (S::totals_shared) {
            if (i % 4 == 0)
                __syncwarp(); /* a few loads at a time: all at once take all registers */
            float4 t = totals.shared[i * 32];
            totals.shared[i * 32] =
                make_float4(folded(fold[0], t.x, coming[0]), folded(fold[0], t.y, coming[1]),
                            folded(fold[1], t.z, coming[2]), folded(fold[1], t.w, coming[3]));
        } else {
#pragma unroll
            for (int j = 0; j < 4; j++)
                totals.out[i][j] = folded(fold[j >> 1], totals.out[i][j], coming[j]);
        }
    }
}

/* Adds up the lanes' parts of a row's weights. */
template <class S> CU_DEV void close_chunk(Sums<S> &sums) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sums.weight[r] += __shfl_xor_sync(CU_FULL, sums.weight[r], 1);
        sums.weight[r] += __shfl_xor_sync(CU_FULL, sums.weight[r], 2);
    }
}

/* --- sums out of fragments --------------------------------------------------------------------- */

/* The first of two neighbouring dims of which this lane has sums, for i below W / 8. */
template <class S> CU_DEV int column_of(int i, int lane) {
    return S::int8 ? i / 2 * 16 + lane % 4 * 4 + i % 2 * 2 : i * 8 + lane % 4 * 2;
}

/* Which fragment has dim e (0, 1) of them, and where in it, of row r. */
template <class S> CU_DEV int tile_of(int i, int e) { return S::int8 ? i / 2 * 2 + e : i; }
template <class S> CU_DEV int part_of(int i, int e, int r) { return 2 * r + (S::int8 ? i % 2 : e); }

template <class S>
CU_DEV void store_partial(const View &v, const attention_item &item, uint32_t kv_head, int warp,
                          int lane, const Sums<S> &sums) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        uint32_t row = (uint32_t)(warp * ATTENTION_TILE_ROWS + lane / 4 + 8 * r);
        if (row >= item.rows) continue;
        size_t at = (size_t)kv_head * v.partial_rows + item.partial + row;
        if (lane % 4 == 0) v.partial_tops[at] = make_float2(sums.top[r], sums.weight[r]);
        float *to = v.partial_sums + at * v.dim;
#pragma unroll
        for (int i = 0; i < S::width / 8; i++) {
            int column = column_of<S>(i, lane);
            if (column < (int)v.dim)
                *reinterpret_cast<float2 *>(to + column) =
                    make_float2(sums.out[tile_of<S>(i, 0)][part_of<S>(i, 0, r)],
                                sums.out[tile_of<S>(i, 1)][part_of<S>(i, 1, r)]);
        }
    }
}

template <class S> CU_DEV float total_at(const Totals<S> &totals, int tile, int part) {
    if constexpr (S::totals_shared)
        return reinterpret_cast<const float *>(&totals.shared[tile * 32])[part];
    else
        return totals.out[tile][part];
}

template <class S>
CU_DEV void store_rows(const View &v, const attention_item &item, uint32_t kv_head, int warp,
                       int lane, const Totals<S> &totals) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        uint32_t row = (uint32_t)(warp * ATTENTION_TILE_ROWS + lane / 4 + 8 * r);
        if (row >= item.rows) continue;
        uint16_t *to = v.out + row_offset(v, item, kv_head, row, v.heads);
        float inverse = __fdividef(1.0f, totals.weight[r]);
#pragma unroll
        for (int i = 0; i < S::width / 8; i++) {
            int column = column_of<S>(i, lane);
            float x = total_at<S>(totals, tile_of<S>(i, 0), part_of<S>(i, 0, r));
            float y = total_at<S>(totals, tile_of<S>(i, 1), part_of<S>(i, 1, r));
            if (column < (int)v.dim)
                *reinterpret_cast<uint32_t *>(to + column) = cu_pack_bf16(x * inverse, y * inverse);
        }
    }
}

/* --- kernels ---------------------------------------------------------------------------------- */

/* The value, which all lanes have, in a form that the compiler can prove equal. */
CU_DEV int uniform(int value) { return __shfl_sync(CU_FULL, value, 0); }

/* One tile against its keys; stages: shared memory, free on entry and on return. */
template <class S>
CU_DEV void attend_item(const View &v, uint32_t i, uint32_t kv_head, unsigned char *stages,
                        float4 *totals_memory) {
    constexpr int AHEAD = S::stages - 1; /* blocks that are on their way */
    const int lane = cu_lane(), warp = cu_warp_id();
    const attention_item *item = item_at<S>(v, i);
    const int first = uniform((int)item->key), begin = first / S::keys * S::keys;
    const int end = first + uniform((int)item->keys);
    const bool whole = uniform((int)item->partial) == (int)ATTENTION_NO_PARTIAL;
    Frames frames = {-1, 0};
    for (int ahead = 0; ahead < AHEAD; ahead++) {
        const int key = begin + ahead * S::keys;
        if (key < end) load_block<S>(v, i, kv_head, frames, key, stages + ahead * S::stage);
        cu_cp_async_commit();
    }
    const Sight sight = sight_of(v, *item, warp, lane);
    uint32_t q[S::width / 16][4];
    load_queries<S>(v, *item, kv_head, warp, lane, q);
    Sums<S> sums;
    clear<S>(sums);
    Totals<S> totals;
    totals.shared = totals_memory + warp * (S::width / 8 * 32) + lane;
    clear_totals<S>(totals);
    int now = 0; /* the block's stage; the one before it is free */
    for (int key = begin; key < end; key += S::keys) {
        cu_cp_async_wait<AHEAD - 1>();
        __syncthreads(); /* the block is there for all; the one before it is done with by all */
        const int asked = key + AHEAD * S::keys, slot = now == 0 ? AHEAD : now - 1;
        if (asked < end) load_block<S>(v, i, kv_head, frames, asked, stages + slot * S::stage);
        cu_cp_async_commit();
        if (is_seen(v, sight, key, key + S::keys))
            attend_block<S>(v, sight, q, stages + now * S::stage, key, lane, sums);
        now = now == AHEAD ? 0 : now + 1;
        if ((key + S::keys) % CUDA_CHUNK_TOKENS != 0 && key + S::keys < end) continue;
        close_chunk<S>(sums);
        if (!whole) break; /* it was the only one */
        fold_chunk<S>(sums, totals);
        clear<S>(sums);
    }
    if (whole)
        store_rows<S>(v, *item_at<S>(v, i), kv_head, warp, lane, totals);
    else
        store_partial<S>(v, *item_at<S>(v, i), kv_head, warp, lane, sums);
    cu_cp_async_wait<0>();
    __syncthreads();
}

template <class S> __global__ void __launch_bounds__(S::threads, 1) attend(const View v) {
    CU_DYN_SHARED(unsigned char, memory);
    float4 *totals = reinterpret_cast<float4 *>(memory + S::stages * S::stage);
    for (uint32_t i = blockIdx.y; i < item_count<S>(v); i += gridDim.y)
        attend_item<S>(v, i, blockIdx.x, memory, totals);
}

/* --- launching -------------------------------------------------------------------------------- */

template <class S> cudaError_t launch(const View &view, uint32_t blocks, cudaStream_t stream) {
    if (blocks == 0) return cudaSuccess;
    cudaError_t error = cudaSuccess;
    if (S::bytes > 48 * 1024)
        error =
            cudaFuncSetAttribute(attend<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::bytes);
    if (error != cudaSuccess) return error;
    return CU_LAUNCH((attend<S>), dim3(view.kv_heads, blocks), dim3(S::threads), S::bytes, stream,
                     view);
}

/* Blocks of each kernel, for each kv head. */
struct Grid {
    uint32_t narrow, wide, merges;
};

template <int W, bool INT8>
cudaError_t launch_width(const View &view, const Grid &grid, cudaStream_t stream) {
    cudaError_t error = launch<Shape<W, 1, INT8>>(view, grid.narrow, stream);
    if (error != cudaSuccess) return error;
    return launch<Shape<W, W <= 128 ? 8 : 4, INT8>>(view, grid.wide, stream);
}

template <bool INT8>
cudaError_t launch_tiles(const View &view, const Grid &grid, cudaStream_t stream) {
    if (view.dim <= 32) return launch_width<32, INT8>(view, grid, stream);
    if (view.dim <= 64) return launch_width<64, INT8>(view, grid, stream);
    if (view.dim <= 96) return launch_width<96, INT8>(view, grid, stream);
    if (view.dim <= 128) return launch_width<128, INT8>(view, grid, stream);
    return launch_width<256, INT8>(view, grid, stream);
}

/* The tiles of a plan over pages of bf16 (cuda_attention_16.cu) and of int8 (cuda_attention_8.cu). */
cudaError_t launch_16(const View &view, const Grid &grid, cudaStream_t stream);
cudaError_t launch_8(const View &view, const Grid &grid, cudaStream_t stream);

} // namespace attention

#endif
