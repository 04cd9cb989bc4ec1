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

enum {
    TILE_COST = 4,  /* pages whose work equals that of opening and closing a tile */
    LONE_TILES = 2, /* so few wait for memory: their spans are packed one by one */
};

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

static void prefetch_block(const void *block, size_t bytes) {
    for (size_t at = 0; at < bytes; at += CACHE_LINE_BYTES)
        _mm_prefetch((const char *)block + at, _MM_HINT_T0);
}

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

/* The rows of all queries are fetched while the first are split. */
static void open_tiles(const attention_job *job, const attention_item *item, amx_attention *scratch,
                       query_tile *tiles, uint32_t count) {
    uint32_t dim = job->op->kv.shape->head_dim;
    size_t queries = 2 * (size_t)job->shape.key_width * AMX_QUERIES;
    size_t outs = (size_t)job->shape.value_width * AMX_QUERIES;
    for (uint32_t i = 0; i < count; i++) {
        tiles[i].count = 0;
        tiles[i].queries = scratch->queries + i * queries;
        tiles[i].outs = scratch->outs + i * outs;
    }
    for (uint32_t index = item->begin; index < item->end; index++) {
        query_tile *tile = &tiles[(index - item->begin) / AMX_QUERIES];
        open_query(job, item, index, tile);
        prefetch_block(tile->in[tile->count - 1], dim * sizeof(float));
    }
    for (uint32_t i = 0; i < count; i++)
        query_tile_open(&tiles[i], dim, job->op->scale * LOG2_E);
}

/* --- spans -------------------------------------------------------------------------------- */

/* One item on its way through the pages: block by block of spans whose values are packed together and
 * stay in L2, in each tile by tile, in each of these span by span. */
typedef struct span_walk {
    const attention_job *job;
    const attention_item *item;
    amx_attention *scratch;
    query_tile *tiles;
    uint32_t count;                /* tiles */
    uint32_t page_first, page_end; /* that the item sees */
    uint32_t block, block_spans;   /* first page of the block; as many spans at most */
    uint32_t tile, span;           /* whose turn is next; span of the block */
    uint32_t units, blocks;        /* so far */
    key_span *block_span;          /* the block's */
    key_span spans[AMX_BLOCKS][AMX_BLOCK_SPANS]; /* of the last blocks */
    key_span next_span;                          /* to be fetched */
    const key_span *ahead;                       /* that, or NULL once it is */
} span_walk;

static const void *page_block(const span_walk *walk, uint32_t page, bool values) {
    const kern_attention *op = walk->job->op;
    uint32_t frame = cpu_block_table(op->batch, &op->kv, walk->item->seq)[page];
    return cpu_kv_block(walk->job->dev, &op->kv, frame, values, walk->item->kv_head);
}

static key_span span_at(const span_walk *walk, uint32_t page) {
    key_span span = {.begin = page * KV_PAGE_TOKENS};
    for (uint32_t i = 0; i < AMX_SPAN_PAGES; i++, page++) {
        if (page < walk->page_first || page >= walk->page_end) continue;
        span.keys[i] = page_block(walk, page, false);
        span.values[i] = page_block(walk, page, true);
    }
    return span;
}

/* The first span of the item that is likely this worker's next: of the next kv head or sequence. */
static key_span span_of_next(const span_walk *walk) {
    const kern_attention *op = walk->job->op;
    attention_item item = {.seq = walk->item->seq, .kv_head = walk->item->kv_head + 1};
    if (item.kv_head == op->kv.shape->kv_heads) item = (attention_item){.seq = item.seq + 1};
    if (item.seq == op->batch->seq_count) return (key_span){.begin = 0};
    uint32_t position = op->batch->positions[op->batch->seq_first[item.seq]];
    span_walk next = {.job = walk->job,
                      .item = &item,
                      .page_first = first_key(op, position) / KV_PAGE_TOKENS,
                      .page_end = last_key(op, item.seq, position) / KV_PAGE_TOKENS + 1};
    return span_at(&next, next.page_first / AMX_SPAN_PAGES * AMX_SPAN_PAGES);
}

/* Pages lie anywhere, where no hardware prefetcher looks, and few tiles wait for them. */
static void look_ahead(span_walk *walk, uint32_t page) {
    if (walk->block_spans > 1) return;
    walk->next_span = page < walk->page_end ? span_at(walk, page) : span_of_next(walk);
    walk->ahead = &walk->next_span;
}

