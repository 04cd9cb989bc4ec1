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
#include "kernels/cpu/lora_plan.h"

/* cpu_level's, of the AMX level. */
void amx_lora_shrink(kern_device *dev, const kern_linear *op);
void amx_lora_update(const linear_job *job, const strip *s, uint32_t base, uint32_t tokens,
                     float *sums, uint32_t stride);

/* C tile c 0..3 += an update's B, rows a_row apart, times h; uses tiles 4 (as wide as C) and 7. */
ALWAYS_INLINE void amx_lora_product(uint32_t c, const void *a, size_t a_row, const uint16_t *h) {
    AMX_LOAD(4, h, ROW_BYTES);
    AMX_LOAD(7, a, a_row);
    if (c == 0) AMX_MULTIPLY(0, 7, 4);
    if (c == 1) AMX_MULTIPLY(1, 7, 4);
    if (c == 2) AMX_MULTIPLY(2, 7, 4);
    if (c == 3) AMX_MULTIPLY(3, 7, 4);
}

/* Tile `tile` of matrix m for the tokens of B tile t, of one use, into C tile c. */
ALWAYS_INLINE void amx_lora_tile(const cpu_lora_plan *plan, const cpu_lora_use *use, uint32_t m,
                                 uint32_t tile, uint32_t t, uint32_t c) {
    if (m >= use->lora->part_count) return;
    const uint32_t rank = use->lora->part[m].rank;
    const cpu_lora_part *part = &use->layout.part[m];
    const uint16_t *h = cpu_lora_state(plan, use, t, part->state_first);
    for (uint32_t first = 0; first < rank; first += LORA_STATE_RANKS) {
        uint32_t g = first / LORA_GROUP, together;
        const uint16_t *b = lora_unit(&part->b[g], use->lora->pieces, tile, &together);
        amx_lora_product(c, b + first % LORA_GROUP, cpu_lora_group(rank, g) * sizeof *b, h);
        h += LORA_STATE_BYTES / sizeof *h;
    }
}

/* `count` tiles of a strip from `first` on, B tiles t .. t + wide of the op: C tile i * i_step + w * w_step has tile
 * first + i and B tile t + w. */
static inline void amx_lora_expand(const linear_job *job, const strip *s, uint32_t first,
                                   uint32_t count, uint32_t t, uint32_t wide, uint32_t i_step,
                                   uint32_t w_step) {
    const cpu_lora_plan *plan = job->lora;
    for (uint32_t w = 0; w < wide; w++)
        for (uint32_t u = plan->tile_first[t + w]; u < plan->tile_end[t + w]; u++)
            for (uint32_t i = 0; i < count; i++)
                amx_lora_tile(plan, &plan->uses[u], s->matrix[first + i], s->tile[first + i], t + w,
                              i * i_step + w * w_step);
}

#endif
