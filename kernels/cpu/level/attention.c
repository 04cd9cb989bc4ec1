/* attention.c - attention over pages.
 *
 *   out[t,h,:] = sum_j softmax_j(cap(scale * q[t,h] . k[j,h/G])) v[j,h/G],  j in (p - window, p]
 *   cap(s) = softcap * tanh(s / softcap), or s;  bidirectional: j in the whole sequence
 *
 * In      q in qkv [T, (heads + 2*kv_heads) * D] f32; pages of cpu.h, bf16 or f32
 * Out     out [T, heads*D] bf16
 * Temp    per worker: one page as float32, outputs of the item's queries
 * Work    an item is some queries (token and head) of one sequence and kv head; items go round the workers. A query
 *         walks its pages in order, alone in its arithmetic: how many queries share the loads of a page changes no bit
 * Units   scores and maxima in base 2: scale * log2(e) * q.k
 * Needs   D even, at most CPU_HEAD_DIM_MAX. Slots beyond a query's range may hold anything, NaN too
 * Cost    2*D*16 FMA lanes and one exp of 16 lanes a page and query. Bar: bench/bench_attention.c
 * Source  online softmax, arXiv:1805.02867; pages, arXiv:2309.06180 */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/level/simd.h"

enum {
    SHARED_QUERIES = 4,                   /* that use one load of k or v together */
    VALUE_VECTORS = VECTORS == 1 ? 4 : 2, /* of one row of v held at a time */
};

#define UNROLL
#define LOG2_E 1.44269504088896341f

typedef struct attention_job {
    kern_device *dev;
    const kern_attention *op;
    uint32_t group;        /* query heads of a kv head */
    uint32_t item_queries; /* at most */
} attention_job;

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

/* Scores of 16 keys for each query, even and odd dims summed apart, then together. */
ALWAYS_INLINE void score(page_kind kind, uint32_t count, const page_view *page,
                         const query *queries, v16 *scores) {
    for (uint32_t v = 0; v < VECTORS; v++) {
        vf even[SHARED_QUERIES], odd[SHARED_QUERIES];
        UNROLL for (uint32_t i = 0; i < count; i++) even[i] = odd[i] = v_zero();
        for (uint32_t d = 0; d < page->dim; d += 2) {
            vf k0 = load_page(kind, page->keys, (size_t)d * KV_PAGE_TOKENS + v * LANES);
            vf k1 = load_page(kind, page->keys, (size_t)(d + 1) * KV_PAGE_TOKENS + v * LANES);
            UNROLL for (uint32_t i = 0; i < count; i++) {
                even[i] = v_fma(k0, v_set1(queries[i].q[d]), even[i]);
                odd[i] = v_fma(k1, v_set1(queries[i].q[d + 1]), odd[i]);
            }
        }
        UNROLL for (uint32_t i = 0; i < count; i++) scores[i].v[v] =
            v_mul(v_add(even[i], odd[i]), v_set1(page->scale));
        if (page->softcap > 0)
            UNROLL for (uint32_t i = 0; i < count; i++) scores[i].v[v] =
                v_softcap(scores[i].v[v], page->softcap);
    }
}

/* Slots of the page that the query sees: [first, end), empty when first >= end. */
typedef struct slot_range {
    uint32_t first, end;
} slot_range;

static slot_range visible(const query *q, uint32_t begin) {
    slot_range range = {0, 0};
    if (q->last < begin || q->first >= begin + KV_PAGE_TOKENS) return range;
    uint32_t end = q->last - begin + 1;
    range.first = q->first > begin ? q->first - begin : 0;
    range.end = end < KV_PAGE_TOKENS ? end : KV_PAGE_TOKENS;
    return range;
}

/* Turns scores into weights relative to the new maximum; the return value scales what was summed
 * before. Slots out of range get exactly 0. */
