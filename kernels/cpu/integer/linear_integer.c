/* linear_integer.c - y[t,:] = W x[t,:] (+ bias) with activations as integers, then the epilogue.
 *
 * In     x [T,K] bf16; up to three packed matrices [N,K]; bias [N] f32 or NULL
 * Out    STORE, RESIDUAL, SOFTCAP: [T, sum of N] f32; gated: [T,N] bf16; GELU: [T, sum of N] bf16
 * Temp   x in blocks of codes, CHUNK_TOKENS at a time, shared by the workers; a block of a strip as
 *        bytes or words, sums of a strip per worker
 * Work   split over tiles of 16 rows, statically
 * Error  integer.h: the same bits at every level, T and thread count
 * Cost   few tokens: each weight is read once from memory, and bound by it. Many: per 32 columns of 16
 *        rows and a token 8 dot products of bytes or 16 of words, 3 or 4 operations for scale and offset.
 *        Bar: bench/bench_linear.c
 *
 * Compiled for each level, with CPU_WORDS for codes of 16 bits, with CPU_VNNI where the processor has dot products. */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#ifdef CPU_WORDS
#include "kernels/cpu/integer/words.h"
#else
#include "kernels/cpu/integer/bytes.h"
#endif
#include "kernels/cpu/integer/integer.h"
#include "kernels/cpu/level/linear_walk.h"

enum {
    FEW_TOKENS = 4,
    MANY_TOKENS = 6,                   /* of one pass over a block of codes */
    MANY_TILES = VECTORS == 1 ? 4 : 1, /* with as many sums as the registers hold */
    AHEAD_BLOCKS = 4,                  /* a block of a strip takes longer than memory does */
};

/* Whether each number of tokens has code of its own, its loops written out. With the sanitizers' checks
 * that would take minutes to compile. */
#ifdef ESPALIER_SANITIZED
enum { EACH_COUNT = false };
#else
enum { EACH_COUNT = true };
#endif

/* Tiles of one format and the blocks of codes they meet. */
typedef struct code_run {
    const uint8_t *codes[STRIP_TILES], *scales[STRIP_TILES];
    /* Of a tile's block, about, of its scales; from a tile's end to where that of the strip behind begins. */
    size_t scale_step, codes_skip, scales_skip;
    uint32_t blocks;
    const act_block *inputs; /* [blocks][rows] */
    uint32_t rows;
} code_run;

/* What is added first: the part of the sum that codes less their first value leave out. */
ALWAYS_INLINE dot_sum dot_begin(int first) { return (dot_sum){.sum = vi_set1(first)}; }

/* The lines of a tile that come AHEAD_BLOCKS after block b, in the strip behind this one, too. */
ALWAYS_INLINE void fetch_tile(esp_dtype dtype, const code_run *run, uint32_t n, uint32_t b) {
    const uint32_t code_bytes = cpu_formats[dtype].code_bytes, ahead = b + AHEAD_BLOCKS;
    const bool behind = ahead >= run->blocks;
    const uint8_t *codes = run->codes[n] + (size_t)ahead * code_bytes;
    const uint8_t *scales = run->scales[n] + ahead * run->scale_step;
    if (behind) codes += run->codes_skip, scales += run->scales_skip;
    for (uint32_t at = 0; at < code_bytes; at += CACHE_LINE_BYTES)
        __builtin_prefetch(codes + at);
    __builtin_prefetch(scales);
}

/* --- few tokens --------------------------------------------------------------------------- */

