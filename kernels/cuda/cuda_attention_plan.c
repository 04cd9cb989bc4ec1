/* cuda_attention_plan.c - cuts a step's attention into items.
 *
 * Whether a tile is split into chunks is a matter of speed alone: where there are few tiles all are, so
 * that the device is busy. Where there are many, narrow ones are split when they are long, so that none
 * is the last for long; wide ones never, because their partial sums cost more than that. When partial
 * sums would not fit, only ever longer tiles are split. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_attention_plan.h"

#include "engine/base/check.h"

enum {
    NARROW_WANTED = 512, /* narrow tiles times kv heads that fill any device ... */
    WIDE_WANTED = 64,    /* ... half of one */
    LONG_CHUNKS = 4,     /* of a narrow tile that is split even then */
    PARTIAL_ROWS_MAX = 16384,
};

/* A tile: some rows of a sequence, and what they see. */
typedef struct tile {
    uint32_t row, rows;
    uint32_t key, key_end; /* end: not seen */
} tile;

typedef struct planner {
    const cuda_attention_kind *kind;
    const step_batch *batch;
    uint32_t group;          /* query heads of a kv head */
    uint32_t split_above[2]; /* chunks: wide tiles, narrow tiles of more are split */
    attention_item *items;
    uint32_t count;
    uint32_t partial_rows;
    uint64_t tiles, wanted; /* counted: tiles, and partial rows of those that are split */
} planner;

typedef void tile_visit(planner *p, uint32_t seq, const tile *t, bool split);

uint32_t attention_partial_rows(const cuda_attention_kind *kind) {
    uint64_t row = (uint64_t)kind->kv_heads * (kind->head_dim + 2) * sizeof(float);
    uint64_t rows = kind->work_bytes / row;
    return rows < PARTIAL_ROWS_MAX ? (uint32_t)rows : PARTIAL_ROWS_MAX;
}

static uint32_t rows_of(const planner *p, uint32_t seq) {
    return p->batch->seq_tokens[seq] * p->group;
}

static bool is_narrow(const planner *p, uint32_t seq) {
    return rows_of(p, seq) <= ATTENTION_NARROW_MAX;
}

static uint32_t tile_rows(const planner *p, uint32_t seq) {
    return is_narrow(p, seq) ? ATTENTION_TILE_ROWS : attention_wide_rows(p->kind->head_dim);
}

static uint32_t tile_count(const planner *p, uint32_t seq) {
    uint32_t height = tile_rows(p, seq);
    return (rows_of(p, seq) + height - 1) / height;
}

static tile tile_of(const planner *p, uint32_t seq, uint32_t index) {
    const step_batch *b = p->batch;
    uint32_t height = tile_rows(p, seq), row = index * height;
    uint32_t rows = rows_of(p, seq) - row < height ? rows_of(p, seq) - row : height;
    uint32_t low = b->seq_cached[seq] + row / p->group;
    uint32_t high = b->seq_cached[seq] + (row + rows - 1) / p->group;
    tile t = {.row = row, .rows = rows, .key_end = high + 1};
    if (p->kind->bidirectional) t.key_end = b->seq_cached[seq] + b->seq_tokens[seq];
    if (p->kind->window && low >= p->kind->window) t.key = low - p->kind->window + 1;
    return t;
}

static uint32_t chunk_count(const tile *t) {
    return (t->key_end - 1) / CUDA_CHUNK_TOKENS - t->key / CUDA_CHUNK_TOKENS + 1;
}

/* All narrow tiles, or all wide ones; of a sequence the last one, which sees most, first. */
static void visit_tiles(planner *p, bool narrow, tile_visit *visit) {
    for (uint32_t s = 0; s < p->batch->seq_count; s++)
        for (uint32_t i = is_narrow(p, s) == narrow ? tile_count(p, s) : 0; i-- > 0;) {
            tile t = tile_of(p, s, i);
            visit(p, s, &t, chunk_count(&t) > p->split_above[narrow]);
        }
}

