/* many_amx.c - the way of linear_amx.c for more than FEW_TOKENS tokens: some blocks of two tiles are unpacked,
 * then meet all tokens of a chunk, two B tiles at a time: four products for four loads.
 *
 * A's blocks stay in L1 and B's come from L2, marked as read once so that they leave A there. What the
 * matrix unit does not need meanwhile is used: the vector units combine the gates and ups of the tokens
 * before, and the weights that come next are fetched. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/amx/amx.h"
#include "kernels/cpu/amx/linear_amx.h"
#include "kernels/cpu/amx/lora_amx.h"
#include "kernels/cpu/amx/pairs_amx.h"
#include "kernels/cpu/amx/source_amx.h"

/* Tiles from `first` on that share a plane. */
static uint32_t same_inputs(const linear_job *job, const strip *s, uint32_t first) {
    uint32_t end = first + 1;
    while (end < s->count && plane_of(job, s, end) == plane_of(job, s, first))
        end++;
    return end - first;
}

/* Some blocks of one or two tiles, and the tokens of one or two B tiles. */
typedef struct pair_task {
    const uint16_t *a[PAIR], *b[2];
    size_t a_step[PAIR]; /* from one block to the next */
    uint32_t blocks;
    bool begin;            /* sums begin at 0 */
    float (*sums)[C_TILE]; /* [B tile * PAIR + tile] */
    /* What the vector units do meanwhile: sums of gate and up that are whole already, and lines that are
     * wanted next. */
    const kern_linear *op;
    float (*gated)[C_TILE]; /* [B tile * PAIR + tile]; or NULL */
    uint32_t gated_rows;
    struct line_walk *next;
    /* Whose updates are added to sums that are whole; or NULL. */
    const linear_job *updated;
    const strip *s;
    uint32_t first, t; /* the tiles in the strip; the B tile */
} pair_task;

/* Memory that is fetched into L2 line by line: runs of lines, a step apart, of codes and scales of each
 * tile. */
typedef struct line_walk {
    const char *at[2 * PAIR];
    size_t step[2 * PAIR];
    uint32_t run[2 * PAIR], lines[2 * PAIR];
    uint32_t which, line, per_step;
} line_walk;

ALWAYS_INLINE void fetch_lines(line_walk *walk) {
    for (uint32_t i = 0; i < walk->per_step; i++) {
        while (walk->which < 2 * PAIR && walk->lines[walk->which] == 0)
            walk->which++;
        uint32_t which = walk->which;
        if (which == 2 * PAIR) return;
        _mm_prefetch(walk->at[which] + walk->line * CACHE_LINE_BYTES, _MM_HINT_T1);
        walk->lines[which]--;
        if (++walk->line < walk->run[which]) continue;
        walk->line = 0;
        walk->at[which] += walk->step[which];
    }
}

/* Rows of gate and up to what the next linear takes, in gate's place. */
ALWAYS_INLINE void activate_rows(const pair_task *task, uint32_t begin, uint32_t end) {
    for (uint32_t r = begin; r < end && r < task->gated_rows; r++) {
        float *gate = task->gated[r / TILE_ROWS * PAIR] + r % TILE_ROWS * TILE_TOKENS;
        v_store(gate, v_mul(activate(task->op, v_load(gate)), v_load(gate + C_TILE)));
    }
}

#define BEGIN_SUM(c, at)                                                                           \
    do {                                                                                           \
        if (task->begin)                                                                           \
            AMX_ZERO(c);                                                                           \
        else                                                                                       \
            AMX_LOAD(c, task->sums[at], ROW_BYTES);                                                \
    } while (0)

/* count (tiles), wide (B tiles) are constants. */
ALWAYS_INLINE void run_pair(uint32_t count, uint32_t wide, const pair_task *task) {
    BEGIN_SUM(0, 0);
    if (count == 2) BEGIN_SUM(1, 1);
    if (wide == 2) BEGIN_SUM(2, 2);
    if (wide == 2 && count == 2) BEGIN_SUM(3, 3);
    const uint32_t rows = task->gated ? (task->gated_rows - 1) / task->blocks + 1 : 0;
    const uint16_t *a0 = task->a[0], *a1 = task->a[1];
    for (uint32_t at = 0, row = 0; at < task->blocks * TILE; at += TILE, row += rows) {
        AMX_LOAD_ONCE(4, task->b[0] + at, ROW_BYTES);
        AMX_LOAD(6, a0, ROW_BYTES);
        AMX_MULTIPLY(0, 6, 4);
        if (count == 2) {
            AMX_LOAD(7, a1, ROW_BYTES);
            AMX_MULTIPLY(1, 7, 4);
        }
        if (wide == 2) {
            AMX_LOAD_ONCE(5, task->b[1] + at, ROW_BYTES);
            AMX_MULTIPLY(2, 6, 5);
        }
        if (wide == 2 && count == 2) AMX_MULTIPLY(3, 7, 5);
        if (rows) activate_rows(task, row, row + rows);
        fetch_lines(task->next);
        a0 += task->a_step[0];
        a1 += task->a_step[1];
    }
    if (task->updated)
        amx_lora_expand_pair(task->updated, task->s, task->first, count, task->t, wide);
    AMX_STORE(0, task->sums[0], ROW_BYTES);
    if (count == 2) AMX_STORE(1, task->sums[1], ROW_BYTES);
    if (wide == 2) AMX_STORE(2, task->sums[2], ROW_BYTES);
    if (wide == 2 && count == 2) AMX_STORE(3, task->sums[3], ROW_BYTES);
}