ALWAYS_INLINE float soften(query *q, v16 scores, slot_range range, float *weights) {
    scores = v16_keep(scores, range.first, range.end, -INFINITY);
    float page_top = v16_max(scores), shrink = 1.0f;
    if (page_top > q->top) {
        float shrinks[LANES];
        v_store(shrinks, v_exp2(v_set1(q->top - page_top)));
        shrink = shrinks[0];
        q->top = page_top;
    }
    v16 p;
    for (uint32_t v = 0; v < VECTORS; v++) {
        p.v[v] = v_exp2(v_sub(scores.v[v], v_set1(q->top)));
        v_store(weights + v * LANES, p.v[v]);
    }
    q->sum = q->sum * shrink + v16_sum(p);
    return shrink;
}

/* out = out * shrink + sum over the range's slots, in order, of weight * v; columns from `at`. */
ALWAYS_INLINE void add_columns(page_kind kind, uint32_t count, uint32_t vectors,
                               const page_view *page, const query *queries, slot_range range,
                               float (*weights)[KV_PAGE_TOKENS], const float *shrink, uint32_t at) {
    vf acc[SHARED_QUERIES][VALUE_VECTORS];
    UNROLL for (uint32_t i = 0; i < count; i++) UNROLL for (uint32_t c = 0; c < vectors; c++)
        acc[i][c] = v_mul(v_load(queries[i].out + at + c * LANES), v_set1(shrink[i]));
    for (uint32_t slot = range.first; slot < range.end; slot++) {
        vf value[VALUE_VECTORS];
        UNROLL for (uint32_t c = 0; c < vectors; c++) value[c] =
            load_page(kind, page->values, (size_t)slot * page->width + at + c * LANES);
        UNROLL for (uint32_t i = 0; i < count; i++) {
            vf p = v_set1(weights[i][slot]);
            UNROLL for (uint32_t c = 0; c < vectors; c++) acc[i][c] = v_fma(p, value[c], acc[i][c]);
        }
    }
    UNROLL for (uint32_t i = 0; i < count; i++) UNROLL for (uint32_t c = 0; c < vectors; c++)
        v_store(queries[i].out + at + c * LANES, acc[i][c]);
}

ALWAYS_INLINE void add_values(page_kind kind, uint32_t count, const page_view *page,
                              const query *queries, slot_range range,
                              float (*weights)[KV_PAGE_TOKENS], const float *shrink) {
    uint32_t at = 0;
    for (; at + VALUE_VECTORS * LANES <= page->width; at += VALUE_VECTORS * LANES)
        add_columns(kind, count, VALUE_VECTORS, page, queries, range, weights, shrink, at);
    for (; at < page->width; at += LANES)
        add_columns(kind, count, 1, page, queries, range, weights, shrink, at);
}

/* count queries, at most SHARED_QUERIES and a constant, against one page. */
ALWAYS_INLINE void attend_together(page_kind kind, uint32_t count, const page_view *page,
                                   query *queries) {
    slot_range ranges[SHARED_QUERIES];
    bool any = false, same = true;
    for (uint32_t i = 0; i < count; i++) {
        ranges[i] = visible(&queries[i], page->begin);
        any |= ranges[i].end > ranges[i].first;
        same &= ranges[i].first == ranges[0].first && ranges[i].end == ranges[0].end;
    }
    if (!any) return;
    v16 scores[SHARED_QUERIES];
    float weights[SHARED_QUERIES][KV_PAGE_TOKENS], shrink[SHARED_QUERIES];
    score(kind, count, page, queries, scores);
    for (uint32_t i = 0; i < count; i++)
        if (ranges[i].end > ranges[i].first)
            shrink[i] = soften(&queries[i], scores[i], ranges[i], weights[i]);
    if (same) {
        add_values(kind, count, page, queries, ranges[0], weights, shrink);
        return;
    }
    for (uint32_t i = 0; i < count; i++)
        if (ranges[i].end > ranges[i].first)
            add_values(kind, 1, page, queries + i, ranges[i], weights + i, shrink + i);
}