/* Three units are under way, of as many blocks where a block is one span. */
static void enter_block(span_walk *walk, uint32_t page) {
    const span_shape *shape = &walk->job->shape;
    size_t elements = (size_t)shape->value_width * AMX_SPAN_KEYS;
    uint32_t turn = walk->blocks++ % AMX_BLOCKS, end = page + walk->block_spans * AMX_SPAN_PAGES;
    uint16_t *values = walk->scratch->values + turn * walk->block_spans * elements;
    walk->block = page;
    walk->block_span = walk->spans[turn];
    look_ahead(walk, end);
    for (uint32_t i = 0; page < end && page < walk->page_end; i++, page += AMX_SPAN_PAGES) {
        walk->block_span[i] = span_at(walk, page);
        walk->block_span[i].packed = values + i * elements;
        span_pack_values(shape, &walk->block_span[i]);
    }
}

static void begin_walk(span_walk *walk) {
    uint32_t last = 0;
    for (uint32_t i = 0; i < walk->count; i++)
        if (walk->tiles[i].last_any > last) last = walk->tiles[i].last_any;
    walk->block_spans = walk->count > LONE_TILES ? AMX_BLOCK_SPANS : 1;
    walk->span = UINT32_MAX;
    walk->page_first = walk->tiles[0].first_any / KV_PAGE_TOKENS;
    walk->page_end = last / KV_PAGE_TOKENS + 1;
    enter_block(walk, walk->page_first / AMX_SPAN_PAGES * AMX_SPAN_PAGES);
}

static uint32_t span_page(const span_walk *walk) {
    return walk->block + walk->span * AMX_SPAN_PAGES;
}

/* The tile's pages within the span. */
static void open_unit(span_walk *walk, query_tile *tile, span_unit *unit) {
    uint32_t turn = walk->units++ % 2, begin = span_page(walk), end = begin + AMX_SPAN_PAGES;
    uint32_t first = tile->first_any / KV_PAGE_TOKENS, behind = tile->last_any / KV_PAGE_TOKENS + 1;
    unit->tile = tile;
    unit->span = &walk->block_span[walk->span];
    unit->first = first > begin ? first - begin : 0;
    unit->end = (behind < end ? behind : end) - begin;
    unit->scores = walk->scratch->scores[turn];
    unit->weights = walk->scratch->weights[turn];
}

static bool sees_span(const span_walk *walk, const query_tile *tile) {
    uint32_t first = tile->first_any / KV_PAGE_TOKENS, last = tile->last_any / KV_PAGE_TOKENS;
    uint32_t page = span_page(walk);
    return first < page + AMX_SPAN_PAGES && last >= page;
}

/* To the next span, of the next tile, of the next block; false behind the last. */
static bool next_span(span_walk *walk) {
    walk->span++;
    if (walk->span < walk->block_spans && span_page(walk) < walk->page_end) return true;
    walk->span = 0;
    walk->tile++;
    if (walk->tile < walk->count) return true;
    walk->tile = 0;
    uint32_t page = walk->block + walk->block_spans * AMX_SPAN_PAGES;
    if (page >= walk->page_end) return false;
    enter_block(walk, page);
    return true;
}

/* false behind the last; the walk stands before the first span when it begins. */
static bool next_unit(span_walk *walk, span_unit *unit) {
    while (next_span(walk))
        if (sees_span(walk, &walk->tiles[walk->tile])) {
            open_unit(walk, &walk->tiles[walk->tile], unit);
            return true;
        }
    return false;
}

static void walk_spans(span_walk *walk) {
    span_unit units[3];
    uint32_t left = 2; /* steps behind the last unit */
    units[1].tile = units[2].tile = NULL;
    begin_walk(walk);
    for (uint32_t turn = 0; left > 0; turn++) {
        span_unit *next = &units[turn % 3], *now = &units[(turn + 2) % 3];
        if (left < 2 || !next_unit(walk, next)) {
            next->tile = NULL;
            left--;
        }
        span_step(&walk->job->shape, next, now, &units[(turn + 1) % 3], walk->ahead);
        walk->ahead = NULL;
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
    open_tiles(job, item, scratch, tiles, walk.count);
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