static attention_item *put(planner *p, uint32_t seq, const tile *t) {
    const step_batch *b = p->batch;
    attention_item *item = &p->items[p->count++];
    *item = (attention_item){.seq = seq,
                             .token = b->seq_first[seq],
                             .position = b->seq_cached[seq],
                             .length = b->seq_cached[seq] + b->seq_tokens[seq],
                             .row = t->row,
                             .rows = t->rows,
                             .key = t->key,
                             .keys = t->key_end - t->key,
                             .partial = ATTENTION_NO_PARTIAL};
    return item;
}

static void put_chunks(planner *p, uint32_t seq, const tile *t) {
    for (tile part = *t; part.key < t->key_end;) {
        part.key_end = (part.key / CUDA_CHUNK_TOKENS + 1) * CUDA_CHUNK_TOKENS;
        if (part.key_end > t->key_end) part.key_end = t->key_end;
        put(p, seq, &part)->partial = p->partial_rows;
        p->partial_rows += t->rows;
        part.key = part.key_end;
    }
}

static void put_tile(planner *p, uint32_t seq, const tile *t, bool split) {
    if (split)
        put_chunks(p, seq, t);
    else
        put(p, seq, t);
}

/* Visited in the order of put_tile, merges find the partial sums where those were put. */
static void put_merge(planner *p, uint32_t seq, const tile *t, bool split) {
    if (!split) return;
    attention_item *merge = put(p, seq, t);
    merge->key = 0;
    merge->keys = chunk_count(t);
    merge->partial = p->partial_rows;
    p->partial_rows += merge->keys * t->rows;
}

static void count_tile(planner *p, uint32_t seq, const tile *t, bool split) {
    (void)seq;
    p->tiles++;
    if (split) p->wanted += (uint64_t)chunk_count(t) * t->rows;
}

static void count_split(planner *p, bool narrow, uint32_t above) {
    p->split_above[narrow] = above;
    p->tiles = p->wanted = 0;
    visit_tiles(p, narrow, count_tile);
}

/* Sets split_above; the partial rows that are left of `room`. */
static uint64_t choose_split(planner *p, bool narrow, uint64_t room) {
    count_split(p, narrow, 1);
    if (p->tiles * p->kind->kv_heads >= (narrow ? NARROW_WANTED : WIDE_WANTED))
        count_split(p, narrow, narrow ? LONG_CHUNKS : UINT32_MAX);
    while (p->wanted > room)
        count_split(p, narrow, 2 * p->split_above[narrow]);
    return room - p->wanted;
}

static uint32_t put_all(planner *p, bool narrow, tile_visit *visit) {
    uint32_t before = p->count;
    visit_tiles(p, narrow, visit);
    return p->count - before;
}

uint64_t cuda_attention_plan_max(const cuda_attention_kind *kind, uint32_t tokens) {
    uint64_t group = kind->heads / kind->kv_heads;
    /* Narrow sequences have at most 2 tiles, wide ones one more than they fill; an item more takes at
     * least a partial row; a merge is of a tile. */
    uint64_t tiles = 2 * (uint64_t)tokens + tokens * group / attention_wide_rows(kind->head_dim);
    uint64_t items = 2 * tiles + attention_partial_rows(kind);
    return sizeof(cuda_attention_plan) + items * sizeof(attention_item);
}

uint64_t cuda_attention_plan_make(const cuda_attention_kind *kind, const step_batch *batch,
                                  void *plan) {
    ESP_ASSERT(kind->kv_heads > 0 && kind->heads % kind->kv_heads == 0);
    ESP_ASSERT(!(kind->bidirectional && kind->window));
    cuda_attention_plan *out = plan;
    planner p = {.kind = kind,
                 .batch = batch,
                 .group = kind->heads / kind->kv_heads,
                 .items = (attention_item *)(out + 1)};
    choose_split(&p, false, choose_split(&p, true, attention_partial_rows(kind)));
    out->narrow_count = put_all(&p, true, put_tile);
    out->wide_count = put_all(&p, false, put_tile);
    out->partial_rows = p.partial_rows;
    p.partial_rows = 0;
    out->merge_count = put_all(&p, true, put_merge);
    out->merge_count += put_all(&p, false, put_merge);
    ESP_ASSERT(p.partial_rows == out->partial_rows);
    return sizeof *out + p.count * sizeof *p.items;
}
