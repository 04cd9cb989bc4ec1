/* linear_amx.c - y[t,:] = W x[t,:] (+ bias) on AMX tiles, then the epilogue.
 *
 * In     x [T,K] bf16; up to three packed matrices [N,K]; bias [N] f32 or NULL
 * Out    STORE, RESIDUAL, SOFTCAP: [T, sum of N] f32; gated: [T,N] bf16
 * Temp   x in blocks of 32 columns and its sums, shared by the workers; unpacked codes, scales and
 *        sums of a strip per worker
 * Work   split over tiles of 16 rows, statically
 * Error  codes are whole numbers that bf16 holds exactly, so weights are not rounded (F16 and F32
 *        are, to bf16). With a scale, an output is, over runs of 32 or 16 inputs in order,
 *          p to acc as cpu.h says
 *        with p the run's products as tdpbf16ps adds them up; without, one such sum over all of K.
 *        The order is the same at every T and thread count (Law 1): between panels the sums rest in
 *        memory as they are.
 *        Up to AMX_FUSED_TOKENS tokens take another way to the same bits: fused_amx.c.
 * Cost   per 32 weights of 4 bits a shift, a permutation and a store, once a chunk of tokens; per
 *        block of 16 x 16 outputs one multiplication (16 cycles), and with a scale its 16 rows are
 *        stored, loaded and added: about half of what AMX could do. Bar: bench/bench_linear.c
 * Source Intel 64 and IA-32 Architectures Optimization Reference Manual, chapter 20 */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "kernels/cpu/amx/amx.h"
#include "kernels/cpu/amx/fused_amx.h"
#include "kernels/cpu/amx/level_amx.h"
#include "kernels/cpu/amx/pairs.h"
#include "kernels/cpu/level/linear_job.h"
#include "kernels/cpu/level/tile.h"

enum {
    TILE_TOKENS = 16,               /* rows of an A tile */
    ROW_BYTES = TILE_COLS * 2,      /* of an A or B tile */
    B_TILE = TILE_ROWS * TILE_COLS, /* elements */
    AMX_STRIP = 2,                  /* tiles side by side */
    GROUP_TOKENS = 2 * TILE_TOKENS,
    SUM_ROWS = AMX_STRIP * TILE_ROWS, /* sums of a token */
    SUM_BYTES = SUM_ROWS * sizeof(float),
    CHUNK_AMX = CHUNK_TOKENS * STRIP_TILES / AMX_STRIP,
};
_Static_assert(CHUNK_AMX % GROUP_TOKENS == 0, "the sums of a chunk are whole tiles");

/* --- activations to A tiles -------------------------------------------------------------- */

/* Columns in the order of pairs.h, and their sums. */
static void copy_block(const uint16_t *in, uint16_t *out, float *sum, float *halves) {
    _mm512_storeu_si512(out, pair_columns(_mm512_loadu_si512(in)));
    v16 low = {{v_load_bf16(in)}}, high = {{v_load_bf16(in + TILE_ROWS)}};
    if (halves) {
        halves[0] = v16_sum(low);
        halves[1] = v16_sum(high);
    }
    low.v[0] = v_add(low.v[0], high.v[0]);
    *sum = v16_sum(low);
}

/* Where block b of row t lies: the blocks of 16 rows one after another, as a tile takes them. */
static size_t row_at(const linear_job *job, uint32_t plane, uint32_t rows, uint32_t b, uint32_t t) {
    size_t block = (size_t)(t / TILE_TOKENS) * job->blocks + b;
    return plane_at(job, plane, rows) + block * TILE_TOKENS + t % TILE_TOKENS;
}

/* Token base + t of the op into row t of a plane. */
static void copy_token(const linear_job *job, uint32_t plane, uint32_t base, uint32_t rows,
                       uint32_t t) {
    kern_device *dev = job->dev;
    uint16_t *inputs = (uint16_t *)(void *)dev->inputs, lined_up[TILE_COLS];
    const uint16_t *in = (const uint16_t *)job->op->in + (size_t)(base + t) * job->cols;
    for (uint32_t b = 0; b < job->blocks; b++) {
        uint32_t left = job->cols - b * TILE_COLS, count = left < TILE_COLS ? left : TILE_COLS;
        size_t at = row_at(job, plane, rows, b, t);
        copy_block(block_of(in, job->order[plane], b, count, lined_up), inputs + at * TILE_COLS,
                   dev->input_sums + at, job->half_sums ? dev->half_sums + at * 2 : NULL);
    }
}

