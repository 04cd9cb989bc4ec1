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
#include "kernels/cpu/amx/attend_item.h"
#include "kernels/cpu/amx/level_amx.h"
#include "kernels/cpu/level/simd.h"

enum {
    TILE_COST = 4, /* pages whose work equals that of opening and closing a tile */
    LONE_MAX = 32, /* items that wait for each other */
};

/* --- spans -------------------------------------------------------------------------------- */

/* One item on its way through the pages: block by block of spans whose values are packed together and
 * stay in L2, in each tile by tile, in each of these span by span. */
typedef struct span_walk {
    const attention_job *job;
    const attention_item *item;
    amx_attention *scratch;
    query_tile *tiles;
    uint32_t count;                              /* tiles */
    page_range sees;                             /* of the item */
    uint32_t block;                              /* its first page */
    uint32_t tile, span;                         /* whose turn is next; span of the block */
    uint32_t units, blocks;                      /* so far */
    key_span *block_span;                        /* the block's */
    key_span spans[AMX_BLOCKS][AMX_BLOCK_SPANS]; /* of the last blocks */
} span_walk;

enum { BLOCK_PAGES = AMX_BLOCK_SPANS * AMX_SPAN_PAGES };

/* Three units are under way, of as many blocks where a tile sees one span of each. */
static void enter_block(span_walk *walk, uint32_t page) {
    const span_shape *shape = &walk->job->shape;
    size_t elements = (size_t)shape->value_width * AMX_SPAN_KEYS;
    uint32_t turn = walk->blocks++ % AMX_BLOCKS, end = page + BLOCK_PAGES;
    uint16_t *values = walk->scratch->values + turn * AMX_BLOCK_SPANS * elements;
    walk->block = page;
    walk->block_span = walk->spans[turn];
    for (uint32_t i = 0; page < end && page < walk->sees.end; i++, page += AMX_SPAN_PAGES) {
        walk->block_span[i] = attend_span_at(walk->job, walk->item, walk->sees, page);
        walk->block_span[i].packed = values + i * elements;
        span_pack_values(shape, &walk->block_span[i]);
    }
}

static void begin_walk(span_walk *walk) {
    uint32_t last = 0;
    for (uint32_t i = 0; i < walk->count; i++)
        if (walk->tiles[i].last_any > last) last = walk->tiles[i].last_any;
    walk->span = UINT32_MAX; /* before the first */
    walk->sees = (page_range){.first = walk->tiles[0].first_any / KV_PAGE_TOKENS,
                              .end = last / KV_PAGE_TOKENS + 1};
    enter_block(walk, attend_span_begin(walk->sees.first));
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
    if (walk->span < AMX_BLOCK_SPANS && span_page(walk) < walk->sees.end) return true;
    walk->span = 0;
    walk->tile++;
    if (walk->tile < walk->count) return true;
    walk->tile = 0;
    uint32_t page = walk->block + BLOCK_PAGES;
    if (page >= walk->sees.end) return false;
    enter_block(walk, page);
    return true;
}

/* false behind the last. */
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
        span_step(&walk->job->shape, next, now, &units[(turn + 1) % 3], NULL);
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
    attend_open_tiles(job, item, scratch, tiles, 0, walk.count);
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
    uint32_t first = attend_first_key(op, positions[begin / job->group]);
    uint32_t last = attend_last_key(op, seq, positions[(end - 1) / job->group]);
    return last / KV_PAGE_TOKENS - first / KV_PAGE_TOKENS + 1 + TILE_COST;
}

static uint32_t tile_end(uint32_t begin, uint32_t queries) {
    return queries - begin < AMX_QUERIES ? queries : begin + AMX_QUERIES;
}

/* Of all tiles of a sequence and one kv head. */
static uint64_t head_cost(const attention_job *job, uint32_t seq) {
    uint64_t cost = 0;
    uint32_t queries = queries_of(job, seq);
    for (uint32_t begin = 0; begin < queries; begin += AMX_QUERIES)
        cost += tile_cost(job, seq, begin, tile_end(begin, queries));
    return cost;
}

static uint64_t total_cost(const attention_job *job) {
    uint64_t cost = 0;
    for (uint32_t seq = 0; seq < job->op->batch->seq_count; seq++)
        cost += head_cost(job, seq);
    return cost * job->op->kv.shape->kv_heads;
}

/* A worker's part of the way through all tiles: a tile is the worker's in whose share of the total
 * its middle lies. */
typedef struct tile_deal {
    const attention_job *job;
    uint32_t worker, workers;
    uint64_t total, dealt;         /* cost */
    attention_item lone[LONE_MAX]; /* of one tile, not attended to yet */
    uint32_t lone_count;
} tile_deal;

static uint64_t whose(const tile_deal *deal, uint64_t at) {
    return at * deal->workers / deal->total;
}

static bool deal_tile(tile_deal *deal, uint64_t cost) {
    uint64_t middle = deal->dealt + cost / 2;
    deal->dealt += cost;
    return whose(deal, middle) == deal->worker;
}

static amx_attention *scratch_of(const tile_deal *deal) {
    return &deal->job->dev->scratch[deal->worker].attention;
}

static void attend_lone(tile_deal *deal) {
    if (deal->lone_count > 0)
        attend_lone_items(deal->job, deal->lone, deal->lone_count, scratch_of(deal));
    deal->lone_count = 0;
}

static void attend(tile_deal *deal, const attention_item *item) {
    if (item->end - item->begin > AMX_QUERIES) {
        attend_item(deal->job, item, scratch_of(deal));
        return;
    }
    deal->lone[deal->lone_count++] = *item;
    if (deal->lone_count == LONE_MAX) attend_lone(deal);
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
            attend(deal, &item);
            item.begin = item.end;
        }
    }
}

static void attend_seq(tile_deal *deal, uint32_t seq) {
    uint64_t cost = head_cost(deal->job, seq);
    for (uint32_t head = 0; head < deal->job->op->kv.shape->kv_heads; head++) {
        bool before = whose(deal, deal->dealt + cost) < deal->worker;
        if (before || whose(deal, deal->dealt) > deal->worker)
            deal->dealt += cost;
        else
            attend_head(deal, seq, head);
    }
}

static void attend_tiles(void *arg, uint32_t worker, uint32_t workers) {
    const attention_job *job = arg;
    tile_deal deal = {.job = job, .worker = worker, .workers = workers, .total = total_cost(job)};
    uint32_t state = _mm_getcsr();
    _mm_setcsr(state | _MM_FLUSH_ZERO_ON | _MM_DENORMALS_ZERO_ON); /* as tiles do, and faster */
    span_configure();
    for (uint32_t seq = 0; seq < job->op->batch->seq_count; seq++)
        attend_seq(&deal, seq);
    attend_lone(&deal);
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
