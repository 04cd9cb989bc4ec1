/* lora_amx.h - low-rank updates on AMX tiles: B h as further blocks of the sums of a linear.
 *
 * A state tile (lora_plan.h) is a B tile, 32 ranks x 16 tokens, and 16 rows of an update's B are the A tile, so
 * that C, the sums of W x, has B h added before it leaves its tile. All updates of a B tile's tokens are added to all
 * its columns: h is zero for the tokens of others, whose sums so get +0 added, which changes no bit of them. (But for
 * a sum of -0, which is what tdpbf16ps makes of a sum too small for a float: it would become +0.) An A tile of fewer
 * than 32 ranks has the next rows' values behind them, and they meet zeros of h too.
 *
 * Order   uses in order, of a use its ranks 32 by 32; after all blocks of W */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_LORA_AMX_H
#define ESPALIER_LORA_AMX_H

#include "kernels/cpu/amx/amx.h"
#include "kernels/cpu/amx/scratch_amx.h"
#include "kernels/cpu/level/linear_job.h"
#include "kernels/cpu/lora_fetch.h"
#include "kernels/cpu/lora_plan.h"

/* cpu_level's, of the AMX level. */
void amx_lora_shrink(const linear_job *job, uint32_t worker, uint32_t workers);
void amx_lora_fetch_next(const linear_job *job, uint32_t worker, uint32_t workers,
                         lora_fetch *fetch);
void amx_lora_update(const linear_job *job, const strip *s, uint32_t base, uint32_t tokens,
                     float *sums, uint32_t stride);
/* The shares of all workers, whole when it returns. */
void amx_lora_shrink_all(const linear_job *job);

/* Of a use the tiles i .. end of a pair, of one matrix, for the tokens of the B tiles t + w it has any of. */
static inline void amx_lora_expand_use(const cpu_lora_plan *plan, const cpu_lora_use *use,
                                       const strip *s, uint32_t first, uint32_t i, uint32_t end,
                                       uint32_t t, const bool has[2]) {
    const uint32_t m = s->matrix[first + i];
    if (m >= use->lora->part_count) return;
    const uint32_t rank = use->lora->part[m].rank;
    const cpu_lora_part *part = &use->layout.part[m];
    const uint16_t *h[2] = {has[0] ? cpu_lora_state(plan, use, t, part->state_first) : NULL,
                            has[1] ? cpu_lora_state(plan, use, t + 1, part->state_first) : NULL};
    for (uint32_t at = 0; at < rank; at += LORA_STATE_RANKS) {
        const uint32_t g = at / LORA_GROUP, state = at * TILE_TOKENS;
        const size_t row = cpu_lora_group(rank, g) * sizeof(uint16_t);
        uint32_t together;
        if (h[0]) AMX_LOAD_ONCE(4, h[0] + state, ROW_BYTES);
        if (h[1]) AMX_LOAD_ONCE(5, h[1] + state, ROW_BYTES);
        if (i == 0) {
            const uint16_t *b =
                lora_unit(&part->b[g], use->lora->pieces, s->tile[first], &together);
            AMX_LOAD(6, b + at % LORA_GROUP, row);
            if (h[0]) AMX_MULTIPLY(0, 6, 4);
            if (h[1]) AMX_MULTIPLY(2, 6, 5);
        }
        if (end == 2) {
            const uint16_t *b =
                lora_unit(&part->b[g], use->lora->pieces, s->tile[first + 1], &together);
            AMX_LOAD(7, b + at % LORA_GROUP, row);
            if (h[0]) AMX_MULTIPLY(1, 7, 4);
            if (h[1]) AMX_MULTIPLY(3, 7, 5);
        }
    }
}

/* Whether tile t has tokens of use u. */
static inline bool amx_lora_has(const cpu_lora_plan *plan, uint32_t t, uint32_t u) {
    return u >= plan->tile_first[t] && u < plan->tile_end[t];
}

/* One or two weight tiles (count) of a strip from `first` on, one or two B tiles (wide) of the op from t on, into C tiles
 * 2 * w + i; uses tiles 4 to 7. */
static inline void amx_lora_expand_pair(const linear_job *job, const strip *s, uint32_t first,
                                        uint32_t count, uint32_t t, uint32_t wide) {
    const cpu_lora_plan *plan = job->lora;
    const bool alike = count == 2 && s->matrix[first] == s->matrix[first + 1];
    const uint32_t last = t + wide - 1;
    const uint32_t begin = plan->tile_end[t] ? plan->tile_first[t] : plan->tile_first[last];
    const uint32_t end = plan->tile_end[last] ? plan->tile_end[last] : plan->tile_end[t];
    for (uint32_t u = begin; u < end; u++) { /* in the order of tokens */
        const bool has[2] = {amx_lora_has(plan, t, u), wide == 2 && amx_lora_has(plan, last, u)};
        const cpu_lora_use *use = &plan->uses[u];
        amx_lora_expand_use(plan, use, s, first, 0, alike ? 2 : 1, t, has);
        if (count == 2 && !alike) amx_lora_expand_use(plan, use, s, first, 1, 2, t, has);
    }
}

/* B h of up to STRIP_TILES tiles of one matrix, those of a leg (few_amx.c): 32 ranks of a use after the other. */
typedef struct amx_lora_leg {
    uint32_t count, tiles;
    struct {
        const char *b[STRIP_TILES]; /* of each tile: rows `row` bytes apart */
        size_t row;
        const uint16_t *h[2]; /* of each B tile; NULL: the use has no tokens of it */
    } product[FEW_TOKENS * LORA_RANK_MAX / LORA_STATE_RANKS];
    lora_fetch fetch; /* of all b */
} amx_lora_leg;

/* Tiles of a strip from `first` on; fetched in so many steps. */
void amx_lora_begin_leg(const linear_job *job, const strip *s, uint32_t first, uint32_t tiles,
                        uint32_t steps, amx_lora_leg *leg);

#define LORA_TILE(n, reg, c)                                                                       \
    do {                                                                                           \
        if (leg->tiles <= n) break;                                                                \
        AMX_LOAD(reg, leg->product[i].b[n], row);                                                  \
        AMX_MULTIPLY(c, reg, 4);                                                                   \
    } while (0)
#define LORA_TILES(n, reg, c, d)                                                                   \
    do {                                                                                           \
        if (leg->tiles <= n) break;                                                                \
        AMX_LOAD(reg, leg->product[i].b[n], row);                                                  \
        if (h[0]) AMX_MULTIPLY(c, reg, 4);                                                         \
        if (h[1]) AMX_MULTIPLY(d, reg, 5);                                                         \
    } while (0)

/* C tile wide * i + w has tile i of the leg and B tile w; uses tiles 4 and up. */
ALWAYS_INLINE void amx_lora_end_leg(const amx_lora_leg *leg, uint32_t wide) {
    for (uint32_t i = 0; i < leg->count; i++) {
        const uint16_t *const *h = leg->product[i].h;
        const size_t row = leg->product[i].row;
        if (h[0]) AMX_LOAD(4, h[0], ROW_BYTES);
        if (wide == 1) {
            LORA_TILE(0, 5, 0);
            LORA_TILE(1, 6, 1);
            LORA_TILE(2, 7, 2);
            LORA_TILE(3, 5, 3);
            continue;
        }
        if (h[1]) AMX_LOAD(5, h[1], ROW_BYTES);
        LORA_TILES(0, 6, 0, 1);
        LORA_TILES(1, 7, 2, 3);
    }
}
#undef LORA_TILE
#undef LORA_TILES

#endif
