/* few_amx.c - the way of linear_amx.c for up to FEW_TOKENS tokens: each block of up to four weight tiles is unpacked
 * while the block before is multiplied.
 *
 * A worker's tiles are cut into legs: some blocks of a strip. The first block of a leg is unpacked, and its
 * scales are fetched, while the leg before is multiplied. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/amx/amx.h"
#include "kernels/cpu/amx/line_run.h"
#include "kernels/cpu/amx/linear_amx.h"
#include "kernels/cpu/amx/lora_amx.h"
#include "kernels/cpu/amx/pairs_amx.h"
#include "kernels/cpu/amx/source_amx.h"

enum {
    FETCH_AHEAD = 4096,
    FETCH_LINES = 16, /* a block of codes of 4 bits */
    ANY = -1,         /* for a format that is no constant */
};

typedef struct leg {
    source from[STRIP_TILES];
    strip s;                /* all tiles of the strip; of gated ones, twice as many as a leg has */
    uint32_t first, count;  /* the leg's tiles in the strip; 0: behind the last leg */
    uint32_t block, blocks; /* of the leg */
    bool begins, ends, finishes; /* first and last of the tiles' legs; last of the strip's */
} leg;

/* Where the next leg begins. */
typedef struct leg_walk {
    const linear_job *job;
    uint32_t unit, end, most; /* of this worker; tiles of a leg */
    strip s;
    uint32_t first, block; /* in the strip */
} leg_walk;

static leg next_leg(leg_walk *walk) {
    const linear_job *job = walk->job;
    if (walk->first == 0 && walk->block == 0) {
        if (walk->unit >= walk->end) return (leg){0};
        walk->s = amx_strip_at(job, walk->unit, walk->end, walk->most);
    }
    uint32_t left = job->blocks - walk->block;
    leg l = {.s = walk->s,
             .first = walk->first,
             .count = amx_strip_units(job, &walk->s),
             .block = walk->block,
             .blocks = left < SCALES_AHEAD ? left : SCALES_AHEAD,
             .begins = walk->block == 0};
    for (uint32_t i = 0; i < l.count; i++)
        l.from[i] = amx_source(job->op->matrix[l.s.matrix[l.first + i]], l.s.tile[l.first + i]);
    walk->block += l.blocks;
    l.ends = walk->block == job->blocks;
    if (!l.ends) return l;
    walk->block = 0;
    walk->first += l.count;
    l.finishes = walk->first == l.s.count;
    if (!l.finishes) return l;
    walk->first = 0;
    walk->unit += l.count;
    return l;
}

/* What all legs of a worker share. */
typedef struct few_task {
    const linear_job *job;
    amx_scratch *scratch;
    uint32_t wide, width; /* B tiles; tokens of the first */
    uint32_t tile;        /* where the B tiles lie among the paired ones */
    /* A tiles of the block that is multiplied next: in this half of the ring, or where they lie. */
    uint32_t turn;
    const uint16_t *a[STRIP_TILES];
    line_run outs;
    amx_lora_leg *lora; /* the updates of the leg; or NULL */
    lora_fetch *lora_next;
} few_task;

/* Tile i of a leg. C 0..3; one B tile: B 4, A 5..7; two: B 4 and 5, A 6 and 7. */
ALWAYS_INLINE void multiply_few(uint32_t i, uint32_t wide, const uint16_t *a) {
#define ONE(c, reg)                                                                                \
    do {                                                                                           \
        AMX_LOAD(reg, a, ROW_BYTES);                                                               \
        AMX_MULTIPLY(c, reg, 4);                                                                   \
    } while (0)
#define TWO(c, d, reg)                                                                             \
    do {                                                                                           \
        ONE(c, reg);                                                                               \
        AMX_MULTIPLY(d, reg, 5);                                                                   \
    } while (0)
    if (wide == 2 && i == 0) TWO(0, 1, 6);
    if (wide == 2 && i == 1) TWO(2, 3, 7);
    if (wide == 1 && i == 0) ONE(0, 5);
    if (wide == 1 && i == 1) ONE(1, 6);
    if (wide == 1 && i == 2) ONE(2, 7);
    if (wide == 1 && i == 3) ONE(3, 5);
#undef ONE
#undef TWO
}

