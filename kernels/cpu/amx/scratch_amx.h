/* scratch_amx.h - what a worker of the AMX level has for itself, and the shapes it is cut into. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_SCRATCH_AMX_H
#define ESPALIER_SCRATCH_AMX_H

#include "kernels/cpu/amx/unpack_amx.h"

enum {
    TILE_TOKENS = 16,             /* columns of a B or C tile */
    TILE = TILE_ROWS * TILE_COLS, /* elements of an A or B tile */
    C_TILE = TILE_ROWS * TILE_TOKENS,
    FEW_TOKENS = 2 * TILE_TOKENS,
    FEW_TILES = 4, /* side by side, of up to 16 tokens */
    PAIR = 2,      /* tiles side by side, of more */
    PANEL = 32,    /* blocks that are unpacked at once */
    GROUP = 8,     /* pairs whose sums wait for the next panel */
};

typedef struct amx_scratch {
    _Alignas(CACHE_LINE_BYTES) uint16_t ring[2][FEW_TILES][TILE];
    _Alignas(CACHE_LINE_BYTES) uint16_t panel[PAIR][PANEL][TILE];
    amx_scales scales[FEW_TILES][PANEL];
    _Alignas(CACHE_LINE_BYTES) float rows[FEW_TOKENS][FEW_TILES * TILE_ROWS]; /* for the epilogue */
    _Alignas(CACHE_LINE_BYTES) float sums[GROUP][AMX_CHUNK / TILE_TOKENS][PAIR][C_TILE];
} amx_scratch;

#endif
