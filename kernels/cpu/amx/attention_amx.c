/* attention_amx.c - attention over bf16 pages on AMX tiles; float32 ones are AVX-512's.
 *
 *   out[t,h,:] = sum_j softmax_j(cap(scale * q[t,h] . k[j,h/G])) v[j,h/G],  as level/attention.c
 *
 * In      q in qkv [T, (heads + 2*kv_heads) * D] f32; pages of cpu.h
 * Out     out [T, heads*D] bf16
 * Temp    per worker: amx_attention of cpu.h
 * Work    tiles of 16 queries that share a sequence and kv head, in order, dealt out by the pages
 *         that each sees; a worker takes up to AMX_QUERY_TILES neighbours through the pages together.
 *         A query's keys are walked in spans that begin at multiples of AMX_SPAN_KEYS, and no lane
 *         looks at another: neither chunk, batch nor threads change a bit
 * Units   scores and maxima in base 2: scale * log2(e) * q.k
 * Needs   D even, at most CPU_HEAD_DIM_MAX. Keys beyond a query's range may hold anything, NaN too;
 *         values there are of the same sequence, or 0 (rope_store.c)
 * Cost    attend_span.c. Bar: bench/bench_attention.c
 * Source  online softmax, arXiv:1805.02867; pages, arXiv:2309.06180 */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/amx/amx.h"
#include "kernels/cpu/amx/attend_span.h"
#include "kernels/cpu/amx/level_amx.h"
#include "kernels/cpu/level/simd.h"

#define LOG2_E 1.44269504088896341f

enum { TILE_COST = 4 }; /* pages whose work equals that of opening and closing a tile */

typedef struct attention_job {
    kern_device *dev;
    const kern_attention *op;
    uint32_t group; /* query heads of a kv head */
    span_shape shape;
} attention_job;

/* Some tiles of one sequence and kv head. Queries are numbered token by token, the heads of the
 * group within. */
typedef struct attention_item {
    uint32_t seq, kv_head;
    uint32_t begin, end; /* queries */
} attention_item;

/* --- tiles -------------------------------------------------------------------------------- */

static uint32_t last_key(const kern_attention *op, uint32_t seq, uint32_t position) {
    return op->bidirectional ? op->batch->seq_tokens[seq] - 1 : position;
}
static uint32_t first_key(const kern_attention *op, uint32_t position) {
    return op->window && position >= op->window ? position - op->window + 1 : 0;
}

static void open_query(const attention_job *job, const attention_item *item, uint32_t index,
                       query_tile *tile) {
    const kern_attention *op = job->op;
    uint32_t dim = op->kv.shape->head_dim, i = tile->count++;
    uint32_t t = op->batch->seq_first[item->seq] + index / job->group;
    uint32_t head = item->kv_head * job->group + index % job->group;
    uint32_t stride = op->heads + 2 * op->kv.shape->kv_heads;
    tile->in[i] = (const float *)op->qkv + ((size_t)t * stride + head) * dim;
    tile->out[i] = (uint16_t *)op->out + ((size_t)t * op->heads + head) * dim;
    tile->first[i] = first_key(op, op->batch->positions[t]);
    tile->last[i] = last_key(op, item->seq, op->batch->positions[t]);
}

static void open_tiles(const attention_job *job, const attention_item *item, amx_attention *scratch,
                       query_tile *tiles) {
    size_t queries = 2 * (size_t)job->shape.key_width * AMX_QUERIES;
    size_t outs = (size_t)job->shape.value_width * AMX_QUERIES;
    for (uint32_t index = item->begin; index < item->end; tiles++) {
        tiles->count = 0;
        for (uint32_t i = 0; i < AMX_QUERIES && index < item->end; i++, index++)
            open_query(job, item, index, tiles);
        tiles->queries = scratch->queries + queries * ((index - 1 - item->begin) / AMX_QUERIES);
        tiles->outs = scratch->outs + outs * ((index - 1 - item->begin) / AMX_QUERIES);
        query_tile_open(tiles, job->op->kv.shape->head_dim, job->op->scale * LOG2_E);
    }
}

/* --- spans -------------------------------------------------------------------------------- */

/* One item on its way through the pages. */
typedef struct span_walk {
    const attention_job *job;
    const attention_item *item;
    amx_attention *scratch;
    query_tile *tiles;
    uint32_t count;          /* tiles */
    uint32_t page, page_end; /* the span's first; behind the last that the item sees */
    uint32_t tile;           /* whose turn is next */
    uint32_t units;          /* so far */
    key_span span;
} span_walk;

