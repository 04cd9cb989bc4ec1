/* linear_int8_amx.c - y[t,:] = W x[t,:] (+ bias) with activations in int8 on AMX tiles.
 *
 * In     x [T,K] bf16; up to three packed matrices [N,K]; bias [N] f32 or NULL
 * Out    STORE, RESIDUAL, SOFTCAP: [T, sum of N] f32; gated: [T,N] bf16; GELU: [T, sum of N] bf16
 * Temp   x in blocks of codes, 16 tokens after 16, shared by the workers; unpacked codes, scales and
 *        sums of a strip per worker
 * Work   split over tiles of 16 rows, statically
 * Error  integer.h: the bits of every other level
 * Cost   per block of 16 x 16 outputs one multiplication (16 cycles for 32 columns as for 64), then its
 *        16 rows are stored, loaded, converted, scaled and added: that is the bound. Few tokens leave
 *        tiles empty, and take linear_integer.c's way. Bar: bench/bench_linear.c
 * Source Intel 64 and IA-32 Architectures Optimization Reference Manual, chapter 20 */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "kernels/cpu/amx/amx.h"
#include "kernels/cpu/amx/lora_amx.h"
#include "kernels/cpu/amx/scratch_amx.h"
#include "kernels/cpu/integer/bytes.h"
#include "kernels/cpu/integer/integer.h"

enum {
    LEAST_TOKENS = 9,
    SUM_ROWS = INT8_STRIP * TILE_ROWS,
    PRODUCTS = TILE_TOKENS * TILE_ROWS,
};
_Static_assert(INT8_CHUNK *SUM_ROWS <= CHUNK_TOKENS * STRIP_ROWS,
               "sums of a chunk have their room");

/* C 0..3, A 4 and 5, B 6 and 7: a block of 32 columns, or half of one. */
static void configure(bool halves) {
    amx_config config = {.palette = 1};
    for (uint32_t tile = 0; tile < 8; tile++) {
        bool a = tile == 4 || tile == 5, b = tile >= 6;
        config.row_bytes[tile] = !a ? LINE_BYTES : halves ? TILE_COLS / 2 : TILE_COLS;
        config.rows[tile] = !b ? TILE_TOKENS : halves ? DOT_RUN : DOT_VECTORS;
    }
    amx_configure(&config);
}

/* --- weights to B tiles -------------------------------------------------------------------- */

#define UNPACK_ARGS                                                                                \
    const uint8_t *codes, const uint8_t *scales, uint32_t b, uint32_t end, int8_panel *out
typedef void unpack_fn(UNPACK_ARGS);

/* Blocks b .. end of one tile as whole values, but for G8, less 128 as its zero points are then;
 * dtype is a constant. */
ALWAYS_INLINE void unpack(esp_dtype dtype, UNPACK_ARGS) {
    const cpu_format *format = &cpu_formats[dtype];
    const int first = byte_is_whole(dtype) ? 0 : byte_first(dtype);
    for (uint32_t i = 0; b < end; b++, i++) {
        const uint8_t *block = codes + (size_t)b * format->code_bytes;
        for (uint32_t line = 0; line < format->code_bytes; line += CACHE_LINE_BYTES)
            _mm_prefetch((const char *)block + line + 2048, _MM_HINT_T0);
        UNROLL for (uint32_t v = 0; v < DOT_VECTORS; v++) {
            vi values = byte_codes(dtype, block, v, 0);
            if (first != 0) values = _mm512_sub_epi8(values, _mm512_set1_epi8((char)-first));
            _mm512_store_si512(out->bytes[i] + v * LINE_BYTES, values);
        }
        for (uint32_t half = 0; half < TILE_COLS / scale_cols(format->scaling); half++) {
            v_store(out->scales[i][half], tile_scale(dtype, scales, b, half, 0));
            if (!has_offset(format->scaling)) continue;
            vf offset = tile_offset(dtype, scales, b, half, 0);
            if (dtype == DT_G8) offset = v_add(offset, v_set1((float)byte_first(dtype)));
            v_store(out->offsets[i][half], offset);
        }
    }
}

#define UNPACK_OF(dtype)                                                                           \
    static void unpack_##dtype(UNPACK_ARGS) { unpack(dtype, codes, scales, b, end, out); }
FOR_EACH_INTEGER_FORMAT(UNPACK_OF)
#define UNPACK_ROW(dtype) [dtype] = unpack_##dtype,
static unpack_fn *const unpack_of[DT_COUNT] = {FOR_EACH_INTEGER_FORMAT(UNPACK_ROW)};

/* --- tiles ---------------------------------------------------------------------------------- */

/* Some blocks of one tile of a strip, the tokens of one A tile. */
typedef struct tile_task {
    const int8_block *x; /* [blocks][16] */
    const int8_panel *panel;
    uint32_t blocks;
    float *sums; /* [16][SUM_ROWS] */
} tile_task;