/* Products of the columns of half `half` of block b, as p[n][v][t]. */
ALWAYS_INLINE void few_dots(esp_dtype dtype, uint32_t tiles, uint32_t tokens, const code_run *run,
                            uint32_t first, uint32_t b, uint32_t half,
                            dot_sum (*p)[VECTORS][FEW_TOKENS]) {
    const uint32_t code_bytes = cpu_formats[dtype].code_bytes;
    const uint32_t cols = scale_cols(cpu_formats[dtype].scaling), count = cols / DOT_COLS;
    const act_block *x = run->inputs + (size_t)b * run->rows;
    const uint32_t sum_at = act_sum_at(cpu_formats[dtype].scaling, half);
    UNROLL for (uint32_t n = 0; n < tiles; n++) {
        if (half == 0) fetch_tile(dtype, run, first + n, b);
        UNROLL for (uint32_t y = 0; y < VECTORS; y++) UNROLL for (uint32_t t = 0; t < tokens; t++)
            p[n][y][t] = dot_begin(dot_first(dtype) * x[t].sum_int[sum_at]);
    }
    UNROLL_16 for (uint32_t i = 0; i < count; i++) {
        const uint32_t v = half * count + i;
        UNROLL for (uint32_t n = 0; n < tiles; n++) UNROLL for (uint32_t y = 0; y < VECTORS; y++) {
            const uint8_t *block = run->codes[first + n] + (size_t)b * code_bytes;
            vi w = dot_codes(dtype, block, v, y);
            UNROLL for (uint32_t t = 0; t < tokens; t++)
                dot_add(dot_kind(dtype), v, w, dot_inputs(x[t].codes, v), &p[n][y][t]);
        }
    }
}

/* Tiles first .. first + tiles of the run; dtype, tiles, tokens are constants. */
ALWAYS_INLINE void few_tiles(esp_dtype dtype, uint32_t tiles, uint32_t tokens, const code_run *run,
                             uint32_t first, float (*sums)[STRIP_ROWS]) {
    const cpu_scaling scaling = cpu_formats[dtype].scaling;
    vf acc[STRIP_TILES][VECTORS][FEW_TOKENS], part[STRIP_TILES][VECTORS][FEW_TOKENS];
    UNROLL for (uint32_t n = 0; n < tiles; n++) UNROLL for (uint32_t v = 0; v < VECTORS; v++)
        UNROLL for (uint32_t t = 0; t < tokens; t++) acc[n][v][t] = part[n][v][t] = v_zero();
    for (uint32_t b = 0; b < run->blocks; b++) {
        const act_block *x = run->inputs + (size_t)b * run->rows;
        UNROLL for (uint32_t half = 0; half < TILE_COLS / scale_cols(scaling); half++) {
            dot_sum p[STRIP_TILES][VECTORS][FEW_TOKENS];
            few_dots(dtype, tiles, tokens, run, first, b, half, p);
            UNROLL for (uint32_t n = 0; n < tiles; n++)
                UNROLL for (uint32_t v = 0; v < VECTORS; v++) {
                const uint8_t *scales = run->scales[first + n];
                vf scale = tile_scale(dtype, scales, b, half, v), offset = v_zero();
                if (has_offset(scaling)) offset = tile_offset(dtype, scales, b, half, v);
                UNROLL for (uint32_t t = 0; t < tokens; t++) part[n][v][t] =
                    act_add(scaling, half, scale, offset, x[t].sum[act_sum_at(scaling, half)],
                            vi_floats(p[n][v][t].sum), part[n][v][t]);
            }
        }
        UNROLL for (uint32_t n = 0; n < tiles; n++) UNROLL for (uint32_t v = 0; v < VECTORS; v++)
            UNROLL for (uint32_t t = 0; t < tokens; t++) acc[n][v][t] =
                v_fma(v_set1(x[t].scale), part[n][v][t], acc[n][v][t]);
    }
    UNROLL for (uint32_t n = 0; n < tiles; n++) UNROLL for (uint32_t v = 0; v < VECTORS; v++)
        UNROLL for (uint32_t t = 0; t < tokens; t++)
            v_store(&sums[t][(first + n) * TILE_ROWS + v * LANES], acc[n][v][t]);
}

#define FEW_ARGS                                                                                   \
    const code_run *run, uint32_t first, uint32_t count, uint32_t tokens, float(*sums)[STRIP_ROWS]
typedef void few_fn(FEW_ARGS);