ALWAYS_INLINE void attend_page(page_kind kind, const page_view *page, query *queries,
                               uint32_t count) {
    uint32_t i = 0;
    for (; i + SHARED_QUERIES <= count; i += SHARED_QUERIES)
        attend_together(kind, SHARED_QUERIES, page, queries + i);
    if (count - i == 3)
        attend_together(kind, 3, page, queries + i);
    else if (count - i == 2)
        attend_together(kind, 2, page, queries + i);
    else if (count - i == 1)
        attend_together(kind, 1, page, queries + i);
}

static void attend_bf16(const page_view *page, query *queries, uint32_t count) {
    attend_page(PAGE_BF16, page, queries, count);
}

static void attend_f32(const page_view *page, query *queries, uint32_t count) {
    attend_page(PAGE_F32, page, queries, count);
}

static void widen(const uint16_t *in, float *out, uint32_t count) {
    for (uint32_t i = 0; i < count; i += LANES)
        v_store(out + i, v_load_bf16(in + i));
}

/* More queries than share one load: a bf16 page is widened once for all of them. */
static void attend_wide(page_view page, query *queries, uint32_t count, cpu_scratch *scratch) {
    widen(page.keys, scratch->keys, page.dim * KV_PAGE_TOKENS);
    widen(page.values, scratch->values, page.width * KV_PAGE_TOKENS);
    page.keys = scratch->keys;
    page.values = scratch->values;
    attend_f32(&page, queries, count);
}

/* Queries are numbered token by token, the heads of the group within. */
typedef struct attention_item {
    uint32_t seq, kv_head;
    uint32_t begin, count; /* queries */
} attention_item;

static void open_queries(const attention_job *job, const attention_item *item, query *queries,
                         float *outs) {
    const kern_attention *op = job->op;
    const kern_kv_shape *shape = op->kv.shape;
    uint32_t dim = shape->head_dim, width = cpu_round_up(dim, TILE_ROWS);
    memset(outs, 0, (size_t)item->count * width * sizeof *outs);
    for (uint32_t i = 0; i < item->count; i++) {
        uint32_t index = item->begin + i;
        uint32_t t = op->batch->seq_first[item->seq] + index / job->group;
        uint32_t head = item->kv_head * job->group + index % job->group;
        uint32_t position = op->batch->positions[t];
        queries[i] = (query){
            .q = (const float *)op->qkv +
                 ((size_t)t * (op->heads + 2 * shape->kv_heads) + head) * dim,
            .out = outs + (size_t)i * width,
            .last = op->bidirectional ? op->batch->seq_tokens[item->seq] - 1 : position,
            .first = op->window && position >= op->window ? position - op->window + 1 : 0,
            .top = -INFINITY,
        };
    }
}

static void close_queries(const attention_job *job, const attention_item *item,
                          const query *queries) {
    const kern_attention *op = job->op;
    uint32_t dim = op->kv.shape->head_dim;
    for (uint32_t i = 0; i < item->count; i++) {
        uint32_t index = item->begin + i;
        uint32_t t = op->batch->seq_first[item->seq] + index / job->group;
        uint32_t head = item->kv_head * job->group + index % job->group;
        uint16_t *out = (uint16_t *)op->out + ((size_t)t * op->heads + head) * dim;
        float share = 1.0f / queries[i].sum;
        uint32_t d = 0;
        for (; d + LANES <= dim; d += LANES)
            v_store_bf16(out + d, v_mul(v_load(queries[i].out + d), v_set1(share)));
        for (; d < dim; d++)
            out[d] = bf16_of_f32(queries[i].out[d] * share);
    }
}

/* The next page lies anywhere, where no hardware prefetcher looks. Few queries wait for it. */
static void prefetch_block(const void *block, size_t bytes) {
    for (size_t at = 0; at < bytes; at += CACHE_LINE_BYTES)
        _mm_prefetch((const char *)block + at, _MM_HINT_T0);
}