/* The products of a run into a tile; numbers of tiles are constants. */
#define MULTIPLY_RUN(c, a, b, inputs, weights)                                                     \
    do {                                                                                           \
        AMX_ZERO(c);                                                                               \
        AMX_LOAD(a, inputs, sizeof(int8_block));                                                   \
        AMX_LOAD(b, weights, LINE_BYTES);                                                          \
        AMX_MULTIPLY_BYTES(c, a, b);                                                               \
    } while (0)
#define STORE_RUN(c, p) AMX_STORE(c, p, LINE_BYTES)

/* A run is a block, or half of one. Four C take turns, and two A and B; a run's products are stored two
 * runs later, when they are there, and added another run later. */
enum { TURNS = 4, STORED = 2, ADDED = 3 };

ALWAYS_INLINE void multiply_run(const tile_task *task, uint32_t halves, uint32_t run,
                                uint32_t turn) {
    uint32_t b = run / halves, half = run % halves;
    const int8_t *x = task->x[(size_t)b * TILE_TOKENS].codes + half * TILE_COLS / 2;
    const uint8_t *w = task->panel->bytes[b] + half * DOT_RUN * LINE_BYTES;
    if (turn == 0) MULTIPLY_RUN(0, 4, 6, x, w);
    if (turn == 1) MULTIPLY_RUN(1, 5, 7, x, w);
    if (turn == 2) MULTIPLY_RUN(2, 4, 6, x, w);
    if (turn == 3) MULTIPLY_RUN(3, 5, 7, x, w);
}

ALWAYS_INLINE void store_run(uint32_t turn, int32_t (*p)[PRODUCTS]) {
    if (turn == 0) STORE_RUN(0, p[0]);
    if (turn == 1) STORE_RUN(1, p[1]);
    if (turn == 2) STORE_RUN(2, p[2]);
    if (turn == 3) STORE_RUN(3, p[3]);
}

/* Block b, whose last run's products are p[turn], to the sums of all tokens. */
ALWAYS_INLINE void add_block(cpu_scaling scaling, const tile_task *task, uint32_t b, uint32_t turn,
                             int32_t (*p)[PRODUCTS], vf *acc) {
    const uint32_t halves = TILE_COLS / scale_cols(scaling);
    const int8_block *x = task->x + (size_t)b * TILE_TOKENS;
    vf scale[2], offset[2];
    UNROLL for (uint32_t h = 0; h < halves; h++) {
        scale[h] = v_load(task->panel->scales[b][h]);
        offset[h] = has_offset(scaling) ? v_load(task->panel->offsets[b][h]) : v_zero();
    }
    UNROLL_16 for (uint32_t t = 0; t < TILE_TOKENS; t++) {
        vf y = v_zero();
        UNROLL for (uint32_t h = 0; h < halves; h++) {
            const int32_t *row = p[(turn + TURNS + 1 - halves + h) % TURNS] + t * TILE_ROWS;
            y = act_add(scaling, h, scale[h], offset[h], x[t].sum[act_sum_at(scaling, h)],
                        vi_floats(_mm512_loadu_si512(row)), y);
        }
        acc[t] = v_fma(v_set1(x[t].scale), y, acc[t]);
    }
}

/* Rows behind the last token hold anything, and nobody looks at them. */
ALWAYS_INLINE void multiply_tile(cpu_scaling scaling, const tile_task *task) {
    const uint32_t halves = TILE_COLS / scale_cols(scaling), runs = task->blocks * halves;
    _Alignas(CACHE_LINE_BYTES) int32_t p[TURNS][PRODUCTS];
    vf acc[TILE_TOKENS];
    UNROLL_16 for (uint32_t t = 0; t < TILE_TOKENS; t++) acc[t] = v_load(task->sums + t * SUM_ROWS);
    for (uint32_t first = 0; first < runs + ADDED; first += TURNS)
        UNROLL for (uint32_t i = 0; i < TURNS; i++) {
            uint32_t run = first + i, stored = run - STORED, added = run - ADDED;
            if (run < runs) multiply_run(task, halves, run, i);
            if (stored < runs) store_run((i + TURNS - STORED) % TURNS, p);
            /* TURNS is even, so i tells which half the run is. */
            if (added < runs && (i + TURNS - ADDED) % halves == halves - 1)
                add_block(scaling, task, added / halves, (i + TURNS - ADDED) % TURNS, p, acc);
        }
    UNROLL_16 for (uint32_t t = 0; t < TILE_TOKENS; t++) v_store(task->sums + t * SUM_ROWS, acc[t]);
}

#define MULTIPLY_OF(scaling)                                                                       \
    static void multiply_##scaling(const tile_task *task) { multiply_tile(scaling, task); }