/* Codes that are unpacked a few blocks later: a strip's lie together, and its blocks in the order in which they are
 * read. Scales of the next leg. */
ALWAYS_INLINE void fetch(const leg *l, const leg *next, uint32_t k) {
    const uint8_t *codes = l->from[0].codes + (l->block + k) * l->from[0].code_step + FETCH_AHEAD;
    UNROLL_16 for (uint32_t line = 0; line < FETCH_LINES; line++)
        _mm_prefetch((const char *)codes + line * CACHE_LINE_BYTES, _MM_HINT_T0);
    UNROLL for (uint32_t i = 0; i < STRIP_TILES; i++) {
        const source *from = &next->from[i];
        _mm_prefetch((const char *)from->scales + (next->block + k) * from->scale_bytes,
                     _MM_HINT_T0);
    }
}

/* Where a strip's sums will go, a line a turn. */
static void begin_outs(few_task *task, const leg *l) {
    const linear_job *job = task->job;
    const uint32_t matrix = l->s.matrix[0];
    size_t size = kern_gives_act(job->op->epilogue) ? sizeof(uint16_t) : sizeof(float);
    size_t col = job->first_col[matrix] + (size_t)l->s.tile[0] * TILE_ROWS;
    size_t bytes = amx_strip_units(job, &l->s) * TILE_ROWS * size;
    task->outs = (line_run){.at = (const char *)job->op->out + col * size,
                            .row = job->out_cols * size,
                            .bytes = bytes,
                            .rows = job->op->token_count};
}

/* format: a constant, or ANY. */
ALWAYS_INLINE const uint16_t *a_tile(int format, const source *from, uint32_t block,
                                     amx_scales *scales, uint16_t *room) {
    if (format == ANY && from->read_scales) from->read_scales(from->scales, block, 1, scales);
    if (format == ANY || format == DT_BF16) return amx_a_tile(from, block, scales, room);
    const size_t step = cpu_formats[format].code_bytes * STRIP_TILES;
    amx_unpack((esp_dtype)format, from->codes + block * step, scales, room);
    return room;
}

/* The first block of a leg that the one before did not unpack. */
static void unpack_first(few_task *task, const leg *l) {
    for (uint32_t i = 0; i < STRIP_TILES && i < l->count; i++)
        task->a[i] = a_tile(ANY, &l->from[i], l->block, &task->scratch->scales[0][0][i],
                            task->scratch->ring[task->turn][i]);
}

/* The B tiles of a leg's block. */
ALWAYS_INLINE void load_tokens(uint32_t wide, const few_task *task, const uint16_t *b[2]) {
    const size_t b_step = (size_t)TILE_COLS * task->width;
    AMX_LOAD(4, b[0], task->width * sizeof(uint32_t));
    if (wide == 2) AMX_LOAD(5, b[1], ROW_BYTES);
    for (uint32_t w = 0; w < wide; w++)
        b[w] += b_step;
}

/* What else will be wanted, some turns of it: where sums go, adapters. A call where there is anything, and not a test
 * in each turn: those cost one token a tenth. */
__attribute__((noinline)) static void fetch_beside(few_task *task, uint32_t turns) {
    for (uint32_t i = 0; i < turns; i++) {
        fetch_line(&task->outs);
        if (!task->lora) continue;
        lora_fetch_step(&task->lora->fetch);
        lora_fetch_step(task->lora_next);
    }
}

/* format, count, wide are constants. Block by block, of which the first is unpacked: multiplies it, and unpacks the
 * one behind meanwhile, which may be the first of the next leg. */