static void prefetch_block(const void *block, size_t bytes) {
    for (size_t at = 0; at < bytes; at += CACHE_LINE_BYTES)
        _mm_prefetch((const char *)block + at, _MM_HINT_T0);
}

static const void *page_block(const span_walk *walk, uint32_t page, bool values) {
    const kern_attention *op = walk->job->op;
    uint32_t frame = cpu_block_table(op->batch, &op->kv, walk->item->seq)[page];
    return cpu_kv_block(walk->job->dev, &op->kv, frame, values, walk->item->kv_head);
}

/* Pages lie anywhere, where no hardware prefetcher looks: those of the next span, ahead of time. */
static void prefetch_span(const span_walk *walk, uint32_t page) {
    const span_shape *shape = &walk->job->shape;
    const size_t slots = KV_PAGE_TOKENS * sizeof(uint16_t);
    for (uint32_t end = page + AMX_SPAN_PAGES; page < end && page < walk->page_end; page++) {
        prefetch_block(page_block(walk, page, false), shape->key_width * slots);
        prefetch_block(page_block(walk, page, true), shape->value_width * slots);
    }
}

static void enter_span(span_walk *walk, uint32_t first_page) {
    walk->span = (key_span){.begin = walk->page * KV_PAGE_TOKENS};
    for (uint32_t i = 0; i < AMX_SPAN_PAGES; i++) {
        uint32_t page = walk->page + i;
        if (page < first_page || page >= walk->page_end) continue;
        walk->span.keys[i] = page_block(walk, page, false);
        walk->span.values[i] = page_block(walk, page, true);
    }
    prefetch_span(walk, walk->page + AMX_SPAN_PAGES);
}

static void begin_walk(span_walk *walk) {
    uint32_t first = walk->tiles[0].first_any, last = walk->tiles[0].last_any;
    for (uint32_t i = 1; i < walk->count; i++)
        if (walk->tiles[i].last_any > last) last = walk->tiles[i].last_any;
    uint32_t first_page = first / KV_PAGE_TOKENS;
    walk->page = first_page / AMX_SPAN_PAGES * AMX_SPAN_PAGES;
    walk->page_end = last / KV_PAGE_TOKENS + 1;
    enter_span(walk, first_page);
}

/* The tile's pages within the span. */
static span_unit unit_of(span_walk *walk, query_tile *tile) {
    uint32_t turn = walk->units++ % 2, begin = walk->page, end = begin + AMX_SPAN_PAGES;
    uint32_t first = tile->first_any / KV_PAGE_TOKENS, behind = tile->last_any / KV_PAGE_TOKENS + 1;
    return (span_unit){.tile = tile,
                       .span = walk->span,
                       .first = first > begin ? first - begin : 0,
                       .end = (behind < end ? behind : end) - begin,
                       .scores = walk->scratch->scores[turn],
                       .weights = walk->scratch->weights[turn]};
}

static bool sees_span(const span_walk *walk, const query_tile *tile) {
    uint32_t first = tile->first_any / KV_PAGE_TOKENS, last = tile->last_any / KV_PAGE_TOKENS;
    return first < walk->page + AMX_SPAN_PAGES && last >= walk->page;
}

/* Tile by tile, then span by span; one without a tile behind the last. */
static span_unit next_unit(span_walk *walk) {
    while (walk->page < walk->page_end) {
        while (walk->tile < walk->count) {
            query_tile *tile = &walk->tiles[walk->tile++];
            if (sees_span(walk, tile)) return unit_of(walk, tile);
        }
        walk->tile = 0;
        walk->page += AMX_SPAN_PAGES;
        if (walk->page < walk->page_end) enter_span(walk, walk->page);
    }
    return (span_unit){.tile = NULL};
}

static void walk_spans(span_walk *walk) {
    const span_shape *shape = &walk->job->shape;
    span_unit units[3] = {0};
    uint32_t packed = UINT32_MAX; /* position of the span whose values are packed */
    begin_walk(walk);
    for (uint32_t turn = 0;; turn++) {
        span_unit *next = &units[turn % 3], *now = &units[(turn + 2) % 3];
        *next = next_unit(walk);
        span_unit *last = &units[(turn + 1) % 3];
        if (!next->tile && !now->tile && !last->tile) return;
        span_step(shape, next, now, last, walk->scratch->values);
        if (now->tile && now->span.begin != packed) {
            span_pack_values(shape, &now->span, walk->scratch->values);
            packed = now->span.begin;
        }
    }
}