static page_view page_at(const attention_job *job, const attention_item *item, uint32_t index) {
    const kern_attention *op = job->op;
    uint32_t frame = cpu_block_table(op->batch, &op->kv, item->seq)[index];
    return (page_view){
        .keys = cpu_kv_block(job->dev, &op->kv, frame, false, item->kv_head),
        .values = cpu_kv_block(job->dev, &op->kv, frame, true, item->kv_head),
        .begin = index * KV_PAGE_TOKENS,
        .dim = op->kv.shape->head_dim,
        .width = cpu_round_up(op->kv.shape->head_dim, TILE_ROWS),
        .scale = op->scale * LOG2_E,
        .softcap = op->softcap * LOG2_E,
    };
}

static void attend_item(const attention_job *job, const attention_item *item,
                        cpu_scratch *scratch) {
    query queries[QUERIES_MAX];
    open_queries(job, item, queries, scratch->outs);
    uint32_t first = queries[0].first / KV_PAGE_TOKENS;
    uint32_t last = queries[item->count - 1].last / KV_PAGE_TOKENS;
    size_t row_bytes = KV_PAGE_TOKENS * cpu_kv_element_bytes(job->dev);
    for (uint32_t i = first; i <= last; i++) {
        page_view page = page_at(job, item, i);
        if (i < last && item->count <= SHARED_QUERIES) {
            page_view next = page_at(job, item, i + 1);
            prefetch_block(next.keys, page.dim * row_bytes);
            prefetch_block(next.values, page.width * row_bytes);
        }
        if (job->dev->kv_dtype == DT_F32)
            attend_f32(&page, queries, item->count);
        else if (item->count <= SHARED_QUERIES)
            attend_bf16(&page, queries, item->count);
        else
            attend_wide(page, queries, item->count, scratch);
    }
    close_queries(job, item, queries);
}

static uint32_t items_of_seq(const attention_job *job, uint32_t seq) {
    uint32_t queries = job->op->batch->seq_tokens[seq] * job->group;
    return (queries + job->item_queries - 1) / job->item_queries;
}

static void attend_items(void *arg, uint32_t worker, uint32_t workers) {
    const attention_job *job = arg;
    const kern_attention *op = job->op;
    uint32_t turn = 0; /* whose the next item is */
    for (uint32_t seq = 0; seq < op->batch->seq_count; seq++) {
        uint32_t queries = op->batch->seq_tokens[seq] * job->group;
        for (uint32_t head = 0; head < op->kv.shape->kv_heads; head++)
            for (uint32_t begin = 0; begin < queries; begin += job->item_queries) {
                uint32_t left = queries - begin;
                attention_item item = {.seq = seq, .kv_head = head, .begin = begin};
                item.count = left < job->item_queries ? left : job->item_queries;
                if (turn == worker) attend_item(job, &item, &job->dev->scratch[worker]);
                turn = turn + 1 == workers ? 0 : turn + 1;
            }
    }
}

static uint32_t count_items(const attention_job *job) {
    uint32_t items = 0;
    for (uint32_t seq = 0; seq < job->op->batch->seq_count; seq++)
        items += items_of_seq(job, seq) * job->op->kv.shape->kv_heads;
    return items;
}

/* Whole tokens to an item, as many as fit; fewer queries where that leaves workers without. */
static void choose_item_queries(attention_job *job) {
    uint32_t group = job->group, workers = pool_threads(job->dev->pool);
    job->item_queries = group < QUERIES_MAX ? QUERIES_MAX / group * group : QUERIES_MAX;
    while (count_items(job) < workers && job->item_queries > 1) {
        uint32_t half = (job->item_queries + 1) / 2;
        job->item_queries = half > group ? half / group * group : half;
    }
}

void LEVEL_NAME(level_attention)(kern_device *dev, const kern_attention *op) {
    attention_job job = {.dev = dev, .op = op, .group = op->heads / op->kv.shape->kv_heads};
    if (op->batch->token_count == 0) return;
    choose_item_queries(&job);
    pool_run(dev->pool, attend_items, &job);
}
