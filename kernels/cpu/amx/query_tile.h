/* query_tile.h - sixteen queries (token and head) that share a kv head, side by side in a vector:
 * their way in from rows of q, and out to rows of bf16.
 *
 * A query is scaled and kept as the sum of two bf16, so that its scores are nearly those of float32. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_QUERY_TILE_H
#define ESPALIER_QUERY_TILE_H

#include "kernels/cpu/cpu.h"

enum { DWORD_ROWS = TILE_COLS / 2 }; /* of a B tile: pairs of dims or of keys */

typedef struct query_tile {
    _Alignas(CACHE_LINE_BYTES) float top[AMX_QUERIES]; /* of the scores so far */
    _Alignas(CACHE_LINE_BYTES) float sum[AMX_QUERIES]; /* of the weights so far */
    uint32_t first[AMX_QUERIES], last[AMX_QUERIES];    /* keys it sees; first > last: none */
    uint32_t first_any, last_any;                      /* that one of the queries sees */
    uint32_t first_all, last_all;                      /* that all of them see */
    uint32_t count;
    const float *in[AMX_QUERIES];
    uint16_t *out[AMX_QUERIES];
    uint16_t *queries; /* [D / 32, rounded up][high, low][16 pairs of dims][16][2] */
    float *outs;       /* [D, rounded up to 16][16] */
} query_tile;

/* in, out, first, last and count are there; the rest follows. */
void query_tile_open(query_tile *tile, uint32_t dim, float scale);
void query_tile_close(const query_tile *tile, uint32_t dim);

#endif
