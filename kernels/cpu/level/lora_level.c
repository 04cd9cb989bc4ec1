/* lora_level.c - low-rank updates with the vectors of a level: h = scale * A x, and B h added to a strip's sums.
 *
 * In     x [T,K] bf16; the updates of dev->lora, by columns (lora_plan.h)
 * Out    h f32, in the plan's states; sums of strips, updated
 * Work   shrink: units of a panel and SHRINK_TOKENS tokens, split statically; update: in its strip's worker
 * Shape  h[r] has a chain for each remainder of its columns by CHAINS, p = fma(a[r][k], x[k], p) with k in order;
 *        the chains are added up two by two, times scale. B h as in lora_rows.h
 * Cost   A is read once for SHRINK_TOKENS tokens, B for UPDATE_TOKENS; of a step that extends 16 answers both come from
 *        memory, where linears fetch them meanwhile (linear_walk.h). Bar: bench/bench_lora_kernels.c */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/level/lora_rows.h"
#include "kernels/cpu/lora_fetch.h"

/* How many tokens share what was read; with CHAINS or tiles their sums fill most registers. */
enum {
    CHAINS = 4,
    SHRINK_TOKENS = VECTORS == 1 ? 6 : 2,    /* of a panel, .. */
    SHRINK_FEW = 2,                          /* .. where there are no more: those of decoding */
    UPDATE_TOKENS = VECTORS == 1 ? 8 : 4,    /* of .. */
    UPDATE_TILES = VECTORS == 1 ? 2 : 1,     /* .. so many tiles; */
    UPDATE_FEW_TILES = VECTORS == 1 ? 4 : 2, /* of fewer tokens */
};

static float *states_of(const cpu_lora_plan *plan, const cpu_lora_use *use, uint32_t token) {
    return (float *)(void *)(plan->states + use->states) +
           (size_t)(token - use->first) * use->layout.ranks;
}