/* As many tiles at a time as the registers hold sums for. */
ALWAYS_INLINE void few_of_tokens(esp_dtype dtype, FEW_ARGS) {
    const uint32_t together = (tokens <= 2 ? STRIP_TILES : STRIP_TILES / 2) / VECTORS;
    uint32_t end = first + count;
    for (; first + together <= end; first += together)
        few_tiles(dtype, together, tokens, run, first, sums);
    for (; together > 1 && first < end; first++)
        few_tiles(dtype, 1, tokens, run, first, sums);
}

ALWAYS_INLINE void few_format(esp_dtype dtype, FEW_ARGS) {
    if (!EACH_COUNT)
        few_of_tokens(dtype, run, first, count, tokens, sums);
    else if (tokens == 1)
        few_of_tokens(dtype, run, first, count, 1, sums);
    else if (tokens == 2)
        few_of_tokens(dtype, run, first, count, 2, sums);
    else if (tokens == 3)
        few_of_tokens(dtype, run, first, count, 3, sums);
    else
        few_of_tokens(dtype, run, first, count, FEW_TOKENS, sums);
}

#define FEW_OF(dtype)                                                                              \
    UNWATCHED static void few_##dtype(FEW_ARGS) {                                                  \
        few_format(dtype, run, first, count, tokens, sums);                                        \
    }
FOR_EACH_INTEGER_FORMAT(FEW_OF)
#define FEW_ROW(dtype) [dtype] = few_##dtype,
static few_fn *const few_of[DT_COUNT] = {FOR_EACH_INTEGER_FORMAT(FEW_ROW)};

/* --- many tokens: a block of the strip becomes bytes or words in L1 ---------------------------------- */

/* Scales and offsets of block b into the scratch, as those of tile n; dtype is a constant. */
ALWAYS_INLINE void expand_scales(esp_dtype dtype, const uint8_t *scales, uint32_t n, uint32_t b,
                                 cpu_scratch *scratch) {
    const cpu_scaling scaling = cpu_formats[dtype].scaling;
    for (uint32_t half = 0; half < TILE_COLS / scale_cols(scaling); half++)
        for (uint32_t v = 0; v < VECTORS; v++) {
            v_store(&scratch->scales[n][half][v * LANES], tile_scale(dtype, scales, b, half, v));
            if (has_offset(scaling))
                v_store(&scratch->offsets[n][half][v * LANES],
                        tile_offset(dtype, scales, b, half, v));
        }
}

/* Block b of tile n of the run. */
ALWAYS_INLINE void expand_tile(esp_dtype dtype, const code_run *run, uint32_t n, uint32_t b,
                               cpu_scratch *scratch) {
    const cpu_format *format = &cpu_formats[dtype];
    const uint8_t *block = run->codes[n] + (size_t)b * format->code_bytes;
    fetch_tile(dtype, run, n, b);
    UNROLL_16 for (uint32_t v = 0; v < DOT_VECTORS; v++)
        UNROLL for (uint32_t y = 0; y < VECTORS; y++) {
        vi codes = dot_codes(dtype, block, v, y);
        memcpy(scratch->codes[n] + v * LINE_BYTES + y * LANES * 4, &codes, sizeof codes);
    }
    expand_scales(dtype, run->scales[n], n, b, scratch);
}

#define EXPAND_ARGS                                                                                \
    const code_run *run, uint32_t first, uint32_t end, uint32_t b, cpu_scratch *scratch
typedef void expand_fn(EXPAND_ARGS);
#define EXPAND_OF(dtype)                                                                           \
    UNWATCHED static void expand_##dtype(EXPAND_ARGS) {                                            \
        for (uint32_t n = first; n < end; n++)                                                     \
            expand_tile(dtype, run, n, b, scratch);                                                \
    }
FOR_EACH_INTEGER_FORMAT(EXPAND_OF)
#define EXPAND_ROW(dtype) [dtype] = expand_##dtype,
static expand_fn *const expand_of[DT_COUNT] = {FOR_EACH_INTEGER_FORMAT(EXPAND_ROW)};

