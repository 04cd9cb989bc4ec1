/* linear.c - y[t,:] = W x[t,:] (+ bias), then the epilogue.
 *
 * In     x [T,K] bf16; up to three packed matrices [N,K]; bias [N] f32 or NULL
 * Out    STORE, RESIDUAL, SOFTCAP: [T, sum of N] f32; gated: [T,N] bf16; GELU: [T, sum of N] bf16
 * Temp   x as float32, CHUNK_TOKENS at a time, shared by the workers; sums of one strip per worker
 * Work   split over tiles of 16 rows, statically: one worker computes an output, always by the
 * chain of cpu.h, so neither T nor the thread count changes a bit Cost   T <= 4 reads each weight
 * once from memory: bandwidth bound; from about T = 16 on bound by FMA. Bar: bench/bench_linear.c
 */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "kernels/cpu/level/tile.h"

typedef struct linear_job {
    kern_device *dev;
    const kern_linear *op;
    uint32_t cols, blocks;
    uint32_t out_cols;
    uint32_t first_col[LINEAR_MATRICES_MAX];
    uint32_t units;                              /* of work: a tile, or a tile of gate and of up */
    uint32_t unit_tiles;                         /* 1 or 2 */
    bool half_sums;                              /* a format has an offset each 16 columns */
    const cpu_order *order[LINEAR_MATRICES_MAX]; /* of each plane of the expanded inputs */
    uint32_t planes;
    uint32_t plane[LINEAR_MATRICES_MAX]; /* of each matrix */
} linear_job;

/* The tiles that one worker computes side by side; for gated epilogues all gates, then all ups. */
typedef struct strip {
    uint32_t count;
    uint32_t matrix[STRIP_TILES]; /* index in the op */
    uint32_t tile[STRIP_TILES];   /* index in the matrix */
} strip;

/* --- activations to float32 -------------------------------------------------------------- */

/* Block b of an input, `count` of its columns; short or reordered ones are put together first. */
static const uint16_t *block_of(const uint16_t *in, const cpu_order *order, uint32_t b,
                                uint32_t count, uint16_t lined_up[TILE_COLS]) {
    uint32_t first = b * TILE_COLS;
    if (!order && count == TILE_COLS) return in + first;
    for (uint32_t k = 0; k < count; k++)
        lined_up[k] = in[order ? order->inputs[first + k] : first + k];
    memset(lined_up + count, 0, (TILE_COLS - count) * sizeof *lined_up);
    return lined_up;
}

/* halves: the sums over 16 columns each; NULL where no format asks for them. */
static void expand_block(const uint16_t *in, float *out, float *sum, float *halves) {
    v16 half[2];
    for (uint32_t i = 0; i < 2; i++)
        for (uint32_t v = 0; v < VECTORS; v++) {
            uint32_t at = i * TILE_ROWS + v * LANES;
            half[i].v[v] = v_load_bf16(in + at);
            v_store(out + at, half[i].v[v]);
        }
    for (uint32_t i = 0; halves && i < 2; i++)
        halves[i] = v16_sum(half[i]);
    for (uint32_t v = 0; v < VECTORS; v++)
        half[0].v[v] = v_add(half[0].v[v], half[1].v[v]);
    *sum = v16_sum(half[0]);
}

/* Where a plane begins, in blocks of `rows` rows. */
static size_t plane_at(const linear_job *job, uint32_t plane, uint32_t rows) {
    return (size_t)plane * job->blocks * rows;
}

/* Tokens base + begin .. base + end of the op, into rows begin .. end of a plane. */
static void expand_plane(const linear_job *job, uint32_t plane, uint32_t base, uint32_t rows,
                         uint32_t begin, uint32_t end) {
    kern_device *dev = job->dev;
    for (uint32_t t = begin; t < end; t++) {
        const uint16_t *in = (const uint16_t *)job->op->in + (size_t)(base + t) * job->cols;
        for (uint32_t b = 0; b < job->blocks; b++) {
            uint32_t left = job->cols - b * TILE_COLS;
            size_t at = plane_at(job, plane, rows) + (size_t)b * rows + t;
            uint16_t lined_up[TILE_COLS];
            expand_block(
                block_of(in, job->order[plane], b, left < TILE_COLS ? left : TILE_COLS, lined_up),
                dev->inputs + at * TILE_COLS, dev->input_sums + at,
                job->half_sums ? dev->half_sums + at * 2 : NULL);
        }
    }
}

static void expand_tokens(const linear_job *job, uint32_t base, uint32_t rows, uint32_t begin,
                          uint32_t end) {
    for (uint32_t plane = 0; plane < job->planes; plane++)
        expand_plane(job, plane, base, rows, begin, end);
}

/* --- strips ------------------------------------------------------------------------------ */

static strip strip_at(const linear_job *job, uint32_t unit, uint32_t end) {
    const kern_linear *op = job->op;
    uint32_t room = STRIP_TILES / job->unit_tiles, units = end - unit < room ? end - unit : room;
    strip s = {.count = units * job->unit_tiles};
    for (uint32_t i = 0; i < s.count; i++) {
        uint32_t m = 0, tile = unit + i % units;
        if (kern_is_gated(op->epilogue)) {
            m = i / units;
        } else {
            while (tile >= op->matrix[m]->tiles)
                tile -= op->matrix[m++]->tiles;
        }
        s.matrix[i] = m;
        s.tile[i] = tile;
    }
    return s;
}