MULTIPLY_OF(SCALE_32)
MULTIPLY_OF(SCALE_32_OFFSET)
MULTIPLY_OF(SCALE_32_ZERO)
MULTIPLY_OF(SCALE_16)
MULTIPLY_OF(SCALE_16_OFFSET)
typedef void multiply_fn(const tile_task *task);
static multiply_fn *const multiply_of[] = {
    [SCALE_32] = multiply_SCALE_32,
    [SCALE_32_OFFSET] = multiply_SCALE_32_OFFSET,
    [SCALE_32_ZERO] = multiply_SCALE_32_ZERO,
    [SCALE_16] = multiply_SCALE_16,
    [SCALE_16_OFFSET] = multiply_SCALE_16_OFFSET,
};

/* --- strips --------------------------------------------------------------------------------- */

/* What the tiles of one strip share. */
typedef struct strip_task {
    const linear_job *job;
    const strip *s;
    cpu_scratch *scratch;
    int8_panel *panels; /* [INT8_STRIP] */
    uint32_t rows;      /* of the chunk, a multiple of TILE_TOKENS */
    bool halves;        /* how the tiles are configured */
} strip_task;

static void unpack_panel(const strip_task *task, uint32_t i, uint32_t b, uint32_t end) {
    const kern_matrix *matrix = task->job->op->matrix[task->s->matrix[i]];
    unpack_of[matrix->dtype](matrix->codes + task->s->tile[i] * matrix->code_bytes,
                             matrix->scales + task->s->tile[i] * matrix->scale_bytes, b, end,
                             &task->panels[i]);
}

static void multiply_one(strip_task *task, uint32_t i, uint32_t b, uint32_t blocks, uint32_t t) {
    const linear_job *job = task->job;
    cpu_scaling scaling = cpu_formats[format_of(job, task->s, i)].scaling;
    bool halves = scale_cols(scaling) < TILE_COLS;
    if (halves != task->halves) configure(halves);
    task->halves = halves;
    size_t at = act_row_at(job, plane_of(job, task->s, i), task->rows, TILE_TOKENS, b, t);
    multiply_of[scaling](&(tile_task){
        .x = (const int8_block *)job->dev->quantised + at,
        .panel = &task->panels[i],
        .blocks = blocks,
        .sums = task->scratch->sums[0] + (size_t)t * SUM_ROWS + i * TILE_ROWS,
    });
}

/* All of K for one strip and the tokens of a chunk. */
static void multiply_strip(strip_task *task) {
    uint32_t all = task->job->blocks, panels = (all - 1) / INT8_PANEL + 1;
    uint32_t panel = (all - 1) / panels + 1;
    memset(task->scratch->sums, 0, (size_t)task->rows * SUM_ROWS * sizeof(float));
    for (uint32_t b = 0; b < all; b += panel) {
        uint32_t end = b + panel < all ? b + panel : all;
        for (uint32_t i = 0; i < task->s->count; i++)
            unpack_panel(task, i, b, end);
        for (uint32_t t = 0; t < task->rows; t += TILE_TOKENS)
            for (uint32_t i = 0; i < task->s->count; i++)
                multiply_one(task, i, b, end - b, t);
    }
}

static void chunk(const linear_job *job, uint32_t base, uint32_t tokens, uint32_t begin,
                  uint32_t end, uint32_t worker) {
    cpu_scratch *scratch = &job->dev->scratch[worker];
    strip_task task = {.job = job,
                       .scratch = scratch,
                       .panels = amx_scratch_of(job->dev, worker)->int8_panels,
                       .rows = cpu_round_up(tokens, TILE_TOKENS)};
    configure(false);
    for (uint32_t unit = begin; unit < end; unit += INT8_STRIP / job->unit_tiles) {
        strip s = strip_at(job, unit, end, INT8_STRIP);
        task.s = &s;
        multiply_strip(&task);
        finish(job, &s, base, tokens, scratch->sums[0], SUM_ROWS);
    }
    amx_release();
}

static void work(void *arg, uint32_t worker, uint32_t workers) {
    const linear_job *job = arg;
    uint32_t total = job->op->token_count, begin, end, mine, mine_end;
    pool_share(job->units, 1, worker, workers, &begin, &end);
    for (uint32_t base = 0; base < total; base += INT8_CHUNK) {
        uint32_t tokens = total - base < INT8_CHUNK ? total - base : INT8_CHUNK;
        pool_share(tokens, 1, worker, workers, &mine, &mine_end);
        act_quantise_tokens(job, base, cpu_round_up(tokens, TILE_TOKENS), TILE_TOKENS, mine,
                            mine_end);
        pool_barrier(job->dev->pool, worker);
        chunk(job, base, tokens, begin, end, worker);
        pool_barrier(job->dev->pool, worker); /* before the inputs are overwritten */
    }
}

void linear_int8_amx(kern_device *dev, const kern_linear *op) {
    linear_job job = job_of(dev, op);
    bool tiles = op->token_count >= LEAST_TOKENS;
    for (uint32_t m = 0; m < op->matrix_count; m++)
        tiles = tiles && cpu_is_integer(op->matrix[m]);
    if (!tiles) {
        linear_int8_avx512_bf16(dev, op);
        return;
    }
    if (job.lora) amx_lora_shrink_all(&job);
    pool_run(dev->pool, work, &job);
}
