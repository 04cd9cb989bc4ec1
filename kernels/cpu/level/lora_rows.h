/* lora_rows.h - the update of sums that lie in rows of tokens, with the vectors of any level.
 *
 * A token's sums of a tile are, a group of ranks after the other and r in order,
 *   p = fma(b[r], h[r], p) from p = 0,   y = y + p
 * What follows the last group: y = y * magnitude, y = y + bias. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_LORA_ROWS_H
#define ESPALIER_LORA_ROWS_H

#include "kernels/cpu/level/linear_job.h"
#include "kernels/cpu/lora_plan.h"

/* A tile's sums of tokens begin .. end of the op: y[(token - begin) * stride]. */
typedef struct lora_rows {
    const cpu_lora_use *use;
    uint32_t part, tile;
    uint32_t begin, end;
    float *y;
    uint32_t stride;
} lora_rows;

static inline const void *lora_tile_unit(const lora_rows *rows, const lora_run *run) {
    uint32_t together;
    return lora_unit(run, rows->use->lora->pieces, rows->tile, &together);
}

static inline void lora_finish_rows(const lora_rows *rows) {
    const kern_lora *lora = rows->use->lora;
    const cpu_lora_part *part = &rows->use->layout.part[rows->part];
    const float *magnitude = NULL, *bias = NULL;
    if (lora->part[rows->part].magnitude) magnitude = lora_tile_unit(rows, &part->magnitude);
    if (lora->part[rows->part].bias) bias = lora_tile_unit(rows, &part->bias);
    if (!magnitude && !bias) return;
    for (uint32_t t = rows->begin; t < rows->end; t++)
        for (uint32_t v = 0; v < TILE_ROWS; v += LANES) {
            float *at = rows->y + (size_t)(t - rows->begin) * rows->stride + v;
            vf y = v_load(at);
            if (magnitude) y = v_mul(y, v_load(magnitude + v));
            if (bias) y = v_add(y, v_load(bias + v));
            v_store(at, y);
        }
}

typedef void lora_sum_fn(const linear_job *job, const lora_rows *rows);

/* The rows of a use in tile i of a strip. */
static inline void lora_update_tile(const linear_job *job, const cpu_lora_use *use,
                                    lora_sum_fn *add_sums, lora_rows *rows) {
    rows->use = use;
    if (rows->part >= use->lora->part_count) return;
    if (!job->lora_summed && use->lora->part[rows->part].rank) add_sums(job, rows);
    lora_finish_rows(rows);
}

/* cpu_level.lora_update, given what adds B h. */
ALWAYS_INLINE void lora_update_strip(lora_sum_fn *add_sums, const linear_job *job, const strip *s,
                                     uint32_t base, uint32_t tokens, float *sums, uint32_t stride) {
    const cpu_lora_plan *plan = job->lora;
    if (job->lora_summed && !plan->any_after) return;
    for (uint32_t u = plan->tile_first[base / LORA_TILE_TOKENS]; u < plan->count; u++) {
        const cpu_lora_use *use = &plan->uses[u];
        uint32_t begin = use->first < base ? base : use->first, end = use->first + use->count;
        if (end > base + tokens) end = base + tokens;
        if (use->first >= base + tokens) return;
        for (uint32_t i = 0; begin < end && i < s->count; i++) {
            lora_rows rows = {.part = s->matrix[i],
                              .tile = s->tile[i],
                              .begin = begin,
                              .end = end,
                              .y = sums + (size_t)(begin - base) * stride + i * TILE_ROWS,
                              .stride = stride};
            lora_update_tile(job, use, add_sums, &rows);
        }
    }
}

#endif
