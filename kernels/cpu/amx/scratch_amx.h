/* scratch_amx.h - what a worker of the AMX level has for itself, and the shapes it is cut into. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_SCRATCH_AMX_H
#define ESPALIER_SCRATCH_AMX_H

#include "kernels/cpu/amx/unpack_amx.h"

enum {
    TILE_TOKENS = 16,             /* columns of a B or C tile */
    TILE = TILE_ROWS * TILE_COLS, /* elements of an A or B tile */
    C_TILE = TILE_ROWS * TILE_TOKENS,
    ROW_BYTES = 64, /* of a whole tile */
    FEW_TOKENS = 2 * TILE_TOKENS,
    RING = 2,                /* unpacked blocks of a strip */
    PAIR = 2,                /* tiles side by side, of many tokens; of few STRIP_TILES */
    PANEL = 20,              /* blocks of a pair that are unpacked at once: they stay in L1 */
    GROUP = 8,               /* pairs whose sums wait for the next range */
    RANGE_BLOCKS = 64 * 192, /* of 32 inputs of a token that stay in L2 for a group: 768 KB */
    ROWS_STRIDE = STRIP_MAX * TILE_ROWS,
    INT8_STRIP = 2,  /* tiles side by side with int8 activations */
    INT8_PANEL = 12, /* blocks of one that are unpacked at once */
};

/* Some blocks of one weight tile as they are multiplied with int8 activations. */
typedef struct int8_panel {
    _Alignas(CACHE_LINE_BYTES) uint8_t bytes[INT8_PANEL][TILE];
    _Alignas(CACHE_LINE_BYTES) float scales[INT8_PANEL][2][TILE_ROWS];
    _Alignas(CACHE_LINE_BYTES) float offsets[INT8_PANEL][2][TILE_ROWS];
} int8_panel;

typedef struct amx_scratch {
    _Alignas(CACHE_LINE_BYTES) uint16_t ring[RING][STRIP_TILES][TILE];
    _Alignas(CACHE_LINE_BYTES) uint16_t panel[PAIR][PANEL][TILE];
    amx_scales scales[2][2 * SCALES_AHEAD][STRIP_TILES];            /* of two legs */
    _Alignas(CACHE_LINE_BYTES) float rows[FEW_TOKENS][ROWS_STRIDE]; /* for the epilogue */
    _Alignas(CACHE_LINE_BYTES) float sums[GROUP][AMX_CHUNK / TILE_TOKENS][PAIR][C_TILE];
    int8_panel int8_panels[INT8_STRIP];
} amx_scratch;

static inline amx_scratch *amx_scratch_of(const kern_device *dev, uint32_t worker) {
    return (amx_scratch *)(void *)(dev->level_scratch + worker * sizeof(amx_scratch));
}

#endif
