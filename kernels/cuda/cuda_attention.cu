/* cuda_attention.cu - attention over pages, for decodes and for prefill chunks.
 *
 *   out[t,h,:] = sum_j softmax_j(cap(scale * q[t,h] . k[j,h/G])) v[j,h/G],  j in (p - window, p]
 *   cap(s) = softcap * tanh(s / softcap), or s;  bidirectional: j in the whole sequence
 *
 * In     q in qkv [T, (heads + 2*kv_heads) * D] f32, after rope_store; pages as cuda_kv.h says, bf16;
 *        tables [S, stride] u32; plan: items as cuda_attention_plan.h says
 * Out    out [T, heads*D] bf16
 * Temp   partial sums of split tiles in `work`: [kv_heads][rows][D] f32, then [kv_heads][rows][2] f32
 * Grid   (kv_heads, items) x 32 threads a warp; a warp does 16 rows, a row is one query head of one token, so
 *        that the G = heads / kv_heads heads that share keys lie in one mma tile. Narrow tiles are of one
 *        warp; wide ones of 8 (D > 128: 4), which share the keys that they load
 * Units  scores and maxima base 2: q carries scale * log2(e) when it is rounded to bf16
 * Needs  D even, D <= 256; sm_80 up; at most 99 KiB of shared memory (sm_86)
 * Cost   4*keys*D bytes read per sequence and kv head: decodes are bound by it. Rows cost 4*keys*D multiply-adds
 *        a head, twice that on the way of 16-row tiles that are half empty
 * Error  of the same pages |gpu - ref| <= u (|ref| + sum_j w_j |v_j|) + sum_j w_j |v_j - ref| (exp(d_j) - 1), where
 *        u = 2^-8 rounds outputs and weights w, and d_j = u scale |q| . |k_j| is what rounding q does to a score. With
 *        q, k, v in (-2, 2) it stays below 1e-2 * (|ref| + 1)
 * Source online softmax, arXiv:1805.02867; pages, arXiv:2309.06180; a split over keys as in Flash-Decoding, 2023
 *
 * Law 1. A row's sums run over blocks of 32 keys (D > 128: 16) from the first that it sees to the last, in
 * each chunk of 256 positions anew; a chunk's sums are folded into the row's, chunk by chunk (fold_of). What
 * a row does not see weighs exactly 0 and leaves maxima alone, so it does not matter who else is in the
 * tile, nor whether the fold happens here or in merge_rows. Products and sums that a compiler could contract
 * in one kernel and not in another are written as fmaf. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cu.h"
#include "kernels/cuda/cuda_attention_plan.h"
#include "kernels/cuda/cuda_kv.h"

namespace {

constexpr float LOG2_E = 1.4426950408889634f;

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

/* A kernel: heads of up to W dims, tiles of so many warps. */
template <int W, int WARPS> struct Shape {
    static constexpr int width = W, warps = WARPS, threads = 32 * WARPS;
    static constexpr int keys = W > 128 ? 16 : 32; /* of a block, which is what a stage holds */
    /* Elements of a row in shared memory: an odd number of 16 bytes, so that the eight rows of a matrix
     * that ldmatrix reads lie in all banks once. */
    static constexpr int stride = W + 8;
    static constexpr int stage = 2 * keys * stride; /* elements: keys, then values */
    static constexpr int stages = WARPS > 1 && W <= 128 ? 3 : 2;
    /* Where the sums of all chunks do not fit registers beside those of one: [W / 8][32] float4 a warp. */
    static constexpr bool totals_shared = W > 128;
    static constexpr int totals = totals_shared ? WARPS * ATTENTION_TILE_ROWS * W : 0; /* floats */
    static constexpr int bytes = stages * stage * 2 + totals * 4;
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

CU_DEV uint32_t load_pair(const View &v, const float *row, bool there, int column) {
    if (!there || column >= (int)v.dim) return 0;
    float2 pair = *reinterpret_cast<const float2 *>(row + column);
    return cu_pack_bf16(pair.x * v.q_scale, pair.y * v.q_scale);
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
        for (int i = 0; i < S::width / 16; i++) {
            q[i][r] = load_pair(v, from, there, i * 16 + lane % 4 * 2);
            q[i][2 + r] = load_pair(v, from, there, i * 16 + 8 + lane % 4 * 2);
        }
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
CU_DEV void load_page(const unsigned char *from, int row_elements, int first, int end,
                      uint16_t *to) {
    constexpr int LANES = S::width <= 32 ? 4 : S::width <= 64 ? 8 : S::width <= 128 ? 16 : 32;
    constexpr int STEP = S::threads / LANES; /* rows at a time */
    const int mine = (int)threadIdx.x / LANES, column = (int)threadIdx.x % LANES * 8;
    if (column >= S::width) return;
    from += (mine * row_elements + column) * 2;
    to += mine * S::stride + column;
#pragma unroll 2
    for (int row = mine; row < KV_PAGE_TOKENS; row += STEP) {
        cu_cp_async16(to, from, row >= first && row < end && column < row_elements);
        from += STEP * row_elements * 2;
        to += STEP * S::stride;
    }
}

/* Asks for the block that begins at `key`. */
template <class S>
CU_DEV void load_block(const View &v, uint32_t i, uint32_t kv_head, Frames &frames, int key,
                       uint16_t *stage) {
    const attention_item *item = item_at<S>(v, i);
    const int lane = cu_lane(), row_elements = (int)CUDA_KV_ROW(v.dim);
    for (int at = 0; at < S::keys; at += KV_PAGE_TOKENS) {
        const unsigned char *from =
            v.keys + frame_of<S>(v, i, frames, (key + at) / KV_PAGE_TOKENS, lane) * v.frame_bytes +
            (size_t)kv_head * KV_PAGE_TOKENS * row_elements * 2;
        int first = (int)item->key - (key + at), end = first + (int)item->keys;
        load_page<S>(from, row_elements, first, end, stage + at * S::stride);
        load_page<S>(from + v.to_values, row_elements, first, end,
                     stage + (S::keys + at) * S::stride);
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

template <class S>
CU_DEV void score(const uint32_t (&q)[S::width / 16][4], const uint16_t *keys, int lane,
                  Scores<S> &scores) {
    const uint16_t *mine = keys + ((lane & 7) + lane / 16 * 8) * S::stride + lane / 8 % 2 * 8;
#pragma unroll
    for (int n = 0; n < S::keys / 8; n++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            scores[n][j] = 0.0f;
#pragma unroll
    for (int i = 0; i < S::width / 16; i++)
#pragma unroll
        for (int n = 0; n < S::keys / 16; n++) {
            uint32_t k[4];
            cu_ldmatrix_x4(k, mine + n * 16 * S::stride + i * 16);
            const uint32_t low[2] = {k[0], k[1]}, high[2] = {k[2], k[3]};
            cu_mma_bf16(scores[2 * n], q[i], low, scores[2 * n]);
            cu_mma_bf16(scores[2 * n + 1], q[i], high, scores[2 * n + 1]);
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

template <class S>
CU_DEV void add_values(const Scores<S> &weights, const uint16_t *values, int lane, Sums<S> &sums) {
    const uint16_t *mine = values + (lane & 15) * S::stride + lane / 16 * 8;
#pragma unroll
    for (int n = 0; n < S::keys / 16; n++) {
        const float(&left)[4] = weights[2 * n], (&right)[4] = weights[2 * n + 1];
        const uint32_t w[4] = {cu_pack_bf16(left[0], left[1]), cu_pack_bf16(left[2], left[3]),
                               cu_pack_bf16(right[0], right[1]), cu_pack_bf16(right[2], right[3])};
#pragma unroll
        for (int i = 0; i < S::width / 16; i++) {
            uint32_t v[4];
            cu_ldmatrix_x4_trans(v, mine + n * 16 * S::stride + i * 16);
            const uint32_t low[2] = {v[0], v[1]}, high[2] = {v[2], v[3]};
            cu_mma_bf16(sums.out[2 * i], w, low, sums.out[2 * i]);
            cu_mma_bf16(sums.out[2 * i + 1], w, high, sums.out[2 * i + 1]);
        }
    }
}

template <class S>
CU_DEV void attend_block(const View &v, const Sight &sight, const uint32_t (&q)[S::width / 16][4],
                         const uint16_t *stage, int key, int lane, Sums<S> &sums) {
    Scores<S> scores;
    score<S>(q, stage, lane, scores);
    if (v.cap != 0.0f) cap_scores<S>(v, scores);
    if (!is_seen_by_all(v, sight, key, key + S::keys)) mask_scores<S>(v, sight, key, lane, scores);
    weigh<S>(scores, sums);
    add_values<S>(scores, stage + S::keys * S::stride, lane, sums);
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
            int column = i * 8 + lane % 4 * 2;
            if (column < (int)v.dim)
                *reinterpret_cast<float2 *>(to + column) =
                    make_float2(sums.out[i][2 * r], sums.out[i][2 * r + 1]);
        }
    }
}

template <class S> CU_DEV float2 total_of(const Totals<S> &totals, int i, int r) {
    if constexpr (S::totals_shared) {
        const float4 t = totals.shared[i * 32];
        return r ? make_float2(t.z, t.w) : make_float2(t.x, t.y);
    } else {
        return make_float2(totals.out[i][2 * r], totals.out[i][2 * r + 1]);
    }
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
            int column = i * 8 + lane % 4 * 2;
            float2 t = total_of<S>(totals, i, r);
            if (column < (int)v.dim)
                *reinterpret_cast<uint32_t *>(to + column) =
                    cu_pack_bf16(t.x * inverse, t.y * inverse);
        }
    }
}

/* --- kernels ---------------------------------------------------------------------------------- */

/* The value, which all lanes have, in a form that the compiler can prove equal. */
CU_DEV int uniform(int value) { return __shfl_sync(CU_FULL, value, 0); }

/* One tile against its keys; stages: shared memory, free on entry and on return. */
template <class S>
CU_DEV void attend_item(const View &v, uint32_t i, uint32_t kv_head, uint16_t *stages,
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
    CU_DYN_SHARED(uint16_t, memory);
    float4 *totals = reinterpret_cast<float4 *>(memory + S::stages * S::stage);
    for (uint32_t i = blockIdx.y; i < item_count<S>(v); i += gridDim.y)
        attend_item<S>(v, i, blockIdx.x, memory, totals);
}

/* Two dims of a row: its chunks folded in order. */
CU_DEV void merge_pair(const View &v, const attention_item &merge, size_t first, uint32_t column,
                       uint16_t *out) {
    float top = -INFINITY, weight = 0.0f, x = 0.0f, y = 0.0f;
#pragma unroll 8 /* what is loaded depends on nothing */
    for (uint32_t chunk = 0; chunk < merge.keys; chunk++) {
        size_t row = first + (size_t)chunk * merge.rows;
        float2 part = v.partial_tops[row];
        float2 sum = *reinterpret_cast<const float2 *>(v.partial_sums + row * v.dim + column);
        Fold fold = fold_of(top, part.x);
        top = fold.top;
        weight = folded(fold, weight, part.y);
        x = folded(fold, x, sum.x);
        y = folded(fold, y, sum.y);
    }
    float inverse = __fdividef(1.0f, weight);
    *reinterpret_cast<uint32_t *>(out + column) = cu_pack_bf16(x * inverse, y * inverse);
}

constexpr int MERGE_WARPS = 8, MERGE_DIMS = 64; /* of a row, by a warp at a time */

__global__ void __launch_bounds__(32 * MERGE_WARPS, 4) merge_rows(const View v) {
    const attention_item *merges = reinterpret_cast<const attention_item *>(v.plan + 1) +
                                   v.plan->narrow_count + v.plan->wide_count;
    const uint32_t kv_head = blockIdx.x, parts = (v.dim + MERGE_DIMS - 1) / MERGE_DIMS;
    for (uint32_t i = blockIdx.y; i < v.plan->merge_count; i += gridDim.y) {
        const attention_item merge = merges[i];
        for (uint32_t at = threadIdx.x / 32; at < merge.rows * parts; at += MERGE_WARPS) {
            const uint32_t row = at / parts;
            const uint32_t column = at % parts * MERGE_DIMS + 2 * (uint32_t)cu_lane();
            if (column < v.dim)
                merge_pair(v, merge, (size_t)kv_head * v.partial_rows + merge.partial + row, column,
                           v.out + row_offset(v, merge, kv_head, row, v.heads));
        }
    }
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

template <int W>
cudaError_t launch_width(const View &view, uint32_t narrow, uint32_t wide, cudaStream_t stream) {
    cudaError_t error = launch<Shape<W, 1>>(view, narrow, stream);
    if (error != cudaSuccess) return error;
    return launch<Shape<W, W <= 128 ? 8 : 4>>(view, wide, stream);
}

cudaError_t launch_tiles(const View &view, uint32_t narrow, uint32_t wide, cudaStream_t stream) {
    if (view.dim <= 32) return launch_width<32>(view, narrow, wide, stream);
    if (view.dim <= 64) return launch_width<64>(view, narrow, wide, stream);
    if (view.dim <= 96) return launch_width<96>(view, narrow, wide, stream);
    if (view.dim <= 128) return launch_width<128>(view, narrow, wide, stream);
    return launch_width<256>(view, narrow, wide, stream);
}

View view_of(const cuda_attention_args &a) {
    const cuda_attention_kind &kind = a.kind;
    const uint32_t rows = attention_partial_rows(&kind);
    View view = {};
    view.qkv = a.qkv;
    view.out = a.out;
    view.keys = static_cast<const unsigned char *>(a.kv.arena) + a.kv.k_offset;
    view.frame_bytes = a.kv.frame_bytes;
    view.to_values = a.kv.v_offset - a.kv.k_offset;
    view.tables = a.batch.tables + (size_t)a.kv.group * a.batch.seq_count * a.batch.table_stride;
    view.plan = static_cast<const cuda_attention_plan *>(a.plan);
    view.partial_sums = static_cast<float *>(a.work);
    view.partial_tops = reinterpret_cast<float2 *>(view.partial_sums +
                                                   (size_t)kind.kv_heads * rows * kind.head_dim);
    view.partial_rows = rows;
    view.table_stride = a.batch.table_stride;
    view.heads = kind.heads;
    view.kv_heads = kind.kv_heads;
    view.group = kind.heads / kind.kv_heads;
    view.dim = kind.head_dim;
    view.window = (int)min(kind.window, 0x7fffffffu);
    view.bidirectional = kind.bidirectional;
    view.q_scale = a.softcap > 0 ? 2 * LOG2_E * a.scale / a.softcap : LOG2_E * a.scale;
    view.cap = a.softcap * LOG2_E;
    return view;
}

/* Blocks of each kernel, for each kv head. */
struct Grid {
    uint32_t narrow, wide, merges;
};

constexpr uint32_t GRID_Y_MAX = 65535, CAPTURED_MAX = 256;

Grid grid_of(const cuda_attention_plan &plan) {
    return Grid{min(plan.narrow_count, GRID_Y_MAX), min(plan.wide_count, GRID_Y_MAX),
                min(plan.merge_count, GRID_Y_MAX)};
}

/* They share the items of whatever plan they find; more of them than items are little work. */
Grid captured_grid(uint32_t group, uint32_t seq_count) {
    const uint32_t items = min(48 + 16 * seq_count, CAPTURED_MAX);
    const bool narrow = group <= ATTENTION_NARROW_MAX;
    return Grid{narrow ? items : 0, narrow ? 0 : items, min(2 * seq_count, CAPTURED_MAX)};
}

} // namespace

extern "C" int cuda_attention(const cuda_attention_args *args, void *stream) {
    const cuda_attention_kind &kind = args->kind;
    if (kind.kv_heads == 0 || kind.heads % kind.kv_heads || kind.head_dim % 2 ||
        kind.head_dim > CUDA_HEAD_DIM_MAX || (kind.bidirectional && kind.window))
        return cudaErrorInvalidValue;
    const View view = view_of(*args);
    const cudaStream_t at = static_cast<cudaStream_t>(stream);
    const auto *plan = static_cast<const cuda_attention_plan *>(args->host_plan);
    const Grid grid = plan ? grid_of(*plan) : captured_grid(view.group, args->batch.seq_count);
    cudaError_t error = launch_tiles(view, grid.narrow, grid.wide, at);
    if (error != cudaSuccess || grid.merges == 0) return error;
    return CU_LAUNCH(merge_rows, dim3(kind.kv_heads, grid.merges), dim3(32 * MERGE_WARPS), 0, at,
                     view);
}
