/* attend_item.h - one worker's piece of attention: some queries of a sequence that share a kv head, and the
 * pages that they see. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_ATTEND_ITEM_H
#define ESPALIER_ATTEND_ITEM_H

#include "kernels/cpu/amx/attend_span.h"

#define LOG2_E 1.44269504088896341f

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

/* first .. end of a sequence's pages. */
typedef struct page_range {
    uint32_t first, end;
} page_range;

/* Keys first .. last that the query of a token at a position sees. */
uint32_t attend_first_key(const kern_attention *op, uint32_t position);
uint32_t attend_last_key(const kern_attention *op, uint32_t seq, uint32_t position);

/* Tiles 0 .. count of the item, in the places first .. first + count of the scratch. */
void attend_open_tiles(const attention_job *job, const attention_item *item, amx_attention *scratch,
                       query_tile *tiles, uint32_t first, uint32_t count);

/* The span that begins at a page, without those that the item does not see. */
key_span attend_span_at(const attention_job *job, const attention_item *item, page_range sees,
                        uint32_t page);

/* Likely the first span of an item: of the token that comes first. */
key_span attend_first_span(const attention_job *job, const attention_item *item);

/* Items of one tile each, as in a step of decode; the worker's scratch. */
void attend_lone_items(const attention_job *job, const attention_item *items, uint32_t count,
                       amx_attention *scratch);

static inline uint32_t attend_span_begin(uint32_t page) {
    return page / AMX_SPAN_PAGES * AMX_SPAN_PAGES;
}

#endif
