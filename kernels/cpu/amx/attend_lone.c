/* attend_lone.c - attention of items that have one tile of queries each: one walk through the spans of all.
 *
 * Few queries wait for memory. So the three parts of span_step never run empty between items, and while an
 * item's last span is scored the next item's first one is on its way. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/amx/attend_item.h"

enum { RING = 4 }; /* tiles: of the three units under way, and of the one that is opened */
_Static_assert((int)RING <= (int)AMX_QUERY_TILES, "room in the scratch");

typedef struct lone_walk {
    const attention_job *job;
    const attention_item *items;
    uint32_t count;
    amx_attention *scratch;
    uint32_t at;     /* the item */
    page_range sees; /* its pages */
    uint32_t page;   /* where its next span begins */
    query_tile tiles[RING];
    uint32_t units;             /* so far */
    key_span spans[AMX_BLOCKS]; /* of the units under way */
    key_span ahead;             /* behind them: to be fetched */
} lone_walk;

static query_tile *tile_of(lone_walk *walk) { return &walk->tiles[walk->at % RING]; }

static void open_item(lone_walk *walk) {
    query_tile *tile = tile_of(walk);
    attend_open_tiles(walk->job, &walk->items[walk->at], walk->scratch, tile, walk->at % RING, 1);
    walk->sees = (page_range){.first = tile->first_any / KV_PAGE_TOKENS,
                              .end = tile->last_any / KV_PAGE_TOKENS + 1};
    walk->page = attend_span_begin(walk->sees.first);
}

static void look_ahead(lone_walk *walk) {
    const attention_item *item = &walk->items[walk->at];
    if (walk->page < walk->sees.end)
        walk->ahead = attend_span_at(walk->job, item, walk->sees, walk->page);
    else if (walk->at + 1 < walk->count)
        walk->ahead = attend_first_span(walk->job, item + 1);
    else
        walk->ahead = (key_span){.begin = 0};
}

/* Values are packed before the pages behind them are fetched. */
static key_span *take_span(lone_walk *walk, uint32_t turn) {
    key_span *span = &walk->spans[turn % AMX_BLOCKS];
    *span = attend_span_at(walk->job, &walk->items[walk->at], walk->sees, walk->page);
    span->packed = walk->scratch->values;
    return span;
}

static bool next_unit(lone_walk *walk, span_unit *unit) {
    if (walk->page >= walk->sees.end) {
        if (walk->at + 1 == walk->count) return false;
        walk->at++;
        open_item(walk);
    }
    uint32_t turn = walk->units++, begin = walk->page, end = begin + AMX_SPAN_PAGES;
    unit->tile = tile_of(walk);
    unit->span = take_span(walk, turn);
    unit->first = walk->sees.first > begin ? walk->sees.first - begin : 0;
    unit->end = (walk->sees.end < end ? walk->sees.end : end) - begin;
    unit->scores = walk->scratch->scores[turn % 2];
    unit->weights = walk->scratch->weights[turn % 2];
    unit->ends = end >= walk->sees.end;
    walk->page = end;
    look_ahead(walk);
    return true;
}

void attend_lone_items(const attention_job *job, const attention_item *items, uint32_t count,
                       amx_attention *scratch) {
    lone_walk walk = {.job = job, .items = items, .count = count, .scratch = scratch};
    span_unit units[3];
    uint32_t left = 2; /* steps behind the last unit */
    units[1].tile = units[2].tile = NULL;
    open_item(&walk);
    for (uint32_t turn = 0; left > 0; turn++) {
        span_unit *next = &units[turn % 3], *now = &units[(turn + 2) % 3];
        span_unit *last = &units[(turn + 1) % 3];
        bool goes_on = left == 2 && next_unit(&walk, next);
        if (!goes_on) {
            next->tile = NULL;
            left--;
        }
        if (last->tile) span_pack_values(&job->shape, last->span);
        span_step(&job->shape, next, now, last, goes_on ? &walk.ahead : NULL);
        if (last->tile && last->ends) query_tile_close(last->tile, job->op->kv.shape->head_dim);
    }
}
