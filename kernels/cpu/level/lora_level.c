/* lora_level.c - low-rank updates with the vectors of a level: h = scale * A x, and B h added to a strip's sums.
 *
 * In     x [T,K] bf16; the updates of dev->lora, by columns (lora_plan.h)
 * Out    h f32, in the plan's states; sums of strips, updated
 * Work   shrink: units of a panel and SHRINK_TOKENS tokens, split statically; update: in its strip's worker
 * Shape  h[r] has a chain for each remainder of its columns by CHAINS, p = fma(a[r][k], x[k], p) with k in order;
 *        the chains are added up two by two, times scale. B h as in lora_rows.h
 * Cost   A and B are read once for SHRINK_TOKENS tokens, for a chunk */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/level/lora_rows.h"

enum {
    CHAINS = 4,
    SHRINK_TOKENS = 2, /* with CHAINS: as many sums as registers hold */
};

static float *states_of(const cpu_lora_plan *plan, const cpu_lora_use *use, uint32_t token) {
    return (float *)(void *)(plan->states + use->states) +
           (size_t)(token - use->first) * use->layout.ranks;
}

/* --- h -------------------------------------------------------------------------------------- */

typedef struct shrink_job {
    kern_device *dev;
    const kern_linear *op;
} shrink_job;

/* A panel of a use and up to SHRINK_TOKENS of its tokens. */
typedef struct shrink_unit {
    const cpu_lora_use *use;
    uint32_t panel, token, tokens;
} shrink_unit;

typedef vf shrink_sums[SHRINK_TOKENS][CHAINS][VECTORS];

/* Columns k .. of the panel's block, the inputs of each token as floats. */
ALWAYS_INLINE void add_block(const uint16_t *a, uint32_t ranks,
                             const float x[SHRINK_TOKENS][TILE_COLS], shrink_sums sums) {
    for (uint32_t k = 0; k < TILE_COLS; k += CHAINS)
        UNROLL for (uint32_t c = 0; c < CHAINS; c++) UNROLL for (uint32_t v = 0; v < VECTORS; v++) {
            vf w = v_load_bf16(a + (size_t)(k + c) * ranks + v * LANES);
            UNROLL for (uint32_t t = 0; t < SHRINK_TOKENS; t++) sums[t][c][v] =
                v_fma(w, v_set1(x[t][k + c]), sums[t][c][v]);
        }
}

/* Block b of a token's inputs; zeros behind its columns. */
static void read_inputs(const shrink_job *job, uint32_t cols, uint32_t token, uint32_t b,
                        float *out) {
    const uint16_t *in = (const uint16_t *)job->op->in + (size_t)token * cols;
    uint16_t lined_up[TILE_COLS];
    uint32_t count = cpu_lora_least(cols - b * TILE_COLS, TILE_COLS);
    const uint16_t *block = block_of(in, NULL, b, count, lined_up);
    for (uint32_t v = 0; v < TILE_COLS; v += LANES)
        v_store(out + v, v_load_bf16(block + v));
}

/* The scale of a rank among those of all parts. */
static float scale_of(const cpu_lora_use *use, uint32_t rank) {
    uint32_t i = 0;
    while (rank >= use->layout.part[i].first + use->lora->part[i].rank)
        i++;
    return use->lora->part[i].scale;
}

static void store_states(const shrink_job *job, const shrink_unit *unit, shrink_sums sums) {
    uint32_t first = unit->panel * LORA_PANEL;
    uint32_t ranks = cpu_lora_panel(&unit->use->layout, unit->panel);
    for (uint32_t t = 0; t < unit->tokens; t++) {
        float *out = states_of(job->dev->lora, unit->use, unit->token + t) + first;
        float h[LORA_PANEL];
        for (uint32_t v = 0; v < VECTORS; v++)
            v_store(h + v * LANES, v_add(v_add(sums[t][0][v], sums[t][1][v]),
                                         v_add(sums[t][2][v], sums[t][3][v])));
        for (uint32_t r = 0; r < ranks; r++)
            out[r] = h[r] * scale_of(unit->use, first + r);
    }
}