/* Tokens base + begin .. base + end into rows begin .. end of inputs[plane][rows / 16][block][16][32];
 * rows is a multiple of a tile's, and what lies behind the last token is never looked at. */
static void copy_tokens(const linear_job *job, uint32_t base, uint32_t rows, uint32_t begin,
                        uint32_t end) {
    for (uint32_t plane = 0; plane < job->planes; plane++)
        for (uint32_t t = begin; t < end; t++)
            copy_token(job, plane, base, rows, t);
}

/* --- weights to B tiles ------------------------------------------------------------------ */

/* Blocks b .. end of one tile; dtype is a constant. */
#define UNPACK_ARGS                                                                                \
    const uint8_t *codes, const uint8_t *scales, uint32_t b, uint32_t end, amx_panel *out
typedef void unpack_fn(UNPACK_ARGS);

ALWAYS_INLINE void unpack(esp_dtype dtype, UNPACK_ARGS) {
    const cpu_format *format = &cpu_formats[dtype];
    for (uint32_t i = 0; b < end; b++, i++) {
        const uint8_t *block = codes + (size_t)b * format->code_bytes;
        for (uint32_t line = 0; line < format->code_bytes; line += CACHE_LINE_BYTES)
            _mm_prefetch((const char *)block + line + 2048, _MM_HINT_T0);
        UNROLL for (uint32_t k = 0; k < TILE_COLS; k += GROUP_COLS)
            UNROLL for (uint32_t j = 0; j < GROUP_COLS / 2; j++) _mm512_store_si512(
                out->codes[i] + (k / 2 + j) * TILE_COLS, tile_pairs(dtype, block, k, j));
        if (format->scaling == SCALE_NONE) continue;
        for (uint32_t half = 0; half < TILE_COLS / scale_cols(format->scaling); half++) {
            v_store(out->scales[i][half], tile_scale(dtype, scales, b, half, 0));
            if (has_offset(format->scaling))
                v_store(out->offsets[i][half], tile_offset(dtype, scales, b, half, 0));
        }
    }
}

#define UNPACK_OF(dtype)                                                                           \
    static void unpack_##dtype(UNPACK_ARGS) { unpack(dtype, codes, scales, b, end, out); }
FOR_EACH_FORMAT(UNPACK_OF)
#define UNPACK_ROW(dtype) [dtype] = unpack_##dtype,
static unpack_fn *const unpack_of[DT_COUNT] = {FOR_EACH_FORMAT(UNPACK_ROW)};

/* --- tiles -------------------------------------------------------------------------------- */

/* C 0..3, A 4 and 5, B 6 and 7, whole ones; or for formats with a scale each 16 columns: C 0 and 1,
 * A 4 and 5, B 6 and 7 for half a block. */
static void configure(uint32_t tokens, bool halves) {
    amx_config config = {.palette = 1};
    uint32_t rows = tokens < TILE_TOKENS ? tokens : TILE_TOKENS;
    for (uint32_t tile = 0; tile < 8; tile++) {
        bool c = tile < 4, b = tile >= 6;
        config.row_bytes[tile] = !c && !b && halves ? ROW_BYTES / 2 : ROW_BYTES;
        config.rows[tile] = (uint8_t)(b ? TILE_COLS / 2 / (halves ? 2 : 1) : rows);
    }
    amx_configure(&config);
}

/* Some blocks of one tile of a strip, the tokens of one A tile. */
typedef struct tile_task {
    const uint16_t *a;       /* [blocks][16][32] */
    const float *input_sums; /* [blocks][16]; SCALE_16_OFFSET: two a token */
    size_t next;             /* elements from a to the next tokens' a */
    const amx_panel *panel;
    uint32_t blocks, tokens;
    float *sums; /* [tokens][SUM_ROWS] */
} tile_task;

/* acc[t] += scale * p[t] (+ offset * sum of x[t]) for the tokens of a tile. */
ALWAYS_INLINE void add_products(cpu_scaling scaling, uint32_t tokens, const tile_task *task,
                                uint32_t b, uint32_t half, const float *p, vf *acc) {
    const uint32_t per_token = scaling == SCALE_16_OFFSET ? 2 : 1;
    const float *x = task->input_sums + b * TILE_TOKENS * per_token + half;
    vf scale = v_load(task->panel->scales[b][half]), offset = v_zero();
    if (has_offset(scaling)) offset = v_load(task->panel->offsets[b][half]);
#pragma GCC unroll 16
    for (uint32_t t = 0; t < tokens; t++) {
        float sum = has_offset(scaling) ? x[t * per_token] : 0;
        acc[t] = tile_add(scaling, scale, offset, v_load(p + t * TILE_ROWS), sum, acc[t]);
    }
}

