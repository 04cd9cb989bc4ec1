/* attend_many.c - attention of the many queries of a prompt's item: 16 (AVX-512) or 8 (AVX2) queries to a vector.
 *
 * With queries in the lanes a key is broadcast to several vectors of them, so that loads stay below what two FMA a cycle
 * leave; and maximum, exp2 and sum of the softmax go lane by lane, for all queries of a vector at once, with nothing
 * folded across lanes. The operations of a query are attend.h's.
 *
 * In      the item's queries, transposed once; a page, as float32
 * Temp    scratch: queries [D][QUERIES_MAX]; scores, then weights, [16][QUERIES_MAX]; a widened page
 * Cost    2*D FMA a vector of queries and slot, one exp2; a bf16 page widened once an item. Bar: bench/bench_attention.c */
// SPDX-License-Identifier: Apache-2.0
#include "engine/base/least.h"
#include "kernels/cpu/level/attend.h"

enum {
    SCORE_VECTORS = 3,                  /* of queries, that use one broadcast of a key */
    SCORE_SLOTS = VECTORS == 1 ? 4 : 2, /* that use one load of queries */
    LONE_SLOTS = 2 * SCORE_SLOTS,       /* the same for fewer vectors */
};

/* --- queries side by side ----------------------------------------------------------------- */

/* Four dims of four queries. */
static void transpose_block(const float *const *q, uint32_t d, float *out) {
    __m128 row0 = _mm_loadu_ps(q[0] + d), row1 = _mm_loadu_ps(q[1] + d);
    __m128 row2 = _mm_loadu_ps(q[2] + d), row3 = _mm_loadu_ps(q[3] + d);
    _MM_TRANSPOSE4_PS(row0, row1, row2, row3);
    _mm_storeu_ps(out, row0);
    _mm_storeu_ps(out + QUERIES_MAX, row1);
    _mm_storeu_ps(out + 2 * QUERIES_MAX, row2);
    _mm_storeu_ps(out + 3 * QUERIES_MAX, row3);
}

static void transpose(const query *queries, uint32_t count, uint32_t dim, float *out) {
    for (uint32_t i = 0; i < cpu_round_up(count, LANES); i += 4) {
        const float *q[4];
        for (uint32_t k = 0; k < 4; k++)
            q[k] = queries[i + k < count ? i + k : count - 1].q;
        uint32_t d = 0;
        for (; d + 4 <= dim; d += 4)
            transpose_block(q, d, out + d * QUERIES_MAX + i);
        for (; d < dim; d++)
            for (uint32_t k = 0; k < 4; k++)
                out[d * QUERIES_MAX + i + k] = q[k][d];
    }
}

/* --- scores ------------------------------------------------------------------------------- */

/* sum[s][v] += keys[s] * the queries of vector v, for one dim. */
ALWAYS_INLINE void multiply_dim(uint32_t vectors, uint32_t slots, const float *keys,
                                const float *queries, vf (*sum)[SCORE_VECTORS]) {
    vf q[SCORE_VECTORS];
    UNROLL for (uint32_t v = 0; v < vectors; v++) q[v] = v_load(queries + v * LANES);
    UNROLL for (uint32_t s = 0; s < slots; s++) {
        vf key = v_set1(keys[s]);
        UNROLL for (uint32_t v = 0; v < vectors; v++) sum[s][v] = v_fma(key, q[v], sum[s][v]);
    }
}

/* Of some vectors of queries and slots, whose numbers are constants: all sums stay in registers. */
ALWAYS_INLINE void score_tile(uint32_t vectors, uint32_t slots, const page_view *page,
                              const float *keys, const float *queries, float *scores) {
    vf even[LONE_SLOTS][SCORE_VECTORS], odd[LONE_SLOTS][SCORE_VECTORS];
    UNROLL for (uint32_t s = 0; s < slots; s++) UNROLL for (uint32_t v = 0; v < vectors; v++)
        even[s][v] = odd[s][v] = v_zero();
    for (uint32_t d = 0; d < page->dim; d += 2) {
        multiply_dim(vectors, slots, keys, queries, even);
        multiply_dim(vectors, slots, keys + KV_PAGE_TOKENS, queries + QUERIES_MAX, odd);
        keys += 2 * KV_PAGE_TOKENS;
        queries += 2 * QUERIES_MAX;
    }
    UNROLL for (uint32_t s = 0; s < slots; s++) UNROLL for (uint32_t v = 0; v < vectors; v++)
        v_store(scores + s * QUERIES_MAX + v * LANES,
                v_mul(v_add(even[s][v], odd[s][v]), v_set1(page->scale)));
}