static tile_run run_of(const linear_job *job, const strip *s, uint32_t input_rows) {
    tile_run run = {.blocks = job->blocks, .input_rows = input_rows};
    for (uint32_t i = 0; i < s->count; i++) {
        const kern_matrix *matrix = job->op->matrix[s->matrix[i]];
        run.codes[i] = matrix->codes + s->tile[i] * matrix->code_bytes;
        run.scales[i] = matrix->scales + s->tile[i] * matrix->scale_bytes;
    }
    return run;
}

static esp_dtype format_of(const linear_job *job, const strip *s, uint32_t tile) {
    return job->op->matrix[s->matrix[tile]]->dtype;
}

static uint32_t plane_of(const linear_job *job, const strip *s, uint32_t tile) {
    return job->plane[s->matrix[tile]];
}

/* How many tiles from `first` on have one format and one order of inputs; the run is turned to
 * their inputs. */
static uint32_t take_alike(const linear_job *job, const strip *s, uint32_t first, tile_run *run) {
    uint32_t end = first + 1, plane = plane_of(job, s, first);
    while (end < s->count && format_of(job, s, end) == format_of(job, s, first) &&
           plane_of(job, s, end) == plane)
        end++;
    size_t at = plane_at(job, plane, run->input_rows);
    run->inputs = job->dev->inputs + at * TILE_COLS;
    run->input_sums = job->dev->input_sums + at;
    run->half_sums = job->dev->half_sums + at * 2;
    return end - first;
}

/* --- few tokens -------------------------------------------------------------------------- */

static void strip_fused(const linear_job *job, const strip *s, uint32_t tokens,
                        cpu_scratch *scratch) {
    tile_run run = run_of(job, s, tokens);
    for (uint32_t first = 0, count; first < s->count; first += count) {
        count = take_alike(job, s, first, &run);
        esp_dtype dtype = format_of(job, s, first);
        LEVEL_NAME(tiles_fused)(dtype, &run, first, count, tokens, scratch->sums);
    }
}

/* --- many tokens ------------------------------------------------------------------------- */

static void strip_blocked(const linear_job *job, const strip *s, uint32_t tokens,
                          cpu_scratch *scratch) {
    tile_run run = run_of(job, s, tokens);
    memset(scratch->sums, 0, tokens * sizeof scratch->sums[0]);
    for (uint32_t first = 0, count; first < s->count; first += count) {
        count = take_alike(job, s, first, &run);
        esp_dtype dtype = format_of(job, s, first);
        LEVEL_NAME(tiles_blocked)(dtype, &run, first, count, tokens, scratch);
    }
}

/* --- epilogues --------------------------------------------------------------------------- */

/* Rows of a tile that exist. */
static uint32_t tile_rows(const kern_matrix *matrix, uint32_t tile) {
    uint32_t left = matrix->rows - tile * TILE_ROWS;
    return left < TILE_ROWS ? left : TILE_ROWS;
}

static void add_bias(const kern_linear *op, uint32_t m, uint32_t tile, uint32_t rows, float *y) {
    if (!op->bias[m]) return;
    const float *bias = (const float *)op->bias[m] + (size_t)tile * TILE_ROWS;
    for (uint32_t r = 0; r < rows; r++)
        y[r] += bias[r];
}

static void cap_row(const kern_linear *op, float *y) {
    if (op->epilogue != EPI_SOFTCAP) return;
    for (uint32_t v = 0; v < TILE_ROWS; v += LANES)
        v_store(y + v, v_softcap(v_load(y + v), op->softcap));
}

/* What is the input of another linear. */
static void store_act(const kern_linear *op, const float *y, uint16_t *out, uint32_t rows) {
    uint16_t act[TILE_ROWS];
    for (uint32_t v = 0; v < TILE_ROWS; v += LANES) {
        vf x = v_load(y + v);
        v_store_bf16(act + v, op->epilogue == EPI_GELU ? v_gelu(x) : v_gelu_erf(x));
    }
    memcpy(out, act, rows * sizeof *out);
}

static void finish_plain(const linear_job *job, const strip *s, uint32_t token, float *sums) {
    const kern_linear *op = job->op;
    for (uint32_t i = 0; i < s->count; i++) {
        uint32_t m = s->matrix[i], rows = tile_rows(op->matrix[m], s->tile[i]);
        float *y = sums + i * TILE_ROWS;
        size_t at =
            (size_t)token * job->out_cols + job->first_col[m] + (size_t)s->tile[i] * TILE_ROWS;
        float *out = (float *)op->out + at;
        add_bias(op, m, s->tile[i], rows, y);
        cap_row(op, y);
        if (kern_gives_act(op->epilogue))
            store_act(op, y, (uint16_t *)op->out + at, rows);
        else if (op->epilogue != EPI_RESIDUAL)
            memcpy(out, y, rows * sizeof *out);
        else if (rows == TILE_ROWS)
            for (uint32_t r = 0; r < TILE_ROWS; r++)
                out[r] += y[r];
        else
            for (uint32_t r = 0; r < rows; r++)
                out[r] += y[r];
    }
}

