/* attend_span.h - one tile of queries against one span of pages, in three parts: scores, weights, sums.
 *
 *   score    S[key][query] = K q, a page a tile, high and low part of q one after the other
 *   weigh    top = max(top, S); W = 2^(S - top) rounded to bf16; sum of W as rounded
 *   add      out[dim][query] = out * 2^(old top - top) + V W, 32 keys at a time
 *
 * Keys lie down a tile, queries across: nothing is summed or compared across a vector. Three units,
 * one in each part, take turns within a step, so that tiles multiply while vectors weigh.
 *
 * A span begins at a multiple of AMX_SPAN_KEYS. Keys that a query does not see weigh exactly 0, pages
 * that no query of a tile sees are left out: neither changes a bit. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_ATTEND_SPAN_H
#define ESPALIER_ATTEND_SPAN_H

#include "kernels/cpu/amx/query_tile.h"

/* NULL: a page that the item does not see. */
typedef struct key_span {
    const uint16_t *keys[AMX_SPAN_PAGES];   /* [16][key_width] */
    const uint16_t *values[AMX_SPAN_PAGES]; /* [value_width][16] */
    uint16_t *packed; /* values as A tiles: [pairs of pages][value_width][32 keys] */
    uint32_t begin;   /* position of the first key */
} key_span;

/* What all units of an item share. */
typedef struct span_shape {
    uint32_t key_width, value_width; /* D rounded up to 32, to 16 */
    float softcap;                   /* base 2; 0: none */
} span_shape;

typedef struct span_unit {
    query_tile *tile; /* NULL: nothing to do */
    const key_span *span;
    uint32_t first, end; /* pages of the span that the tile sees */
    float *scores;       /* [keys][16] */
    uint16_t *weights;   /* [pairs of keys][16][2] */
    _Alignas(CACHE_LINE_BYTES) float shrink[AMX_QUERIES];
    bool shrinks; /* some shrink is not 1 */
    bool ends;    /* the tile's last; for whoever closes it */
} span_unit;

void span_pack_values(const span_shape *shape, const key_span *span);

/* One unit in each part: next is scored, now weighed, last added; meanwhile the pages of another span
 * are fetched, unless it is NULL. */
void span_step(const span_shape *shape, const span_unit *next, span_unit *now,
               const span_unit *last, const key_span *ahead);

/* Tiles of these shapes; before the first step. */
void span_configure(void);

#endif
