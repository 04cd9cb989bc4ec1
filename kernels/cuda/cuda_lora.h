/* cuda_lora.h - low-rank updates on the device: how a packed one lies in its pieces, and the table that says
 * which tokens of a linear have which.
 *
 * Packing  Piece 0 begins with a cuda_lora_head, which says where the runs (kernels/lora_run.h) lie: A, then for
 *          each part B, bias, magnitude. A and B are bf16 (values beyond its largest become that), padded with
 *          zeros to whole units; a unit holds what the lanes of a warp take, 16 bytes each, in the order in
 *          which mma.m16n8k16 wants it. Lane 4g + t, with v(r, c) the value of row r and column c:
 *            A  the ranks of all parts, one part behind the other, in panels of 16; columns in blocks of 32. A
 *               unit is a block of a panel, by panel, then block: [2 steps][32 lanes]
 *                 v(g,c) v(g,c+1) v(g+8,c) v(g+8,c+1) v(g,c+2) v(g,c+3) v(g+8,c+2) v(g+8,c+3), c = 8t + 4 step
 *               so that a lane reads 16 bytes of a token's x for two steps.
 *            B  rows in tiles of 16, ranks in steps of 16. A unit is a step of a tile, by tile, then step:
 *               [32 lanes] the same of row g, g+8 and rank c = 4t
 *          Bias and magnitude are f32, 16 rows a unit; they are cut only where a piece cannot hold them.
 *
 * Table    head, a word for each token, tiles of up to 32 tokens of one update, pointers to the updates' pieces.
 *          Offsets are in bytes from the table, which may lie anywhere at multiples of 64. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CUDA_LORA_H
#define ESPALIER_CUDA_LORA_H

#include <stdint.h>

enum {
    CUDA_LORA_PARTS = 3,
    CUDA_LORA_RANKS = CUDA_LORA_PARTS * 512, /* of all parts, at most */
    CUDA_LORA_PANEL = 16,                    /* ranks */
    CUDA_LORA_BLOCK = 32,                    /* columns */
    CUDA_LORA_A_UNIT = 1024,                 /* bytes */
    CUDA_LORA_B_UNIT = 512,
    CUDA_LORA_ROWS = 16, /* of a unit of B, bias, magnitude */
    CUDA_LORA_ROWS_UNIT = 64,
    CUDA_LORA_TILE = 32, /* tokens */
    /* A x is summed in slices of so many blocks of columns, then slice by slice. */
    CUDA_LORA_SLICE = 32,
    /* Up to so many tokens slices are summed apart, by blocks of threads of their own; the bits are the same. */
    CUDA_LORA_APART = 64,
};

/* Unit u lies in piece `piece` at offset + u * bytes while u < first_units; each piece behind it begins with
 * the next next_units. */
typedef struct cuda_lora_run {
    uint32_t piece, first_units, next_units, offset;
} cuda_lora_run;

enum { CUDA_LORA_BIAS = 1, CUDA_LORA_MAGNITUDE = 2 };

typedef struct cuda_lora_part {
    uint32_t rank;
    uint32_t first; /* of its ranks among those of all parts */
    float scale;
    uint32_t flags;
    cuda_lora_run b, bias, magnitude;
} cuda_lora_part;

typedef struct cuda_lora_head {
    uint32_t ranks; /* of all parts */
    uint32_t part_count;
    uint32_t unused[2];
    cuda_lora_run a;
    cuda_lora_part part[CUDA_LORA_PARTS];
} cuda_lora_head;

typedef struct cuda_lora_table_head {
    uint32_t tile_count;
    uint32_t panels;        /* of the update with most ranks */
    uint32_t tiles, pieces; /* where these arrays begin */
    uint32_t token_count, unused[11];
    /* Behind it: uint32_t word[token_count], 0: no update; else 1 + index of its first piece. */
} cuda_lora_table_head;

typedef struct cuda_lora_tile {
    uint64_t update;       /* its piece 0 */
    uint32_t first, count; /* tokens */
    uint32_t piece;        /* index of its first piece in the table's */
    uint32_t ranks;
    uint32_t unused[2];
} cuda_lora_tile;

#endif