static void run_unit(const shrink_job *job, const shrink_unit *unit) {
    const kern_lora *lora = unit->use->lora;
    const lora_run *run = &unit->use->layout.a[unit->panel];
    uint32_t ranks = cpu_lora_panel(&unit->use->layout, unit->panel);
    shrink_sums sums;
    for (uint32_t t = 0; t < SHRINK_TOKENS; t++)
        for (uint32_t c = 0; c < CHAINS; c++)
            for (uint32_t v = 0; v < VECTORS; v++)
                sums[t][c][v] = v_zero();
    for (uint32_t b = 0, together; b < run->units; b += together) {
        const uint16_t *a = lora_unit(run, lora->pieces, b, &together);
        for (uint32_t i = 0; i < together; i++, a += ranks * TILE_COLS) {
            float x[SHRINK_TOKENS][TILE_COLS] = {{0}};
            for (uint32_t t = 0; t < unit->tokens; t++)
                read_inputs(job, lora->cols, unit->token + t, b + i, x[t]);
            add_block(a, ranks, x, sums);
        }
    }
    store_states(job, unit, sums);
}

static uint32_t unit_count(const cpu_lora_use *use) {
    return use->layout.panels * ((use->count + SHRINK_TOKENS - 1) / SHRINK_TOKENS);
}

/* Unit `number` of a use: panel by panel. */
static shrink_unit unit_at(const cpu_lora_use *use, uint32_t number) {
    uint32_t groups = unit_count(use) / use->layout.panels;
    uint32_t token = number % groups * SHRINK_TOKENS;
    return (shrink_unit){.use = use,
                         .panel = number / groups,
                         .token = use->first + token,
                         .tokens = cpu_lora_least(use->count - token, SHRINK_TOKENS)};
}

static void shrink(void *arg, uint32_t worker, uint32_t workers) {
    const shrink_job *job = arg;
    const cpu_lora_plan *plan = job->dev->lora;
    uint32_t all = 0, first = 0, begin, end;
    for (uint32_t u = 0; u < plan->count; u++)
        all += unit_count(&plan->uses[u]);
    pool_share(all, 1, worker, workers, &begin, &end);
    for (uint32_t u = 0; u < plan->count && first < end; u++) {
        const cpu_lora_use *use = &plan->uses[u];
        uint32_t count = unit_count(use);
        for (uint32_t i = begin > first ? begin - first : 0; i < count && first + i < end; i++) {
            shrink_unit unit = unit_at(use, i);
            run_unit(job, &unit);
        }
        first += count;
    }
}

void LEVEL_NAME(lora_shrink)(kern_device *dev, const kern_linear *op) {
    shrink_job job = {.dev = dev, .op = op};
    pool_run(dev->pool, shrink, &job);
}

/* --- B h ------------------------------------------------------------------------------------ */

static void add_sums(const linear_job *job, const lora_rows *rows) {
    uint32_t rank = rows->use->lora->part[rows->part].rank;
    const cpu_lora_part *part = &rows->use->layout.part[rows->part];
    for (uint32_t g = 0; g < cpu_lora_groups(rank); g++) {
        lora_group_rows group;
        group.ranks = cpu_lora_group(rank, g);
        const uint16_t *b = lora_tile_unit(rows, &part->b[g]);
        for (uint32_t r = 0; r < group.ranks; r++)
            for (uint32_t v = 0; v < TILE_ROWS; v += LANES)
                v_store(&group.b[r][v], v_load_bf16(b + r * TILE_ROWS + v));
        for (uint32_t t = rows->begin; t < rows->end; t++) {
            const float *h = states_of(job->lora, rows->use, t) + part->first + g * LORA_GROUP;
            lora_add_group(&group, h, rows->y + (size_t)(t - rows->begin) * rows->stride);
        }
    }
}

void LEVEL_NAME(lora_update)(const linear_job *job, const strip *s, uint32_t base, uint32_t tokens,
                             float *sums, uint32_t stride) {
    lora_update_strip(add_sums, job, s, base, tokens, sums, stride);
}
