/* attend.h - what attention's two ways over a page share: attention.c's for few queries, with keys in the lanes of a
 * vector, and attend_many.c's, with queries in them.
 *
 * Both compute a query by one chain of operations, so they give the same bits:
 *   s       scale * (fma over even dims + fma over odd dims), dims in order; capped
 *   top'    max(top, s of the slots in range)
 *   shrink  exp2(top - top'), which is exactly 1 where top does not move
 *   p       exp2(s - top'), 0 out of range
 *   sum'    sum * shrink + (p of the 16 slots, folded by halves, 16 -> 8 -> 4 -> 2 -> 1)
 *   out'    out * shrink, then fma of p * v over the slots in range, in order */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_ATTEND_H
#define ESPALIER_ATTEND_H

#include <float.h>

#include "kernels/cpu/level/simd.h"

enum {
    SHARED_QUERIES = 4,                   /* that use one load of v; few queries: of k, too */
    VALUE_VECTORS = VECTORS == 1 ? 4 : 2, /* of one row of v held at a time */
};

/* Top of a query that has seen no key: no finite score is below it, and it is finite, as -inf - -inf is NaN. */
#define NO_TOP (-FLT_MAX)

typedef struct query {
    const float *q;
    float *out;           /* running sum of p * v, relative to top */
    uint32_t last, first; /* sees keys first..last */
    float top, sum;
} query;

/* Some queries against one page. */
typedef struct page_view {
    const void *keys, *values; /* [D][16], [16][out_width] */
    uint32_t begin;            /* position of slot 0 */
    uint32_t dim, width;       /* D; rounded up to 16 */
    float scale;               /* base 2 */
    float softcap;             /* base 2; 0: none */
} page_view;

typedef enum page_kind { PAGE_BF16, PAGE_F32 } page_kind;

ALWAYS_INLINE vf load_page(page_kind kind, const void *base, size_t index) {
    return kind == PAGE_BF16 ? v_load_bf16((const uint16_t *)base + index)
                             : v_load((const float *)base + index);
}

static inline void widen(const uint16_t *in, float *out, uint32_t count) {
    for (uint32_t i = 0; i < count; i += LANES)
        v_store(out + i, v_load_bf16(in + i));
}

/* For more queries than share one load: a bf16 page as float32, widened once for all of them. */
static inline page_view widened(const page_view *page, cpu_scratch *scratch) {
    page_view wide = *page;
    widen(page->keys, scratch->keys, page->dim * KV_PAGE_TOKENS);
    widen(page->values, scratch->values, page->width * KV_PAGE_TOKENS);
    wide.keys = scratch->keys;
    wide.values = scratch->values;
    return wide;
}

/* Slots of the page that the query sees: [first, end), empty when first >= end. */
typedef struct slot_range {
    uint32_t first, end;
} slot_range;

static inline slot_range visible(const query *q, uint32_t begin) {
    slot_range range = {0, 0};
    if (q->last < begin || q->first >= begin + KV_PAGE_TOKENS) return range;
    uint32_t end = q->last - begin + 1;
    range.first = q->first > begin ? q->first - begin : 0;
    range.end = end < KV_PAGE_TOKENS ? end : KV_PAGE_TOKENS;
    return range;
}

/* Of some queries on a page: query i gives slot s the weight at[i * query_step + s * slot_step], and
 * shrink[i] scales what it has summed before. */
typedef struct page_weights {
    const float *at, *shrink;
    uint32_t query_step, slot_step;
} page_weights;

/* out = out * shrink + sum over the range's slots, in order, of weight * v; columns from `at`. */
ALWAYS_INLINE void add_columns(page_kind kind, uint32_t count, uint32_t vectors,
                               const page_view *page, const query *queries, slot_range range,
                               page_weights weights, uint32_t at) {
    vf acc[SHARED_QUERIES][VALUE_VECTORS];
    UNROLL for (uint32_t i = 0; i < count; i++) {
        vf shrink = v_set1(weights.shrink[i]);
        UNROLL for (uint32_t c = 0; c < vectors; c++) acc[i][c] =
            v_mul(v_load(queries[i].out + at + c * LANES), shrink);
    }
    for (uint32_t slot = range.first; slot < range.end; slot++) {
        vf value[VALUE_VECTORS];
        UNROLL for (uint32_t c = 0; c < vectors; c++) value[c] =
            load_page(kind, page->values, (size_t)slot * page->width + at + c * LANES);
        UNROLL for (uint32_t i = 0; i < count; i++) {
            vf p = v_set1(weights.at[i * weights.query_step + slot * weights.slot_step]);
            UNROLL for (uint32_t c = 0; c < vectors; c++) acc[i][c] = v_fma(p, value[c], acc[i][c]);
        }
    }
    UNROLL for (uint32_t i = 0; i < count; i++) UNROLL for (uint32_t c = 0; c < vectors; c++)
        v_store(queries[i].out + at + c * LANES, acc[i][c]);
}

/* count, at most SHARED_QUERIES, and the steps of weights are constants. */
ALWAYS_INLINE void add_values(page_kind kind, uint32_t count, const page_view *page,
                              const query *queries, slot_range range, page_weights weights) {
    uint32_t at = 0;
    for (; at + VALUE_VECTORS * LANES <= page->width; at += VALUE_VECTORS * LANES)
        add_columns(kind, count, VALUE_VECTORS, page, queries, range, weights, at);
    for (; at < page->width; at += LANES)
        add_columns(kind, count, 1, page, queries, range, weights, at);
}

/* --- attend_many.c ------------------------------------------------------------------------ */

/* The queries of an item side by side, a lane each; rows of QUERIES_MAX. Lanes behind the last query hold copies of it
 * whose results nobody reads. */
typedef struct many_queries {
    query *queries; /* [count], in order of position; the caller's */
    uint32_t count;
    cpu_scratch *scratch;
    _Alignas(CACHE_LINE_BYTES) float top[QUERIES_MAX];
    float sum[QUERIES_MAX];
    /* On the page at hand: */
    float shrink[QUERIES_MAX];
    slot_range ranges[QUERIES_MAX];
    float first[QUERIES_MAX], end[QUERIES_MAX]; /* the same */
} many_queries;

/* An empty lane costs as much as a query: this way is the faster one once three quarters have one. */
static inline bool many_suits(uint32_t count) {
    return count > SHARED_QUERIES && 4 * count >= 3 * cpu_round_up(count, LANES);
}

/* The queries' q are copied; their outs are zeros. */
void LEVEL_NAME(many_open)(many_queries *many, query *queries, uint32_t count, uint32_t dim,
                           cpu_scratch *scratch);
/* Pages come in order; those that no query sees may be left out. Adds to the outs. */
void LEVEL_NAME(many_attend)(many_queries *many, page_kind kind, const page_view *page);
/* Gives the queries their sums. */
void LEVEL_NAME(many_close)(const many_queries *many);

#endif