/* What of a format the multiplication looks at; all but code_first are constants. */
typedef struct dot_class {
    cpu_scaling scaling;
    uint32_t kind;
} dot_class;

/* Tiles first .. first + tiles of the strip and some tokens: their place in it. */
typedef struct dot_task {
    const act_block *x; /* of the first token, block b */
    uint32_t first;
    uint32_t token;
    int code_first;
    linear_ahead *ahead; /* or NULL */
    cpu_scratch *scratch;
} dot_task;

/* part[t][n][v] with the products of half `half` of the block. */
ALWAYS_INLINE void many_dots(dot_class class, uint32_t tiles, uint32_t tokens, uint32_t half,
                             const dot_task *task, vf (*part)[MANY_TILES][VECTORS]) {
    const cpu_scratch *scratch = task->scratch;
    const act_block *x = task->x;
    const uint32_t count = scale_cols(class.scaling) / DOT_COLS;
    const uint32_t sum_at = act_sum_at(class.scaling, half);
    const uint8_t *codes = scratch->codes[task->first] + half * count * LINE_BYTES;
    dot_sum p[MANY_TOKENS][MANY_TILES][VECTORS];
    UNROLL for (uint32_t t = 0; t < tokens; t++) UNROLL for (uint32_t n = 0; n < tiles; n++)
        UNROLL for (uint32_t y = 0; y < VECTORS; y++) p[t][n][y] =
            dot_begin(task->code_first * x[t].sum_int[sum_at]);
    UNROLL_16 for (uint32_t i = 0; i < count; i++) {
        vi w[MANY_TILES][VECTORS];
        UNROLL for (uint32_t n = 0; n < tiles; n++) UNROLL for (uint32_t y = 0; y < VECTORS; y++)
            w[n][y] =
                vi_line(codes + n * sizeof scratch->codes[0] + i * LINE_BYTES + y * LANES * 4);
        UNROLL for (uint32_t t = 0; t < tokens; t++) {
            vi in = dot_inputs(x[t].codes, half * count + i);
            UNROLL for (uint32_t n = 0; n < tiles; n++)
                UNROLL for (uint32_t y = 0; y < VECTORS; y++)
                    dot_add(class.kind, half * count + i, w[n][y], in, &p[t][n][y]);
        }
    }
    const float *scales = scratch->scales[task->first][half];
    const float *offsets = scratch->offsets[task->first][half];
    UNROLL for (uint32_t n = 0; n < tiles; n++) UNROLL for (uint32_t y = 0; y < VECTORS; y++) {
        const uint32_t at = n * 2 * TILE_ROWS + y * LANES;
        vf scale = v_load(scales + at), offset = v_zero();
        if (has_offset(class.scaling)) offset = v_load(offsets + at);
        UNROLL for (uint32_t t = 0; t < tokens; t++) part[t][n][y] =
            act_add(class.scaling, half, scale, offset, x[t].sum[sum_at], vi_floats(p[t][n][y].sum),
                    part[t][n][y]);
    }
}

/* Adds one block to the sums; class, tiles and tokens are constants. */
ALWAYS_INLINE void multiply(dot_class class, uint32_t tiles, uint32_t tokens,
                            const dot_task *task) {
    float *sums = &task->scratch->sums[task->token][task->first * TILE_ROWS];
    vf part[MANY_TOKENS][MANY_TILES][VECTORS];
    UNROLL for (uint32_t t = 0; t < tokens; t++) UNROLL for (uint32_t n = 0; n < tiles; n++)
        UNROLL for (uint32_t y = 0; y < VECTORS; y++) part[t][n][y] = v_zero();
    UNROLL for (uint32_t half = 0; half < TILE_COLS / scale_cols(class.scaling); half++)
        many_dots(class, tiles, tokens, half, task, part);
    UNROLL for (uint32_t t = 0; t < tokens; t++) UNROLL for (uint32_t n = 0; n < tiles; n++)
        UNROLL for (uint32_t y = 0; y < VECTORS; y++) {
        float *sum = sums + t * STRIP_ROWS + n * TILE_ROWS + y * LANES;
        v_store(sum, v_fma(v_set1(task->x[t].scale), part[t][n][y], v_load(sum)));
    }
}