/* The products of one run into a tile, and from there, when they are ready, into p. Numbers of tiles
 * are constants: four C take turns, and two A and B. */
#define MULTIPLY_RUN(c, a, b, inputs, weights)                                                     \
    do {                                                                                           \
        AMX_ZERO(c);                                                                               \
        AMX_LOAD(a, inputs, ROW_BYTES);                                                            \
        AMX_LOAD(b, weights, ROW_BYTES);                                                           \
        AMX_MULTIPLY(c, a, b);                                                                     \
    } while (0)
#define STORE_RUN(c, p) AMX_STORE(c, p, TILE_ROWS * sizeof(float))

/* A run's products are stored two runs later, when they are there, and added another run later. */
enum { TURNS = 4, STORED = 2, ADDED = 3 };

ALWAYS_INLINE void multiply_run(const tile_task *task, uint32_t halves, uint32_t run,
                                uint32_t turn) {
    uint32_t b = run / halves, half = run % halves;
    const uint16_t *a = task->a + (size_t)b * B_TILE + half * TILE_COLS / 2;
    const uint16_t *w = task->panel->codes[b] + half * B_TILE / 2;
    if (turn == 0) MULTIPLY_RUN(0, 4, 6, a, w);
    if (turn == 1) MULTIPLY_RUN(1, 5, 7, a, w);
    if (turn == 2) MULTIPLY_RUN(2, 4, 6, a, w);
    if (turn == 3) MULTIPLY_RUN(3, 5, 7, a, w);
}

ALWAYS_INLINE void store_run(uint32_t turn, float (*p)[TILE_TOKENS * TILE_ROWS]) {
    if (turn == 0) STORE_RUN(0, p[0]);
    if (turn == 1) STORE_RUN(1, p[1]);
    if (turn == 2) STORE_RUN(2, p[2]);
    if (turn == 3) STORE_RUN(3, p[3]);
}

/* scaling, tokens are constants. */
ALWAYS_INLINE void scaled_tile(cpu_scaling scaling, uint32_t tokens, const tile_task *task) {
    const uint32_t halves = TILE_COLS / scale_cols(scaling), runs = task->blocks * halves;
    _Alignas(CACHE_LINE_BYTES) float p[TURNS][TILE_TOKENS * TILE_ROWS];
    vf acc[TILE_TOKENS];
#pragma GCC unroll 16
    for (uint32_t t = 0; t < tokens; t++)
        acc[t] = v_load(task->sums + t * SUM_ROWS);
    for (uint32_t first = 0; first < runs + ADDED; first += TURNS)
        UNROLL for (uint32_t i = 0; i < TURNS; i++) {
            uint32_t run = first + i, stored = run - STORED, added = run - ADDED;
            if (run < runs) multiply_run(task, halves, run, i);
            if (stored < runs) store_run((i + TURNS - STORED) % TURNS, p);
            if (added < runs)
                add_products(scaling, tokens, task, added / halves, added % halves,
                             p[(i + TURNS - ADDED) % TURNS], acc);
        }
#pragma GCC unroll 16
    for (uint32_t t = 0; t < tokens; t++)
        v_store(task->sums + t * SUM_ROWS, acc[t]);
}

/* Rows behind the last token hold anything, and nobody looks at them. */
ALWAYS_INLINE void scaled_tokens(cpu_scaling scaling, const tile_task *task) {
    if (task->tokens == 1)
        scaled_tile(scaling, 1, task);
    else if (task->tokens <= 4)
        scaled_tile(scaling, 4, task);
    else if (task->tokens <= 8)
        scaled_tile(scaling, 8, task);
    else
        scaled_tile(scaling, TILE_TOKENS, task);
}

static void multiply_scaled(cpu_scaling scaling, const tile_task *task) {
    switch (scaling) {
    case SCALE_32:
        scaled_tokens(SCALE_32, task);
        break;
    case SCALE_32_OFFSET:
        scaled_tokens(SCALE_32_OFFSET, task);
        break;
    case SCALE_32_ZERO:
        scaled_tokens(SCALE_32_ZERO, task);
        break;
    case SCALE_16:
        scaled_tokens(SCALE_16, task);
        break;
    case SCALE_16_OFFSET:
        scaled_tokens(SCALE_16_OFFSET, task);
        break;
    case SCALE_NONE:
        ESP_ASSERT(!"weights without a scale");
    }
}