__attribute__((noinline)) static void
attend_item(const attention_job *job, const attention_item *item, amx_attention *scratch) {
    query_tile tiles[AMX_QUERY_TILES];
    span_walk walk = {.job = job,
                      .item = item,
                      .scratch = scratch,
                      .tiles = tiles,
                      .count = (item->end - item->begin - 1) / AMX_QUERIES + 1};
    open_tiles(job, item, scratch, tiles);
    walk_spans(&walk);
    for (uint32_t i = 0; i < walk.count; i++)
        query_tile_close(&tiles[i], job->op->kv.shape->head_dim);
}

/* --- work --------------------------------------------------------------------------------- */

static uint32_t queries_of(const attention_job *job, uint32_t seq) {
    return job->op->batch->seq_tokens[seq] * job->group;
}

/* Of the tile that begins at a query, in pages. */
static uint64_t tile_cost(const attention_job *job, uint32_t seq, uint32_t begin, uint32_t end) {
    const kern_attention *op = job->op;
    const uint32_t *positions = op->batch->positions + op->batch->seq_first[seq];
    uint32_t first = first_key(op, positions[begin / job->group]);
    uint32_t last = last_key(op, seq, positions[(end - 1) / job->group]);
    return last / KV_PAGE_TOKENS - first / KV_PAGE_TOKENS + 1 + TILE_COST;
}

static uint32_t tile_end(uint32_t begin, uint32_t queries) {
    return queries - begin < AMX_QUERIES ? queries : begin + AMX_QUERIES;
}

static uint64_t cost_of(const attention_job *job) {
    uint64_t cost = 0;
    for (uint32_t seq = 0; seq < job->op->batch->seq_count; seq++) {
        uint32_t queries = queries_of(job, seq);
        for (uint32_t begin = 0; begin < queries; begin += AMX_QUERIES)
            cost += tile_cost(job, seq, begin, tile_end(begin, queries));
    }
    return cost * job->op->kv.shape->kv_heads;
}

/* A worker's part of the way through all tiles. */
typedef struct tile_deal {
    const attention_job *job;
    uint32_t worker, workers;
    uint64_t total, dealt; /* cost */
} tile_deal;

static bool deal_tile(tile_deal *deal, uint64_t cost) {
    uint64_t middle = deal->dealt + cost / 2;
    deal->dealt += cost;
    return middle * deal->workers / deal->total == deal->worker;
}

/* The worker's tiles of one sequence and kv head lie side by side. */
static void attend_head(tile_deal *deal, uint32_t seq, uint32_t kv_head) {
    const attention_job *job = deal->job;
    uint32_t queries = queries_of(job, seq);
    attention_item item = {.seq = seq, .kv_head = kv_head};
    for (uint32_t begin = 0; begin < queries; begin += AMX_QUERIES) {
        uint32_t end = tile_end(begin, queries);
        bool mine = deal_tile(deal, tile_cost(job, seq, begin, end));
        if (mine && item.begin == item.end) item.begin = begin;
        if (mine) item.end = end;
        bool full = item.end - item.begin > (AMX_QUERY_TILES - 1) * AMX_QUERIES;
        if (item.end > item.begin && (full || !mine || end == queries)) {
            attend_item(job, &item, &job->dev->scratch[deal->worker].attention);
            item.begin = item.end;
        }
    }
}

static void attend_tiles(void *arg, uint32_t worker, uint32_t workers) {
    const attention_job *job = arg;
    tile_deal deal = {.job = job, .worker = worker, .workers = workers, .total = cost_of(job)};
    uint32_t state = _mm_getcsr();
    _mm_setcsr(state | _MM_FLUSH_ZERO_ON | _MM_DENORMALS_ZERO_ON); /* as tiles do, and faster */
    span_configure();
    for (uint32_t seq = 0; seq < job->op->batch->seq_count; seq++)
        for (uint32_t head = 0; head < job->op->kv.shape->kv_heads; head++)
            attend_head(&deal, seq, head);
    amx_release();
    _mm_setcsr(state);
}

void level_attention_amx(kern_device *dev, const kern_attention *op) {
    if (dev->kv_dtype != DT_BF16) {
        level_attention_avx512(dev, op);
        return;
    }
    const kern_kv_shape *shape = op->kv.shape;
    attention_job job = {.dev = dev,
                         .op = op,
                         .group = op->heads / shape->kv_heads,
                         .shape = {.key_width = cpu_key_width(dev, shape),
                                   .value_width = cpu_value_width(shape),
                                   .softcap = op->softcap * LOG2_E}};
    if (op->batch->token_count > 0) pool_run(dev->pool, attend_tiles, &job);
}