ALWAYS_INLINE void multiply_first(dot_class class, uint32_t tiles, uint32_t first, uint32_t *tokens,
                                  dot_task *task) {
    if (task->ahead) fetch_ahead(task->ahead);
    multiply(class, tiles, first, task);
    task->token += first;
    task->x += first;
    *tokens -= first;
}

/* The last 8 tokens are 4 and 4: a pass of 2 waits for its own sums, and takes as long as one of 4. */
ALWAYS_INLINE void multiply_all(dot_class class, uint32_t tiles, uint32_t tokens, dot_task task) {
    while (tokens >= MANY_TOKENS && tokens != MANY_TOKENS + 2)
        multiply_first(class, tiles, MANY_TOKENS, &tokens, &task);
    if (tokens > MANY_TOKENS) multiply_first(class, tiles, FEW_TOKENS, &tokens, &task);
    if (!EACH_COUNT) {
        if (tokens > 0) multiply(class, tiles, tokens, &task);
        return;
    }
    switch (tokens) {
    case 5:
        multiply(class, tiles, 5, &task);
        break;
    case 4:
        multiply(class, tiles, 4, &task);
        break;
    case 3:
        multiply(class, tiles, 3, &task);
        break;
    case 2:
        multiply(class, tiles, 2, &task);
        break;
    case 1:
        multiply(class, tiles, 1, &task);
        break;
    default:
        break;
    }
}

ALWAYS_INLINE void multiply_tiles(dot_class class, uint32_t end, uint32_t tokens, dot_task task) {
    for (; task.first + MANY_TILES <= end; task.first += MANY_TILES)
        multiply_all(class, MANY_TILES, tokens, task);
    for (; task.first < end; task.first++)
        multiply_all(class, 1, tokens, task);
}

/* One function a class that formats have. */
#if defined CPU_VNNI || defined CPU_WORDS
#define FOR_EACH_CLASS(of)                                                                         \
    of(SCALE_32, 1) of(SCALE_32_OFFSET, 1) of(SCALE_32_ZERO, 1) of(SCALE_16, 1)                    \
        of(SCALE_16_OFFSET, 1)
#else
#define FOR_EACH_CLASS(of)                                                                         \
    of(SCALE_32, 1) of(SCALE_32, 4) of(SCALE_32, 8) of(SCALE_32_OFFSET, 4) of(SCALE_32_OFFSET, 8)  \
        of(SCALE_32_ZERO, 1) of(SCALE_32_ZERO, 8) of(SCALE_16, 2) of(SCALE_16, 4)                  \
            of(SCALE_16_OFFSET, 4)
#endif
typedef void multiply_fn(uint32_t end, uint32_t tokens, dot_task task);
#define MULTIPLY_OF(scaling, kind)                                                                 \
    UNWATCHED static void multiply_##scaling##_##kind(uint32_t end, uint32_t tokens,               \
                                                      dot_task task) {                             \
        multiply_tiles((dot_class){scaling, kind}, end, tokens, task);                             \
    }
FOR_EACH_CLASS(MULTIPLY_OF)
#define MULTIPLY_ROW(scaling, kind) [scaling][kind] = multiply_##scaling##_##kind,
static multiply_fn *const multiply_of[][DOT_VECTORS + 1] = {FOR_EACH_CLASS(MULTIPLY_ROW)};