/* Of queries at .. at + vectors * LANES. */
ALWAYS_INLINE void score_vectors(uint32_t vectors, uint32_t slots, const many_queries *many,
                                 const page_view *page, uint32_t at) {
    for (uint32_t s = 0; s < KV_PAGE_TOKENS; s += slots)
        score_tile(vectors, slots, page, (const float *)page->keys + s, many->scratch->queries + at,
                   many->scratch->scores[s] + at);
}

static void score(const many_queries *many, const page_view *page) {
    uint32_t vectors = (many->count + LANES - 1) / LANES, v = 0;
    for (; v + SCORE_VECTORS <= vectors; v += SCORE_VECTORS)
        score_vectors(SCORE_VECTORS, SCORE_SLOTS, many, page, v * LANES);
    if (vectors - v == 2)
        score_vectors(2, SCORE_SLOTS, many, page, v * LANES);
    else if (vectors - v == 1)
        score_vectors(1, LONE_SLOTS, many, page, v * LANES);
}

/* --- softmax, a vector of queries at a time; scores and the rest from its first query on ---- */

static void cap(float (*scores)[QUERIES_MAX], uint32_t at, float softcap) {
    for (uint32_t s = 0; s < KV_PAGE_TOKENS; s++)
        v_store(scores[s] + at, v_softcap(v_load(scores[s] + at), softcap));
}

/* -inf in the slots that a query does not see, whose scores may be NaN. */
static void hide(float (*scores)[QUERIES_MAX], uint32_t at, const many_queries *many) {
    vf first = v_load(many->first + at), end = v_load(many->end + at);
    for (uint32_t s = 0; s < KV_PAGE_TOKENS; s++) {
        vf slot = v_set1((float)s), none = v_set1(-INFINITY);
        vf seen = v_if_less(slot, end, none, v_load(scores[s] + at));
        v_store(scores[s] + at, v_if_less(slot, first, seen, none));
    }
}

/* Scores become weights relative to the new maximum. */
static void soften(float (*scores)[QUERIES_MAX], uint32_t at, many_queries *many) {
    enum { HALF = KV_PAGE_TOKENS / 2 };
    vf fold[HALF];
    UNROLL for (uint32_t s = 0; s < HALF; s++) fold[s] =
        v_max(v_load(scores[s] + at), v_load(scores[s + HALF] + at));
    UNROLL for (uint32_t s = 0; s < 4; s++) fold[s] = v_max(fold[s], fold[s + 4]);
    vf page_top = v_max(v_max(fold[0], fold[2]), v_max(fold[1], fold[3]));
    vf old_top = v_load(many->top + at), top = v_max(page_top, old_top);
    UNROLL for (uint32_t s = 0; s < HALF; s++) {
        vf low = v_exp2(v_sub(v_load(scores[s] + at), top));
        vf high = v_exp2(v_sub(v_load(scores[s + HALF] + at), top));
        v_store(scores[s] + at, low);
        v_store(scores[s + HALF] + at, high);
        fold[s] = v_add(low, high);
    }
    UNROLL for (uint32_t s = 0; s < 4; s++) fold[s] = v_add(fold[s], fold[s + 4]);
    vf page_sum = v_add(v_add(fold[0], fold[2]), v_add(fold[1], fold[3]));
    vf shrink = v_exp2(v_sub(old_top, top));
    v_store(many->top + at, top);
    v_store(many->shrink + at, shrink);
    v_store(many->sum + at, v_add(v_mul(v_load(many->sum + at), shrink), page_sum));
}

/* --- values ------------------------------------------------------------------------------- */

static page_weights weights_of(const many_queries *many, const float *shrink, uint32_t first) {
    return (page_weights){.at = many->scratch->scores[0] + first,
                          .shrink = shrink,
                          .query_step = 1,
                          .slot_step = QUERIES_MAX};
}