static void multiply_pair(uint32_t count, uint32_t wide, const pair_task *task) {
    if (count == 2 && wide == 2)
        run_pair(2, 2, task);
    else if (count == 2)
        run_pair(2, 1, task);
    else if (wide == 2)
        run_pair(1, 2, task);
    else
        run_pair(1, 1, task);
}

/* What the strips of a chunk share. */
typedef struct chunk_task {
    const linear_job *job;
    amx_scratch *scratch;
    uint32_t base, tokens, tiles; /* of the chunk; B tiles */
} chunk_task;

/* Blocks of a tile as A tiles: where they lie, `step` elements apart, unpacked first unless they are. */
static const uint16_t *unpack_panel(const chunk_task *task, const strip *s, uint32_t i,
                                    uint32_t block, uint32_t count, size_t *step) {
    source from = amx_source(task->job->op->matrix[s->matrix[i]], s->tile[i]);
    amx_scratch *scratch = task->scratch;
    *step = from.unpack ? TILE : from.code_step / sizeof(uint16_t);
    if (from.read_scales) from.read_scales(from.scales, block, count, &scratch->scales[0][0][i]);
    if (!from.unpack) return amx_a_tile(&from, block, NULL, NULL);
    for (uint32_t b = 0; b < count; b++)
        amx_a_tile(&from, block + b, &scratch->scales[0][b][i], scratch->panel[i][b]);
    return scratch->panel[i][0];
}

/* Which blocks of a strip are multiplied, and where the next ones lie. */
typedef struct panel_range {
    uint32_t block, count;
    bool last;                /* sums are whole afterwards */
    uint32_t next, next_tile; /* block; tiles further on */
} panel_range;

/* The codes and scales of the blocks that are unpacked next, spread over this panel's steps. A strip of packed
 * tiles holds more than are multiplied at once; its other tiles come with the same lines. */
static line_walk walk_to(const chunk_task *task, const strip *s, const panel_range *range) {
    line_walk walk = {0};
    uint32_t lines = 0, steps = (task->tiles + 1) / 2 * range->count;
    for (uint32_t i = 0; i < s->count; i++) {
        const kern_matrix *matrix = task->job->op->matrix[s->matrix[i]];
        uint32_t tile = s->tile[i] + range->next_tile;
        if (tile >= matrix->tiles) continue;
        source from = amx_source(matrix, tile);
        const cpu_format *format = &cpu_formats[matrix->dtype];
        walk.at[2 * i] = (const char *)from.codes + range->next * from.code_step;
        walk.step[2 * i] = from.code_step;
        walk.run[2 * i] = (uint32_t)(from.code_bytes / CACHE_LINE_BYTES);
        walk.lines[2 * i] = range->count * walk.run[2 * i];
        walk.at[2 * i + 1] = (const char *)from.scales + cpu_scales_at(format, range->next);
        walk.step[2 * i + 1] = CACHE_LINE_BYTES;
        walk.run[2 * i + 1] = 1;
        walk.lines[2 * i + 1] =
            (uint32_t)(range->count * from.scale_bytes / CACHE_LINE_BYTES) + (from.scale_bytes > 0);
        lines += walk.lines[2 * i] + walk.lines[2 * i + 1];
    }
    walk.per_step = lines ? (lines - 1) / steps + 1 : 0;
    return walk;
}