static void many_format(esp_dtype dtype, const code_run *run, uint32_t first, uint32_t count,
                        uint32_t tokens, linear_ahead *ahead, cpu_scratch *scratch) {
    multiply_fn *multiply_block = multiply_of[cpu_formats[dtype].scaling][dot_kind(dtype)];
    dot_task task = {
        .first = first, .code_first = dot_first(dtype), .ahead = ahead, .scratch = scratch};
    ESP_ASSERT(multiply_block);
    for (uint32_t b = 0; b < run->blocks; b++) {
        task.x = run->inputs + (size_t)b * run->rows;
        if (ahead) fetch_ahead(ahead);
        expand_of[dtype](run, first, first + count, b, scratch);
        multiply_block(first + count, tokens, task);
    }
}

/* --- strips -------------------------------------------------------------------------------- */

/* The strip behind this one has as many tiles of each matrix. */
static void look_behind(const linear_job *job, const strip *s, uint32_t first, code_run *run) {
    const kern_matrix *matrix = job->op->matrix[s->matrix[first]];
    const uint32_t tiles = STRIP_TILES / job->unit_tiles;
    run->scale_step = matrix->scale_bytes / matrix->blocks;
    run->codes_skip = (tiles - 1) * matrix->code_bytes;
    run->scales_skip = (tiles - 1) * matrix->scale_bytes;
}

static void multiply_strip(const linear_job *job, const strip *s, uint32_t base, uint32_t tokens,
                           linear_ahead *ahead, cpu_scratch *scratch) {
    const cpu_level *level = job->dev->level;
    tile_run tiles = run_of(job, s, tokens);
    code_run run = {.blocks = job->blocks, .rows = tokens};
    memcpy(run.codes, tiles.codes, sizeof run.codes);
    memcpy(run.scales, tiles.scales, sizeof run.scales);
    if (tokens > FEW_TOKENS) memset(scratch->sums, 0, tokens * sizeof scratch->sums[0]);
    for (uint32_t first = 0, count; first < s->count; first += count) {
        esp_dtype dtype = format_of(job, s, first);
        size_t at = act_row_at(job, plane_of(job, s, first), tokens, tokens, 0, 0);
        run.inputs = (const act_block *)job->dev->quantised + at;
        tile_watch(run.inputs, (size_t)run.blocks * run.rows, sizeof *run.inputs);
        count = alike(job, s, first);
        look_behind(job, s, first, &run);
        if (!cpu_is_integer(job->op->matrix[s->matrix[first]]) && level->tiles) {
            level->tiles(job, s, first, count, tokens, scratch);
        } else if (!cpu_is_integer(job->op->matrix[s->matrix[first]])) {
            for (uint32_t i = first; i < first + count; i++)
                foreign_tile(job, s, i, base, tokens, scratch->sums[0], STRIP_ROWS);
        } else if (tokens > FEW_TOKENS) {
            many_format(dtype, &run, first, count, tokens, ahead, scratch);
        } else {
            few_of[dtype](&run, first, count, tokens, scratch->sums);
        }
    }
}

/* One before a block is expanded, one with each pass over its tokens but the last (multiply_first). */
static uint32_t fetch_steps(uint32_t tokens) {
    return 1 + (tokens - 1) / MANY_TOKENS * (STRIP_TILES / MANY_TILES);
}

static void take_inputs(const linear_job *job, uint32_t base, uint32_t rows, uint32_t begin,
                        uint32_t end) {
    act_quantise_tokens(job, base, rows, rows, begin, end);
    bool others = false;
    for (uint32_t m = 0; m < job->op->matrix_count; m++)
        others = others || !cpu_is_integer(job->op->matrix[m]);
    if (others && job->dev->level->tiles) expand_tokens(job, base, rows, begin, end);
}

#ifdef CPU_WORDS
void LEVEL_NAME(linear_int16)(kern_device *dev, const kern_linear *op) {
#else
void LEVEL_NAME(linear_int8)(kern_device *dev, const kern_linear *op) {
#endif
    static const linear_way way = {FEW_TOKENS, take_inputs, fetch_steps, multiply_strip};
    linear_run(dev, op, &way);
}
