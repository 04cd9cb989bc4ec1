/* attention.c - attention over pages.
 *
 *   out[t,h,:] = sum_j softmax_j(cap(scale * q[t,h] . k[j,h/G])) v[j,h/G],  j in (p - window, p]
 *   cap(s) = softcap * tanh(s / softcap), or s;  bidirectional: j in the whole sequence
 *
 * In      q in qkv [T, (heads + 2*kv_heads) * D] f32; pages of cpu.h, bf16 or f32
 * Out     out [T, heads*D] bf16
 * Temp    per worker: one page as float32, outputs of the item's queries, and attend_many.c's
 * Work    an item is some queries (token and head) of one sequence and kv head; items go round the workers and back. A
 *         query walks its pages in order, alone in its arithmetic: how many queries share the loads of a page, and
 *         which of the two ways of attend.h they go, changes no bit
 * Units   scores and maxima in base 2: scale * log2(e) * q.k
 * Needs   D even, at most CPU_HEAD_DIM_MAX. Slots beyond a query's range may hold anything, NaN too
 * Cost    2*D*16 FMA lanes and one exp of 16 lanes a page and query. Bar: bench/bench_attention.c
 * Source  online softmax, arXiv:1805.02867; pages, arXiv:2309.06180 */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/level/attend.h"

#define LOG2_E 1.44269504088896341f

typedef struct attention_job {
    kern_device *dev;
    const kern_attention *op;
    uint32_t group;        /* query heads of a kv head */
    uint32_t item_queries; /* at most */
} attention_job;

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

ALWAYS_INLINE page_weights weights_of(float (*weights)[KV_PAGE_TOKENS], const float *shrink,
                                      uint32_t first) {
    return (page_weights){.at = weights[first],
                          .shrink = shrink + first,
                          .query_step = KV_PAGE_TOKENS,
                          .slot_step = 1};
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
        add_values(kind, count, page, queries, ranges[0], weights_of(weights, shrink, 0));
        return;
    }
    for (uint32_t i = 0; i < count; i++)
        if (ranges[i].end > ranges[i].first)
            add_values(kind, 1, page, queries + i, ranges[i], weights_of(weights, shrink, i));
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

/* Keys in a vector's lanes. */
static void attend_few(page_kind kind, const page_view *page, query *queries, uint32_t count,
                       cpu_scratch *scratch) {
    if (kind == PAGE_BF16 && count <= SHARED_QUERIES) {
        attend_page(PAGE_BF16, page, queries, count);
        return;
    }
    page_view wide = kind == PAGE_BF16 ? widened(page, scratch) : *page;
    attend_page(PAGE_F32, &wide, queries, count);
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
            .top = NO_TOP,
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
    many_queries side_by_side;
    open_queries(job, item, queries, scratch->outs);
    uint32_t dim = job->op->kv.shape->head_dim;
    bool many = many_suits(item->count);
    if (many) LEVEL_NAME(many_open)(&side_by_side, queries, item->count, dim, scratch);
    page_kind kind = job->dev->kv_dtype == DT_F32 ? PAGE_F32 : PAGE_BF16;
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
        if (many)
            LEVEL_NAME(many_attend)(&side_by_side, kind, &page);
        else
            attend_few(kind, &page, queries, item->count, scratch);
    }
    if (many) LEVEL_NAME(many_close)(&side_by_side);
    close_queries(job, item, queries);
}

static uint32_t items_of_seq(const attention_job *job, uint32_t seq) {
    uint32_t queries = job->op->batch->seq_tokens[seq] * job->group;
    return (queries + job->item_queries - 1) / job->item_queries;
}

/* Items come in order of position, the later the longer: round the workers and back, so that none has
 * all the long ones. */
static uint32_t worker_of(uint32_t item, uint32_t workers) {
    uint32_t turn = item % (2 * workers);
    return turn < workers ? turn : 2 * workers - 1 - turn;
}

static void attend_items(void *arg, uint32_t worker, uint32_t workers) {
    const attention_job *job = arg;
    const kern_attention *op = job->op;
    uint32_t index = 0; /* of the next item */
    for (uint32_t seq = 0; seq < op->batch->seq_count; seq++) {
        uint32_t queries = op->batch->seq_tokens[seq] * job->group;
        for (uint32_t head = 0; head < op->kv.shape->kv_heads; head++)
            for (uint32_t begin = 0; begin < queries; begin += job->item_queries) {
                uint32_t left = queries - begin;
                attention_item item = {.seq = seq, .kv_head = head, .begin = begin};
                item.count = left < job->item_queries ? left : job->item_queries;
                if (worker_of(index++, workers) == worker)
                    attend_item(job, &item, &job->dev->scratch[worker]);
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