ALWAYS_INLINE vf activate(const kern_linear *op, vf x) {
    return op->epilogue == EPI_GELU_MUL ? v_gelu(x) : v_silu(x);
}

static void finish_gated(const linear_job *job, const strip *s, uint32_t token, float *sums) {
    const kern_linear *op = job->op;
    uint32_t pairs = s->count / 2;
    for (uint32_t i = 0; i < pairs; i++) {
        uint32_t tile = s->tile[i], rows = tile_rows(op->matrix[0], tile);
        float *gate = sums + i * TILE_ROWS, *up = sums + (i + pairs) * TILE_ROWS;
        uint16_t y[TILE_ROWS];
        add_bias(op, 0, tile, rows, gate);
        add_bias(op, 1, tile, rows, up);
        for (uint32_t v = 0; v < TILE_ROWS; v += LANES)
            v_store_bf16(y + v, v_mul(activate(op, v_load(gate + v)), v_load(up + v)));
        memcpy((uint16_t *)op->out + (size_t)token * job->out_cols + (size_t)tile * TILE_ROWS, y,
               rows * sizeof *y);
    }
}

static void finish(const linear_job *job, const strip *s, uint32_t base, uint32_t tokens,
                   cpu_scratch *scratch) {
    for (uint32_t t = 0; t < tokens; t++) {
        if (kern_is_gated(job->op->epilogue))
            finish_gated(job, s, base + t, scratch->sums[t]);
        else
            finish_plain(job, s, base + t, scratch->sums[t]);
    }
}

/* --- the op ------------------------------------------------------------------------------ */

static void few_tokens(void *arg, uint32_t worker, uint32_t workers) {
    const linear_job *job = arg;
    cpu_scratch *scratch = &job->dev->scratch[worker];
    uint32_t tokens = job->op->token_count, begin, end;
    pool_share(job->units, 1, worker, workers, &begin, &end);
    for (uint32_t unit = begin; unit < end; unit += STRIP_TILES / job->unit_tiles) {
        strip s = strip_at(job, unit, end);
        strip_fused(job, &s, tokens, scratch);
        finish(job, &s, 0, tokens, scratch);
    }
}

static void many_tokens(void *arg, uint32_t worker, uint32_t workers) {
    const linear_job *job = arg;
    cpu_scratch *scratch = &job->dev->scratch[worker];
    uint32_t total = job->op->token_count, begin, end, mine, mine_end;
    pool_share(job->units, 1, worker, workers, &begin, &end);
    for (uint32_t base = 0; base < total; base += CHUNK_TOKENS) {
        uint32_t tokens = total - base < CHUNK_TOKENS ? total - base : CHUNK_TOKENS;
        pool_share(tokens, 1, worker, workers, &mine, &mine_end);
        expand_tokens(job, base, tokens, mine, mine_end);
        pool_barrier(job->dev->pool, worker);
        for (uint32_t unit = begin; unit < end; unit += STRIP_TILES / job->unit_tiles) {
            strip s = strip_at(job, unit, end);
            strip_blocked(job, &s, tokens, scratch);
            finish(job, &s, base, tokens, scratch);
        }
        pool_barrier(job->dev->pool, worker); /* before the inputs are overwritten */
    }
}

/* One plane for each order that the matrices have; equal orders are one pointer. */
static void plan_inputs(linear_job *job) {
    for (uint32_t m = 0; m < job->op->matrix_count; m++) {
        const cpu_order *order = job->op->matrix[m]->order;
        uint32_t plane = 0;
        while (plane < job->planes && job->order[plane] != order)
            plane++;
        if (plane == job->planes) job->order[job->planes++] = order;
        job->plane[m] = plane;
    }
}

static linear_job job_of(kern_device *dev, const kern_linear *op) {
    bool gated = kern_is_gated(op->epilogue);
    linear_job job = {.dev = dev,
                      .op = op,
                      .cols = op->matrix[0]->cols,
                      .blocks = op->matrix[0]->blocks,
                      .unit_tiles = gated ? 2 : 1};
    for (uint32_t m = 0; m < op->matrix_count; m++)
        if (cpu_formats[op->matrix[m]->dtype].scaling == SCALE_16_OFFSET) job.half_sums = true;
    for (uint32_t m = 0; m < (gated ? 1 : op->matrix_count); m++) {
        job.first_col[m] = job.out_cols;
        job.out_cols += op->matrix[m]->rows;
        job.units += op->matrix[m]->tiles;
    }
    plan_inputs(&job);
    return job;
}

void LEVEL_NAME(level_linear)(kern_device *dev, const kern_linear *op) {
    linear_job job = job_of(dev, op);
    if (op->token_count > FUSED_TOKENS) {
        pool_run(dev->pool, many_tokens, &job);
        return;
    }
    expand_tokens(&job, 0, op->token_count, 0, op->token_count);
    pool_run(dev->pool, few_tokens, &job);
}