ALWAYS_INLINE void run_leg(int format, uint32_t count, uint32_t wide, few_task *task, const leg *l,
                           const leg *next) {
    amx_scratch *scratch = task->scratch;
    const uint16_t *b[2], *a[STRIP_TILES];
    const uint32_t plane = plane_of(task->job, &l->s, l->first);
    const bool goes_on =
        format != ANY && next->count == count && (int)next->from[0].dtype == format;
    const uint32_t steps = goes_on ? l->blocks : l->blocks - 1;
    uint32_t turn = task->turn;
    for (uint32_t w = 0; w < wide; w++)
        b[w] = (amx_in_place(task->job) ? (const uint16_t *)task->job->op->in
                                        : amx_pairs_at(task->job, plane, task->tile + w, 0)) +
               (size_t)l->block * TILE_COLS * task->width;
    for (uint32_t i = 0; i < count; i++)
        a[i] = task->a[i];
    for (uint32_t k = 0; k < steps; k++) {
        const leg *of = k + 1 < l->blocks ? l : next;
        const uint32_t block = k + 1 < l->blocks ? l->block + k + 1 : next->block;
        turn = !turn;
        UNROLL for (uint32_t i = 0; format != ANY && i < count; i++)
            amx_scales_of((esp_dtype)format, of->from[i].scales, block, &scratch->scales[0][0][i]);
        load_tokens(wide, task, b);
        fetch(l, next, k);
        if (task->outs.rows || task->lora) fetch_beside(task, count);
        UNROLL for (uint32_t i = 0; i < count; i++) {
            const uint16_t *now = a[i];
            if (wide == 1) multiply_few(i, wide, now); /* either order is slower for the other */
            a[i] = a_tile(format, &of->from[i], block, &scratch->scales[0][0][i],
                          scratch->ring[turn][i]);
            if (wide == 2) multiply_few(i, wide, now);
        }
    }
    for (uint32_t i = 0; i < count; i++)
        task->a[i] = a[i];
    task->turn = turn;
    if (goes_on) return;
    load_tokens(wide, task, b);
    UNROLL for (uint32_t i = 0; i < count; i++) multiply_few(i, wide, a[i]);
    task->turn = !turn;
    unpack_first(task, next);
}

/* The shapes that nearly all legs have, for each format. */
#define LEG_ARGS few_task *task, const leg *l, const leg *next
typedef void leg_fn(LEG_ARGS);
#define LEGS_OF(dtype)                                                                             \
    static void four_##dtype(LEG_ARGS) { run_leg(dtype, 4, 1, task, l, next); }                    \
    static void half_##dtype(LEG_ARGS) { run_leg(dtype, 2, 1, task, l, next); }                    \
    static void two_##dtype(LEG_ARGS) { run_leg(dtype, 2, 2, task, l, next); }
FOR_EACH_FORMAT(LEGS_OF)
#define FOUR_ROW(dtype) [dtype] = four_##dtype,
#define HALF_ROW(dtype) [dtype] = half_##dtype,
#define TWO_ROW(dtype) [dtype] = two_##dtype,
static leg_fn *const four_of[DT_COUNT] = {FOR_EACH_FORMAT(FOUR_ROW)};
static leg_fn *const half_of[DT_COUNT] = {FOR_EACH_FORMAT(HALF_ROW)};
static leg_fn *const two_of[DT_COUNT] = {FOR_EACH_FORMAT(TWO_ROW)};

static void multiply_leg(LEG_ARGS) {
    if (task->wide == 2 && l->count == 2)
        two_of[l->from[0].dtype](task, l, next);
    else if (task->wide == 2)
        run_leg(ANY, 1, 2, task, l, next);
    else if (l->count == 4)
        four_of[l->from[0].dtype](task, l, next);
    else if (l->count == 3)
        run_leg(ANY, 3, 1, task, l, next);
    else if (l->count == 2)
        half_of[l->from[0].dtype](task, l, next);
    else
        run_leg(ANY, 1, 1, task, l, next);
}