/* Without scales the sums stay in the tile. */
static void multiply_whole(const tile_task *task) {
    AMX_LOAD(0, task->sums, SUM_BYTES);
    for (uint32_t b = 0; b < task->blocks; b++) {
        AMX_LOAD(4, task->a + (size_t)b * B_TILE, ROW_BYTES);
        AMX_LOAD(6, task->panel->codes[b], ROW_BYTES);
        AMX_MULTIPLY(0, 4, 6);
    }
    AMX_STORE(0, task->sums, SUM_BYTES);
}

/* The same for two tiles of the strip and twice the tokens: four products for four loads. */
static void multiply_square(const tile_task *task) {
    float *sums = task->sums, *more = task->sums + TILE_TOKENS * SUM_ROWS;
    const amx_panel *panel = task->panel;
    AMX_LOAD(0, sums, SUM_BYTES);
    AMX_LOAD(1, sums + TILE_ROWS, SUM_BYTES);
    AMX_LOAD(2, more, SUM_BYTES);
    AMX_LOAD(3, more + TILE_ROWS, SUM_BYTES);
    for (uint32_t b = 0; b < task->blocks; b++) {
        const uint16_t *a = task->a + (size_t)b * B_TILE;
        AMX_LOAD(6, panel[0].codes[b], ROW_BYTES);
        AMX_LOAD(4, a, ROW_BYTES);
        AMX_MULTIPLY(0, 4, 6);
        AMX_LOAD(7, panel[1].codes[b], ROW_BYTES);
        AMX_MULTIPLY(1, 4, 7);
        AMX_LOAD(5, a + task->next, ROW_BYTES);
        AMX_MULTIPLY(2, 5, 6);
        AMX_MULTIPLY(3, 5, 7);
    }
    AMX_STORE(0, sums, SUM_BYTES);
    AMX_STORE(1, sums + TILE_ROWS, SUM_BYTES);
    AMX_STORE(2, more, SUM_BYTES);
    AMX_STORE(3, more + TILE_ROWS, SUM_BYTES);
}

/* --- strips ------------------------------------------------------------------------------- */

/* What the tiles of one op share. */
typedef struct strip_task {
    const linear_job *job;
    const strip *s;
    cpu_scratch *scratch;
    uint32_t rows, tokens; /* of the chunk; rows is a multiple of a tile's, or all there are */
    bool halves;           /* how the tiles are configured */
} strip_task;

static cpu_scaling scaling_of(const strip_task *task, uint32_t i) {
    return cpu_formats[task->job->op->matrix[task->s->matrix[i]]->dtype].scaling;
}

static void unpack_panel(const strip_task *task, uint32_t i, uint32_t b, uint32_t end) {
    const kern_matrix *matrix = task->job->op->matrix[task->s->matrix[i]];
    unpack_of[matrix->dtype](matrix->codes + task->s->tile[i] * matrix->code_bytes,
                             matrix->scales + task->s->tile[i] * matrix->scale_bytes, b, end,
                             &task->scratch->panels[i]);
}

static tile_task tile_at(const strip_task *task, uint32_t i, uint32_t b, uint32_t blocks,
                         uint32_t t) {
    kern_device *dev = task->job->dev;
    const uint16_t *inputs = (const uint16_t *)(const void *)dev->inputs;
    uint32_t plane = plane_of(task->job, task->s, i);
    size_t at = row_at(task->job, plane, task->rows, b, t);
    bool pairs = scaling_of(task, i) == SCALE_16_OFFSET;
    uint32_t left = task->tokens - t;
    return (tile_task){.a = inputs + at * TILE_COLS,
                       .input_sums = pairs ? dev->half_sums + 2 * at : dev->input_sums + at,
                       .next = (size_t)task->job->blocks * B_TILE,
                       .panel = &task->scratch->panels[i],
                       .blocks = blocks,
                       .tokens = left < TILE_TOKENS ? left : TILE_TOKENS,
                       .sums = task->scratch->sums[0] + (size_t)t * SUM_ROWS + i * TILE_ROWS};
}

static void set_halves(strip_task *task, bool halves) {
    if (task->halves == halves) return;
    configure(task->tokens, halves);
    task->halves = halves;
}

static void multiply_one(strip_task *task, uint32_t i, uint32_t b, uint32_t blocks, uint32_t t) {
    tile_task tile = tile_at(task, i, b, blocks, t);
    cpu_scaling scaling = scaling_of(task, i);
    if (scaling == SCALE_NONE)
        multiply_whole(&tile);
    else
        multiply_scaled(scaling, &tile);
}

