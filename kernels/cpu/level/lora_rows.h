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

/* Sums of tokens begin .. end of the op and some tiles of a matrix: y[(token - begin) * stride + tile * 16]. */
typedef struct lora_rows {
    const cpu_lora_use *use;
    uint32_t part, tile, tiles;
    uint32_t begin, end;
    float *y;
    uint32_t stride;
} lora_rows;

/* Of tile i of the rows. */
static inline const void *lora_tile_unit(const lora_rows *rows, uint32_t i, const lora_run *run) {
    uint32_t together;
    return lora_unit(run, rows->use->lora->pieces, rows->tile + i, &together);
}

static inline void lora_finish_tile(const lora_rows *rows, uint32_t i) {
    const kern_lora *lora = rows->use->lora;
    const cpu_lora_part *part = &rows->use->layout.part[rows->part];
    const float *magnitude = NULL, *bias = NULL;
    if (lora->part[rows->part].magnitude) magnitude = lora_tile_unit(rows, i, &part->magnitude);
    if (lora->part[rows->part].bias) bias = lora_tile_unit(rows, i, &part->bias);
    if (!magnitude && !bias) return;
    for (uint32_t t = rows->begin; t < rows->end; t++)
        for (uint32_t v = 0; v < TILE_ROWS; v += LANES) {
            float *at = rows->y + (size_t)(t - rows->begin) * rows->stride + i * TILE_ROWS + v;
            vf y = v_load(at);
            if (magnitude) y = v_mul(y, v_load(magnitude + v));
            if (bias) y = v_add(y, v_load(bias + v));
            v_store(at, y);
        }
}

typedef void lora_sum_fn(const linear_job *job, const lora_rows *rows);

static inline void lora_update_rows(const linear_job *job, lora_sum_fn *add_sums,
                                    const lora_rows *rows) {
    if (rows->part >= rows->use->lora->part_count) return;
    if (!job->lora_summed && rows->use->lora->part[rows->part].rank) add_sums(job, rows);
    for (uint32_t i = 0; job->lora->after[rows->part] && i < rows->tiles; i++)
        lora_finish_tile(rows, i);
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
        for (uint32_t i = 0, tiles; begin < end && i < s->count; i += tiles) {
            tiles = strip_of_matrix(s, i);
            lora_rows rows = {.use = use,
                              .part = s->matrix[i],
                              .tile = s->tile[i],
                              .tiles = tiles,
                              .begin = begin,
                              .end = end,
                              .y = sums + (size_t)(begin - base) * stride + i * TILE_ROWS,
                              .stride = stride};
            lora_update_rows(job, add_sums, &rows);
        }
    }
}

#endif