/* Some blocks of a strip's tiles, all tokens of the chunk. */
static void multiply_panel(const chunk_task *task, const strip *s, const panel_range *range,
                           float (*sums)[PAIR][C_TILE]) {
    const uint16_t *a[PAIR];
    size_t a_step[PAIR];
    line_walk walk = walk_to(task, s, range);
    bool gated = range->last && amx_gates_early(task->job, s);
    bool early = gated && same_inputs(task->job, s, 0) == s->count;
    for (uint32_t i = 0; i < s->count; i++)
        a[i] = unpack_panel(task, s, i, range->block, range->count, &a_step[i]);
    for (uint32_t first = 0, tiles; first < s->count; first += tiles) {
        tiles = same_inputs(task->job, s, first);
        uint32_t plane = plane_of(task->job, s, first);
        for (uint32_t t = 0; t < task->tiles; t += 2) {
            uint32_t wide = task->tiles - t < 2 ? 1 : 2;
            pair_task pair = {.a = {a[first], a[first + tiles - 1]},
                              .b = {amx_pairs_at(task->job, plane, t, range->block),
                                    amx_pairs_at(task->job, plane, t + wide - 1, range->block)},
                              .a_step = {a_step[first], a_step[first + tiles - 1]},
                              .blocks = range->count,
                              .begin = range->block == 0,
                              .sums = sums[t] + first,
                              .op = task->job->op,
                              .gated = early && t ? sums[t - 2] : NULL,
                              .gated_rows = 2 * TILE_ROWS,
                              .next = &walk,
                              .updated = range->last && task->job->lora ? task->job : NULL,
                              .s = s,
                              .first = first,
                              .t = t};
            multiply_pair(tiles, wide, &pair);
        }
    }
    uint32_t left = early ? (task->tiles - 1) / 2 * 2 : 0; /* B tiles that are activated already */
    pair_task rest = {
        .op = task->job->op, .gated = sums[left], .gated_rows = (task->tiles - left) * TILE_ROWS};
    if (gated) activate_rows(&rest, 0, rest.gated_rows);
}

static void finish_strip(const chunk_task *task, const strip *s, float (*sums)[PAIR][C_TILE]) {
    for (uint32_t t = 0; t < task->tiles; t++) {
        uint32_t first = t * TILE_TOKENS, left = task->tokens - first;
        amx_finish(task->job, s, task->base + first, left < TILE_TOKENS ? left : TILE_TOKENS,
                   sums[t], task->scratch->rows[0]);
    }
}

/* Blocks of a panel: as few panels as there must be, equal ones. */
static uint32_t panel_blocks(uint32_t blocks) {
    uint32_t panels = (blocks - 1) / PANEL + 1;
    return (blocks - 1) / panels + 1;
}

/* All of K for some strips: the inputs of RANGE panels stay in L2 for all of them. */
static void multiply_group(const chunk_task *task, const strip *strips, uint32_t count) {
    uint32_t blocks = task->job->blocks, panel = panel_blocks(blocks), range = RANGE * panel;
    for (uint32_t first = 0; first < blocks; first += range) {
        uint32_t end = first + range < blocks ? first + range : blocks;
        for (uint32_t i = 0; i < count; i++)
            for (uint32_t block = first; block < end; block += panel) {
                bool turn = block + panel >= end;
                panel_range at = {.block = block,
                                  .count = end - block < panel ? end - block : panel,
                                  .last = block + panel >= blocks,
                                  .next = turn ? first : block + panel,
                                  .next_tile = turn ? PAIR / task->job->unit_tiles : 0};
                multiply_panel(task, &strips[i], &at, task->scratch->sums[i]);
            }
    }
    for (uint32_t i = 0; i < count; i++)
        finish_strip(task, &strips[i], task->scratch->sums[i]);
}

static void multiply_chunk(const chunk_task *task, uint32_t begin, uint32_t end) {
    const linear_job *job = task->job;
    uint32_t group = job->blocks <= RANGE * PANEL ? 1 : GROUP;
    for (uint32_t unit = begin; unit < end;) {
        strip strips[GROUP];
        uint32_t count = 0;
        for (; count < group && unit < end; unit += amx_strip_units(job, &strips[count++]))
            strips[count] = amx_strip_at(job, unit, end, PAIR / job->unit_tiles);
        multiply_group(task, strips, count);
    }
}

void amx_many_tokens(void *arg, uint32_t worker, uint32_t workers) {
    const linear_job *job = arg;
    chunk_task task = {.job = job, .scratch = amx_scratch_of(job->dev, worker)};
    uint32_t total = job->op->token_count, begin, end;
    uint32_t room = (uint32_t)(cpu_input_bytes(job->dev) / (TILE_COLS * sizeof(uint16_t)));
    pool_share(job->units, 1, worker, workers, &begin, &end);
    for (; task.base < total; task.base += task.tokens) {
        uint32_t left = total - task.base;
        task.tokens = left < room ? left : room;
        task.tiles = (task.tokens + TILE_TOKENS - 1) / TILE_TOKENS;
        amx_pair_tokens(job, task.base, task.tokens, worker, workers);
        if (job->lora) amx_lora_shrink_share(job, worker, workers);
        pool_barrier(job->dev->pool, worker);
        amx_configure_tokens(TILE_TOKENS);
        multiply_chunk(&task, begin, end);
        amx_release();
        pool_barrier(job->dev->pool, worker); /* before the inputs are overwritten */
    }
}