/* Queries that see different slots: what all of them see is added together, what lies before and after it for each
 * query alone. A weight of 0 would not do: the value may be NaN. */
ALWAYS_INLINE void add_ranges(uint32_t count, const many_queries *many, const page_view *page,
                              uint32_t first) {
    static const float one[SHARED_QUERIES] = {1, 1, 1, 1};
    const query *queries = many->queries + first;
    const slot_range *ranges = many->ranges + first;
    slot_range common = ranges[0];
    for (uint32_t i = 1; i < count; i++) {
        common.first = most(common.first, ranges[i].first);
        common.end = least(common.end, ranges[i].end);
    }
    common.end = most(common.first, common.end);
    for (uint32_t i = 0; i < count; i++) {
        slot_range before = {ranges[i].first, least(ranges[i].end, common.first)};
        add_values(PAGE_F32, 1, page, queries + i, before,
                   weights_of(many, many->shrink + first + i, first + i));
    }
    add_values(PAGE_F32, count, page, queries, common, weights_of(many, one, first));
    for (uint32_t i = 0; i < count; i++) {
        slot_range after = {most(ranges[i].first, common.end), ranges[i].end};
        add_values(PAGE_F32, 1, page, queries + i, after, weights_of(many, one, first + i));
    }
}

ALWAYS_INLINE void add_together(uint32_t count, const many_queries *many, const page_view *page,
                                bool whole, uint32_t first) {
    const slot_range all = {0, KV_PAGE_TOKENS};
    if (whole)
        add_values(PAGE_F32, count, page, many->queries + first, all,
                   weights_of(many, many->shrink + first, first));
    else
        add_ranges(count, many, page, first);
}

static void add_all(const many_queries *many, const page_view *page, bool whole) {
    uint32_t i = 0;
    for (; i + SHARED_QUERIES <= many->count; i += SHARED_QUERIES)
        add_together(SHARED_QUERIES, many, page, whole, i);
    if (many->count - i == 3)
        add_together(3, many, page, whole, i);
    else if (many->count - i == 2)
        add_together(2, many, page, whole, i);
    else if (many->count - i == 1)
        add_together(1, many, page, whole, i);
}

/* ------------------------------------------------------------------------------------------ */

/* Neither bound of what a query sees falls from one to the next. */
static bool all_see_all(const many_queries *many, const page_view *page) {
    return many->queries[many->count - 1].first <= page->begin &&
           many->queries[0].last >= page->begin + KV_PAGE_TOKENS - 1;
}

static void find_ranges(many_queries *many, uint32_t begin) {
    for (uint32_t i = 0; i < cpu_round_up(many->count, LANES); i++) {
        slot_range range = visible(&many->queries[least(i, many->count - 1)], begin);
        many->ranges[i] = range;
        many->first[i] = (float)range.first;
        many->end[i] = (float)range.end;
    }
}

void LEVEL_NAME(many_open)(many_queries *many, query *queries, uint32_t count, uint32_t dim,
                           cpu_scratch *scratch) {
    many->queries = queries;
    many->count = count;
    many->scratch = scratch;
    transpose(queries, count, dim, scratch->queries);
    for (uint32_t i = 0; i < QUERIES_MAX; i++) {
        many->top[i] = NO_TOP;
        many->sum[i] = 0;
    }
}

void LEVEL_NAME(many_attend)(many_queries *many, page_kind kind, const page_view *page) {
    cpu_scratch *scratch = many->scratch;
    page_view wide = kind == PAGE_BF16 ? widened(page, scratch) : *page;
    bool whole = all_see_all(many, &wide);
    if (!whole) find_ranges(many, wide.begin);
    score(many, &wide);
    for (uint32_t i = 0; i < many->count; i += LANES) {
        if (wide.softcap > 0) cap(scratch->scores, i, wide.softcap);
        if (!whole) hide(scratch->scores, i, many);
        soften(scratch->scores, i, many);
    }
    add_all(many, &wide, whole);
}

void LEVEL_NAME(many_close)(const many_queries *many) {
    for (uint32_t i = 0; i < many->count; i++)
        many->queries[i].sum = many->sum[i];
}