static void multiply_panels(strip_task *task, uint32_t b, uint32_t blocks) {
    const strip *s = task->s;
    bool square = s->count == 2 && plane_of(task->job, s, 0) == plane_of(task->job, s, 1) &&
                  scaling_of(task, 0) == SCALE_NONE && scaling_of(task, 1) == SCALE_NONE;
    uint32_t first = 0;
    if (square) {
        set_halves(task, false);
        for (; first + GROUP_TOKENS <= task->rows; first += GROUP_TOKENS) {
            tile_task tile = tile_at(task, 0, b, blocks, first);
            multiply_square(&tile);
        }
    }
    /* The second tile finds the tokens' part of x in L1. */
    for (uint32_t t = first; t < task->tokens; t += TILE_TOKENS)
        for (uint32_t i = 0; i < task->s->count; i++) {
            set_halves(task, scale_cols(scaling_of(task, i)) < TILE_COLS);
            multiply_one(task, i, b, blocks, t);
        }
}

/* All of K for one strip and the tokens of a chunk. */
static void multiply_strip(strip_task *task) {
    const linear_job *job = task->job;
    uint32_t panels = (job->blocks - 1) / AMX_PANEL + 1, panel = (job->blocks - 1) / panels + 1;
    memset(task->scratch->sums[0], 0, (size_t)task->rows * SUM_BYTES);
    for (uint32_t b = 0; b < job->blocks; b += panel) {
        uint32_t left = job->blocks - b, blocks = left < panel ? left : panel;
        for (uint32_t i = 0; i < task->s->count; i++)
            unpack_panel(task, i, b, b + blocks);
        multiply_panels(task, b, blocks);
    }
}

static void multiply_chunk(const linear_job *job, cpu_scratch *scratch, uint32_t base,
                           uint32_t tokens, uint32_t begin, uint32_t end) {
    strip_task task = {.job = job,
                       .scratch = scratch,
                       .rows = cpu_round_up(tokens, TILE_TOKENS),
                       .tokens = tokens};
    configure(tokens, false);
    for (uint32_t unit = begin; unit < end; unit += AMX_STRIP / job->unit_tiles) {
        strip s = strip_at(job, unit, end, AMX_STRIP);
        task.s = &s;
        multiply_strip(&task);
        finish(job, &s, base, tokens, scratch->sums[0], SUM_ROWS);
    }
    amx_release();
}

/* --- the op ------------------------------------------------------------------------------- */

static void few_tokens(void *arg, uint32_t worker, uint32_t workers) {
    const linear_job *job = arg;
    uint32_t begin, end;
    pool_share(job->units, 1, worker, workers, &begin, &end);
    if (begin < end)
        multiply_chunk(job, &job->dev->scratch[worker], 0, job->op->token_count, begin, end);
}

static void many_tokens(void *arg, uint32_t worker, uint32_t workers) {
    const linear_job *job = arg;
    uint32_t total = job->op->token_count, begin, end, mine, mine_end;
    pool_share(job->units, 1, worker, workers, &begin, &end);
    for (uint32_t base = 0; base < total; base += CHUNK_AMX) {
        uint32_t tokens = total - base < CHUNK_AMX ? total - base : CHUNK_AMX;
        pool_share(tokens, 1, worker, workers, &mine, &mine_end);
        copy_tokens(job, base, cpu_round_up(tokens, TILE_TOKENS), mine, mine_end);
        pool_barrier(job->dev->pool, worker);
        multiply_chunk(job, &job->dev->scratch[worker], base, tokens, begin, end);
        pool_barrier(job->dev->pool, worker); /* before the inputs are overwritten */
    }
}

/* Formats whose codes bf16 holds exactly: only they may be multiplied outside of tiles. */
static bool all_exact(const kern_linear *op) {
    for (uint32_t m = 0; m < op->matrix_count; m++)
        if (op->matrix[m]->dtype == DT_F16 || op->matrix[m]->dtype == DT_F32) return false;
    return true;
}

void level_linear_amx(kern_device *dev, const kern_linear *op) {
    linear_job job = job_of(dev, op);
    if (op->token_count <= AMX_FUSED_TOKENS && all_exact(op)) {
        linear_fused_amx(&job);
        return;
    }
    if (op->token_count > TILE_TOKENS) {
        pool_run(dev->pool, many_tokens, &job);
        return;
    }
    copy_tokens(&job, 0, TILE_TOKENS, 0, op->token_count);
    pool_run(dev->pool, few_tokens, &job);
}
