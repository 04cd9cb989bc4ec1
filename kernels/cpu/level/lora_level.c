/* lora_level.c - low-rank updates with the vectors of a level: h = scale * A x, and B h added to a strip's sums.
 *
 * In     x [T,K] bf16; the updates of dev->lora, by columns (lora_plan.h)
 * Out    h f32, in the plan's states; sums of strips, updated
 * Work   shrink: units of a panel and SHRINK_TOKENS tokens, split statically; update: in its strip's worker
 * Shape  h[r] has a chain for each remainder of its columns by CHAINS, p = fma(a[r][k], x[k], p) with k in order;
 *        the chains are added up two by two, times scale. B h as in lora_rows.h
 * Cost   A is read once for SHRINK_TOKENS tokens, B for UPDATE_TOKENS. Bar: bench/bench_lora_kernels.c */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/level/lora_rows.h"

/* How many tokens share what was read; with CHAINS the sums of a panel fill most registers. */
enum {
    CHAINS = 4,
    SHRINK_TOKENS = VECTORS == 1 ? 6 : 2, /* of a panel, .. */
    SHRINK_FEW = 2,                       /* .. where there are no more: those of decoding */
    UPDATE_TOKENS = VECTORS == 1 ? 8 : 4, /* of a tile */
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

/* A panel's block and the inputs of some tokens as floats; tokens is a constant. */
ALWAYS_INLINE void add_block(uint32_t tokens, const uint16_t *a, uint32_t ranks,
                             const float x[SHRINK_TOKENS][TILE_COLS], shrink_sums sums) {
    for (uint32_t k = 0; k < TILE_COLS; k += CHAINS)
        UNROLL for (uint32_t c = 0; c < CHAINS; c++) UNROLL for (uint32_t v = 0; v < VECTORS; v++) {
            vf w = v_load_bf16(a + (size_t)(k + c) * ranks + v * LANES);
            UNROLL for (uint32_t t = 0; t < tokens; t++) sums[t][c][v] =
                v_fma(w, v_set1(x[t][k + c]), sums[t][c][v]);
        }
}

/* Block b of a token's inputs; zeros behind its columns. */
static void read_inputs(const shrink_job *job, uint32_t cols, uint32_t token, uint32_t b,
                        float *out) {
    const uint16_t *in = (const uint16_t *)job->op->in + (size_t)token * cols;
    uint16_t lined_up[TILE_COLS];
    uint32_t count = least(cols - b * TILE_COLS, TILE_COLS);
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

/* h of the unit's token t: the chains together, times scale. */
ALWAYS_INLINE void store_states(const shrink_job *job, const shrink_unit *unit, uint32_t t,
                                const float *scales, vf sums[CHAINS][VECTORS]) {
    uint32_t ranks = cpu_lora_panel(&unit->use->layout, unit->panel);
    float h[LORA_PANEL];
    for (uint32_t v = 0; v < VECTORS; v++) {
        vf all = v_add(v_add(sums[0][v], sums[1][v]), v_add(sums[2][v], sums[3][v]));
        v_store(h + v * LANES, v_mul(all, v_load(scales + v * LANES)));
    }
    float *out = states_of(job->dev->lora, unit->use, unit->token + t);
    memcpy(out + unit->panel * LORA_PANEL, h, ranks * sizeof *h);
}

/* A unit of so many tokens at most, a constant. */
ALWAYS_INLINE void shrink_tokens(uint32_t tokens, const shrink_job *job, const shrink_unit *unit) {
    const kern_lora *lora = unit->use->lora;
    const lora_run *run = &unit->use->layout.a[unit->panel];
    uint32_t ranks = cpu_lora_panel(&unit->use->layout, unit->panel);
    float scales[LORA_PANEL] = {0}, x[SHRINK_TOKENS][TILE_COLS] = {{0}};
    shrink_sums sums;
    for (uint32_t r = 0; r < ranks; r++)
        scales[r] = scale_of(unit->use, unit->panel * LORA_PANEL + r);
    UNROLL for (uint32_t t = 0; t < tokens; t++) UNROLL for (uint32_t c = 0; c < CHAINS; c++)
        UNROLL for (uint32_t v = 0; v < VECTORS; v++) sums[t][c][v] = v_zero();
    for (uint32_t b = 0, together; b < run->units; b += together) {
        const uint16_t *a = lora_unit(run, lora->pieces, b, &together);
        for (uint32_t i = 0; i < together; i++, a += ranks * TILE_COLS) {
            for (uint32_t t = 0; t < unit->tokens; t++)
                read_inputs(job, lora->cols, unit->token + t, b + i, x[t]);
            add_block(tokens, a, ranks, x, sums);
        }
    }
    UNROLL for (uint32_t t = 0; t < tokens; t++) if (t < unit->tokens)
        store_states(job, unit, t, scales, sums[t]);
}

static void run_unit(const shrink_job *job, const shrink_unit *unit) {
    if (SHRINK_TOKENS > SHRINK_FEW && unit->tokens > SHRINK_FEW)
        shrink_tokens(SHRINK_TOKENS, job, unit);
    else
        shrink_tokens(SHRINK_FEW, job, unit);
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
                         .tokens = least(use->count - token, SHRINK_TOKENS)};
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

/* Tokens of a use in a tile: where their h and their sums lie. */
typedef struct update_rows {
    const float *h; /* [tokens][h_stride] */
    float *y;       /* [tokens][y_stride] */
    uint32_t h_stride, y_stride;
} update_rows;

/* Adds B h of a group of ranks, b [ranks][16], and goes on to the tokens behind; tokens is a constant. */
ALWAYS_INLINE void add_tokens(uint32_t tokens, const uint16_t *b, uint32_t ranks,
                              update_rows *rows) {
    vf p[UPDATE_TOKENS][VECTORS];
    UNROLL for (uint32_t t = 0; t < tokens; t++) UNROLL for (uint32_t v = 0; v < VECTORS; v++)
        p[t][v] = v_zero();
    for (uint32_t r = 0; r < ranks; r++)
        UNROLL for (uint32_t v = 0; v < VECTORS; v++) {
            vf w = v_load_bf16(b + r * TILE_ROWS + v * LANES);
            UNROLL for (uint32_t t = 0; t < tokens; t++) p[t][v] =
                v_fma(w, v_set1(rows->h[(size_t)t * rows->h_stride + r]), p[t][v]);
        }
    UNROLL for (uint32_t t = 0; t < tokens; t++) UNROLL for (uint32_t v = 0; v < VECTORS; v++) {
        float *y = rows->y + (size_t)t * rows->y_stride + v * LANES;
        v_store(y, v_add(v_load(y), p[t][v]));
    }
    rows->h += (size_t)tokens * rows->h_stride;
    rows->y += (size_t)tokens * rows->y_stride;
}

static void add_group(const uint16_t *b, uint32_t ranks, update_rows rows, uint32_t tokens) {
    for (; tokens >= UPDATE_TOKENS; tokens -= UPDATE_TOKENS)
        add_tokens(UPDATE_TOKENS, b, ranks, &rows);
    for (; tokens >= 2; tokens -= 2)
        add_tokens(2, b, ranks, &rows);
    if (tokens) add_tokens(1, b, ranks, &rows);
}

static void add_sums(const linear_job *job, const lora_rows *rows) {
    const cpu_lora_use *use = rows->use;
    uint32_t rank = use->lora->part[rows->part].rank;
    const cpu_lora_part *part = &use->layout.part[rows->part];
    for (uint32_t g = 0; g < cpu_lora_groups(rank); g++) {
        update_rows at = {.h =
                              states_of(job->lora, use, rows->begin) + part->first + g * LORA_GROUP,
                          .y = rows->y,
                          .h_stride = use->layout.ranks,
                          .y_stride = rows->stride};
        add_group(lora_tile_unit(rows, &part->b[g]), cpu_lora_group(rank, g), at,
                  rows->end - rows->begin);
    }
}

void LEVEL_NAME(lora_update)(const linear_job *job, const strip *s, uint32_t base, uint32_t tokens,
                             float *sums, uint32_t stride) {
    lora_update_strip(add_sums, job, s, base, tokens, sums, stride);
}