static void begin_sums(void) {
    AMX_ZERO(0);
    AMX_ZERO(1);
    AMX_ZERO(2);
    AMX_ZERO(3);
}

/* C tiles to rows[token][tile of the strip]. */
static void store_sums(const few_task *task, const leg *l) {
    float *out = task->scratch->rows[0] + l->first * TILE_ROWS;
    if (task->width == 1) {
        AMX_STORE(0, out, sizeof(float));
        if (l->count > 1) AMX_STORE(1, out + TILE_ROWS, sizeof(float));
        if (l->count > 2) AMX_STORE(2, out + 2 * TILE_ROWS, sizeof(float));
        if (l->count > 3) AMX_STORE(3, out + 3 * TILE_ROWS, sizeof(float));
        return;
    }
    float(*c)[C_TILE] = task->scratch->sums[0][0];
    AMX_STORE(0, c[0], ROW_BYTES);
    AMX_STORE(1, c[1], ROW_BYTES);
    AMX_STORE(2, c[2], ROW_BYTES);
    AMX_STORE(3, c[3], ROW_BYTES);
    for (uint32_t i = 0; i < l->count; i++)
        for (uint32_t w = 0; w < task->wide; w++)
            amx_turn(c[i * task->wide + w], out + i * TILE_ROWS + w * TILE_TOKENS * ROWS_STRIDE,
                     ROWS_STRIDE);
}

void amx_few_tokens(void *arg, uint32_t worker, uint32_t workers) {
    const linear_job *job = arg;
    uint32_t tokens = job->op->token_count;
    few_task task = {.job = job,
                     .scratch = amx_scratch_of(job->dev, worker),
                     .wide = tokens > TILE_TOKENS ? 2 : 1,
                     .width = amx_tile_tokens(tokens)};
    amx_lora_leg lora;
    lora_fetch lora_next;
    if (job->lora) {
        task.lora = &lora;
        task.lora_next = &lora_next;
    }
    leg_walk walk = {.job = job, .most = STRIP_TILES / task.wide};
    pool_share(job->units, 1, worker, workers, &walk.unit, &walk.end);
    const uint32_t begin = walk.unit;
    leg next = next_leg(&walk);
    unpack_first(&task, &next);
    bool shared = !amx_in_place(job), alone = shared && amx_pairs_alone(job, workers);
    if (alone)
        task.tile = amx_pair_alone(job, worker);
    else if (shared)
        amx_pair_tokens(job, 0, tokens, worker, workers);
    if (job->lora) amx_lora_shrink(job, worker, workers);
    if (job->lora || (shared && !alone)) pool_barrier(job->dev->pool, worker);
    if (job->lora) {
        uint32_t steps = (walk.end - begin) * job->unit_tiles * job->blocks;
        lora_fetch_clear(&lora_next);
        amx_lora_fetch_next(job, worker, workers, &lora_next);
        if (steps) lora_fetch_within(&lora_next, steps);
    }
    amx_configure_tokens(task.width);
    while (next.count) {
        leg l = next;
        next = next_leg(&walk);
        if (l.begins) begin_sums();
        if (l.begins) begin_outs(&task, &l);
        if (l.begins && task.lora)
            amx_lora_begin_leg(job, &l.s, l.first, l.count, job->blocks * l.count, task.lora);
        multiply_leg(&task, &l, &next);
        if (l.ends && task.lora && task.wide == 1) amx_lora_end_leg(task.lora, 1);
        if (l.ends && task.lora && task.wide == 2) amx_lora_end_leg(task.lora, 2);
        if (l.ends) store_sums(&task, &l);
        if (l.finishes) finish(job, &l.s, 0, tokens, task.scratch->rows[0], ROWS_STRIDE);
    }
    amx_release();
}
