/* lora_plan.h - low-rank updates of the CPU backend: how they lie in their pieces, and which of them an op has.
 *
 * Arithmetic  A and B are rounded to bf16 (values beyond its largest become that). For a token with an update
 *               h[r]  = scale * (A x)[r]
 *               y     = ((W x + B h) * magnitude + bias of the update) + bias of the base
 *             x in bf16 also where the base takes it in int8. A x is summed by columns and B h by ranks, in an
 *             order that is the level's and depends on nothing but the update's shape (Law 1): of avx2 and
 *             avx512 in level/lora_level.c, of amx, which rounds h to bf16, in amx/lora_amx.c.
 *
 * Packing     The ranks of all parts, one part behind the other, are cut into panels of LORA_PANEL; the last may
 *             have fewer. A panel's runs of A (lora_run.h) have a unit for each block of 32 columns. A part's B is
 *             cut into groups of LORA_GROUP ranks, the last of fewer; a group's run has a unit for each tile of 16
 *             rows. bf16, padded with zeros to whole blocks and tiles, no further:
 *                          a unit of A, R ranks     a unit of B, R ranks
 *               by columns [32 columns][R]          [R][16 rows]
 *               by rows    [16 pairs of columns][R][2] [16 rows][R]  levels that are by_rows
 *             Kernels load whole vectors and tiles: what they read beyond a row or a unit belongs to its
 *             neighbour or to padding, and is multiplied by zero or dropped. Bias and magnitude: f32, a unit for
 *             each tile of rows. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_LORA_PLAN_H
#define ESPALIER_LORA_PLAN_H

#include "engine/base/least.h"
#include "kernels/cpu/cpu.h"
#include "kernels/lora_run.h"

enum {
    LORA_PANEL = TILE_ROWS,
    LORA_GROUP = 64,
    LORA_RANKS = LINEAR_MATRICES_MAX * LORA_RANK_MAX, /* of all parts, at most */
    LORA_PANELS = LORA_RANKS / LORA_PANEL,
    LORA_GROUPS = LORA_RANK_MAX / LORA_GROUP,
    LORA_TOKENS = AMX_CHUNK, /* of a plan, at most: longer ops are cut */
    LORA_TILE_TOKENS = 16,
    LORA_TILES = LORA_TOKENS / LORA_TILE_TOKENS,
    LORA_STATE_RANKS = 32, /* of a state tile */
    LORA_STATE_BYTES = LORA_STATE_RANKS * LORA_TILE_TOKENS * 2,
};

typedef struct cpu_lora_part {
    uint32_t first;       /* of its ranks among those of all parts */
    uint32_t state_first; /* of its state tiles among those of all parts */
    lora_run bias, magnitude;
    lora_run b[LORA_GROUPS];
} cpu_lora_part;

typedef struct cpu_lora_layout {
    uint32_t ranks, panels, states, pieces; /* of all parts */
    cpu_lora_part part[LINEAR_MATRICES_MAX];
    lora_run a[LORA_PANELS]; /* `panels` of them are set */
} cpu_lora_layout;

/* Ranks of panel p, of group g of a part. */
static inline uint32_t cpu_lora_panel(const cpu_lora_layout *layout, uint32_t p) {
    return least(layout->ranks - p * LORA_PANEL, LORA_PANEL);
}
static inline uint32_t cpu_lora_group(uint32_t rank, uint32_t g) {
    return least(rank - g * LORA_GROUP, LORA_GROUP);
}
static inline uint32_t cpu_lora_groups(uint32_t rank) {
    return (rank + LORA_GROUP - 1) / LORA_GROUP;
}
/* State tiles of a part. */
static inline uint32_t cpu_lora_states(uint32_t rank) {
    return (rank + LORA_STATE_RANKS - 1) / LORA_STATE_RANKS;
}

/* One update and the tokens of an op that have it. */
typedef struct cpu_lora_use {
    const kern_lora *lora;
    uint32_t first, count;
    /* Where its h begins in the plan's states. By columns: [count][ranks] f32. By rows: [tiles of 16 tokens
     * that have one of these][states][16 pairs of ranks][16 tokens][2] bf16, zero for other tokens and behind a
     * part's last rank. In bytes. */
    size_t states;
    cpu_lora_layout layout;
} cpu_lora_use;

/* What an op of at most LORA_TOKENS tokens has; two for the device, taken at open. */
struct cpu_lora_plan {
    uint32_t count;
    bool after[LINEAR_MATRICES_MAX]; /* some part of this matrix has a bias or a magnitude */
    bool any_after;
    size_t state_bytes;                                    /* used */
    uint32_t tile_first[LORA_TILES], tile_end[LORA_TILES]; /* uses with tokens of a tile of 16 */
    cpu_lora_use *uses;
    char *states; /* 64-byte aligned */
    size_t uses_room, states_room;
};

/* State tile `state` of a use for the tokens of tile `tile`; by rows. */
static inline uint16_t *cpu_lora_state(const cpu_lora_plan *plan, const cpu_lora_use *use,
                                       uint32_t tile, uint32_t state) {
    size_t at = (size_t)(tile - use->first / LORA_TILE_TOKENS) * use->layout.states + state;
    return (uint16_t *)(void *)(plan->states + use->states + at * LORA_STATE_BYTES);
}

/* NULL: no memory. Closing takes NULL. */
cpu_lora_plan *cpu_lora_plan_open(const kern_device *dev);
void cpu_lora_plan_close(cpu_lora_plan *plan);
/* The segments of op that have tokens base .. base + count, counted from base, in dev->lora; what dev->lora_next
 * says if it is of these segments. */
void cpu_lora_plan_op(kern_device *dev, const kern_linear *op, uint32_t base, uint32_t count);
/* dev->lora_next: the segments that op says come next, for as many tokens. */
void cpu_lora_plan_next(kern_device *dev, const kern_linear *op);

/* Where everything of an update lies; bytes: of each piece, or NULL. */
void cpu_lora_lay_out(const kern_device *dev, const kern_lora *lora, size_t *bytes,
                      cpu_lora_layout *out);

uint32_t cpu_lora_pieces(const kern_device *dev, const kern_lora_desc *desc, size_t piece_max,
                         size_t *bytes);
void cpu_lora_pack(const kern_device *dev, const kern_lora_desc *desc, size_t piece_max,
                   void *const *pieces);

#endif