/* --- h -------------------------------------------------------------------------------------- */

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
static void read_inputs(const linear_job *job, uint32_t cols, uint32_t token, uint32_t b,
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
ALWAYS_INLINE void store_states(const linear_job *job, const shrink_unit *unit, uint32_t t,
                                const float *scales, vf sums[CHAINS][VECTORS]) {
    uint32_t ranks = cpu_lora_panel(&unit->use->layout, unit->panel);
    float h[LORA_PANEL];
    for (uint32_t v = 0; v < VECTORS; v++) {
        vf all = v_add(v_add(sums[0][v], sums[1][v]), v_add(sums[2][v], sums[3][v]));
        v_store(h + v * LANES, v_mul(all, v_load(scales + v * LANES)));
    }
    float *out = states_of(job->lora, unit->use, unit->token + t);
    memcpy(out + unit->panel * LORA_PANEL, h, ranks * sizeof *h);
}

/* A unit of so many tokens at most, a constant. */
ALWAYS_INLINE void shrink_tokens(uint32_t tokens, const linear_job *job, const shrink_unit *unit) {
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

static void run_unit(const linear_job *job, const shrink_unit *unit) {
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

/* A worker's units of all uses, one after the other. */
typedef struct unit_walk {
    const cpu_lora_plan *plan;
    uint32_t use, number, left; /* number: of the next unit in its use */
} unit_walk;

static unit_walk walk_of(const cpu_lora_plan *plan, uint32_t worker, uint32_t workers) {
    unit_walk walk = {.plan = plan};
    uint32_t all = 0, end;
    for (uint32_t u = 0; u < plan->count; u++)
        all += unit_count(&plan->uses[u]);
    pool_share(all, 1, worker, workers, &walk.number, &end);
    walk.left = end - walk.number;
    return walk;
}

static bool next_unit(unit_walk *walk, shrink_unit *out) {
    if (walk->left == 0) return false;
    for (uint32_t count; walk->number >= (count = unit_count(&walk->plan->uses[walk->use]));) {
        walk->number -= count;
        walk->use++;
    }
    *out = unit_at(&walk->plan->uses[walk->use], walk->number++);
    walk->left--;
    return true;
}

void LEVEL_NAME(lora_shrink)(const linear_job *job, uint32_t worker, uint32_t workers) {
    unit_walk walk = walk_of(job->lora, worker, workers);
    for (shrink_unit unit; next_unit(&walk, &unit);)
        run_unit(job, &unit);
}

void LEVEL_NAME(lora_fetch_next)(const linear_job *job, uint32_t worker, uint32_t workers,
                                 lora_fetch *fetch) {
    unit_walk walk = walk_of(job->dev->lora_next, worker, workers);
    const lora_run *last = NULL; /* units of other tokens share it */
    for (shrink_unit unit; fetch->per_step < LORA_AHEAD_LINES && next_unit(&walk, &unit);) {
        const lora_run *run = &unit.use->layout.a[unit.panel];
        if (run != last) lora_fetch_units(fetch, run, unit.use->lora->pieces, 0, run->units);
        last = run;
    }
}

/* --- B h ------------------------------------------------------------------------------------ */

/* Tokens of a use and tiles of a matrix: where their h, their sums and each tile's group of ranks lie. */
typedef struct update_rows {
    const uint16_t *b[STRIP_TILES]; /* [ranks][16] */
    const float *h;                 /* [tokens][h_stride] */
    float *y;                       /* [tokens][y_stride], 16 of each tile */
    uint32_t ranks, h_stride, y_stride;
} update_rows;

/* Adds B h of the tiles from `first` on; tokens and tiles are constants. */
ALWAYS_INLINE void add_tokens(uint32_t tokens, uint32_t tiles, uint32_t first,
                              const update_rows *rows) {
    vf p[UPDATE_TOKENS][STRIP_TILES][VECTORS];
    UNROLL for (uint32_t t = 0; t < tokens; t++) UNROLL for (uint32_t i = 0; i < tiles; i++)
        UNROLL for (uint32_t v = 0; v < VECTORS; v++) p[t][i][v] = v_zero();
    for (uint32_t r = 0; r < rows->ranks; r++)
        UNROLL for (uint32_t i = 0; i < tiles; i++) UNROLL for (uint32_t v = 0; v < VECTORS; v++) {
            vf w = v_load_bf16(rows->b[first + i] + r * TILE_ROWS + v * LANES);
            UNROLL for (uint32_t t = 0; t < tokens; t++) p[t][i][v] =
                v_fma(w, v_set1(rows->h[(size_t)t * rows->h_stride + r]), p[t][i][v]);
        }
    UNROLL for (uint32_t t = 0; t < tokens; t++) UNROLL for (uint32_t i = 0; i < tiles; i++)
        UNROLL for (uint32_t v = 0; v < VECTORS; v++) {
        float *y = rows->y + (size_t)t * rows->y_stride + (first + i) * TILE_ROWS + v * LANES;
        v_store(y, v_add(v_load(y), p[t][i][v]));
    }
}

/* Those of all tiles, `together` at a time; tokens and together are constants. */
ALWAYS_INLINE void add_tiles(uint32_t tokens, uint32_t together, uint32_t tiles,
                             update_rows *rows) {
    uint32_t first = 0;
    for (; first + together <= tiles; first += together)
        add_tokens(tokens, together, first, rows);
    if (together > 2 && first + 2 <= tiles) {
        add_tokens(tokens, 2, first, rows);
        first += 2;
    }
    if (together > 1 && first < tiles) add_tokens(tokens, 1, first, rows);
    rows->h += (size_t)tokens * rows->h_stride;
    rows->y += (size_t)tokens * rows->y_stride;
}

/* A token's sum of a tile waits for itself at each rank: a few tokens have more tiles beside each other. */
static void add_group(update_rows rows, uint32_t tiles, uint32_t tokens) {
    for (; tokens >= UPDATE_TOKENS; tokens -= UPDATE_TOKENS)
        add_tiles(UPDATE_TOKENS, UPDATE_TILES, tiles, &rows);
    for (; tokens >= 2; tokens -= 2)
        add_tiles(2, UPDATE_FEW_TILES, tiles, &rows);
    if (tokens) add_tiles(1, UPDATE_FEW_TILES, tiles, &rows);
}

static void add_sums(const linear_job *job, const lora_rows *rows) {
    const cpu_lora_use *use = rows->use;
    uint32_t rank = use->lora->part[rows->part].rank;
    const cpu_lora_part *part = &use->layout.part[rows->part];
    ESP_ASSERT(rows->tiles <= STRIP_TILES);
    update_rows at = {.y = rows->y, .h_stride = use->layout.ranks, .y_stride = rows->stride};
    for (uint32_t g = 0; g < cpu_lora_groups(rank); g++) {
        at.ranks = cpu_lora_group(rank, g);
        at.h = states_of(job->lora, use, rows->begin) + part->first + g * LORA_GROUP;
        for (uint32_t i = 0; i < rows->tiles; i++)
            at.b[i] = lora_tile_unit(rows, i, &part->b[g]);
        add_group(at, rows->tiles, rows->end - rows->begin);
    }
}

void LEVEL_NAME(lora_update)(const linear_job *job, const strip *s, uint32_t base, uint32_t tokens,
                             float *sums, uint32_t stride) {
    lora_update_strip(add_sums, job, s, base, tokens, sums, stride);
}
