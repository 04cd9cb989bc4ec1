/* linear_job.h - what every linear of the CPU backend shares, whatever multiplies: how an op is cut
 * into strips of weight tiles, its inputs as float32, and the epilogues of a strip's sums. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_LINEAR_JOB_H
#define ESPALIER_LINEAR_JOB_H

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
    const cpu_order *order[LINEAR_MATRICES_MAX]; /* of each plane of the expanded inputs */
    uint32_t planes;
    uint32_t plane[LINEAR_MATRICES_MAX]; /* of each matrix */
    const cpu_lora_plan *lora;           /* the low-rank updates; NULL: none */
    bool lora_summed;                    /* B h is in the sums already; see cpu_level.lora_update */
} linear_job;

/* The tiles that one worker computes side by side; for gated epilogues all gates, then all ups. */
typedef struct strip {
    uint32_t count;
    uint32_t matrix[STRIP_MAX]; /* index in the op */
    uint32_t tile[STRIP_MAX];   /* index in the matrix */
} strip;

/* --- activations to float32 -------------------------------------------------------------- */

/* Block b of an input, `count` of its columns; short or reordered ones are put together first. */
static inline const uint16_t *block_of(const uint16_t *in, const cpu_order *order, uint32_t b,
                                       uint32_t count, uint16_t lined_up[TILE_COLS]) {
    uint32_t first = b * TILE_COLS;
    if (!order && count == TILE_COLS) return in + first;
    for (uint32_t k = 0; k < count; k++)
        lined_up[k] = in[order ? order->inputs[first + k] : first + k];
    memset(lined_up + count, 0, (TILE_COLS - count) * sizeof *lined_up);
    return lined_up;
}

static inline void expand_block(const uint16_t *in, float *out) {
    for (uint32_t k = 0; k < TILE_COLS; k += LANES)
        v_store(out + k, v_load_bf16(in + k));
}

/* Where a plane begins, in blocks of `rows` rows. */
static inline size_t plane_at(const linear_job *job, uint32_t plane, uint32_t rows) {
    return (size_t)plane * job->blocks * rows;
}

/* Tokens base + begin .. base + end of the op, into rows begin .. end of a plane. */
static inline void expand_plane(const linear_job *job, uint32_t plane, uint32_t base, uint32_t rows,
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
                (float *)dev->inputs + at * TILE_COLS);
        }
    }
}

static inline void expand_tokens(const linear_job *job, uint32_t base, uint32_t rows,
                                 uint32_t begin, uint32_t end) {
    for (uint32_t plane = 0; plane < job->planes; plane++)
        expand_plane(job, plane, base, rows, begin, end);
}

/* --- strips ------------------------------------------------------------------------------ */

/* The strip of at most `tiles` tiles that begins at a unit. */
static inline strip strip_at(const linear_job *job, uint32_t unit, uint32_t end, uint32_t tiles) {
    const kern_linear *op = job->op;
    uint32_t room = tiles / job->unit_tiles, units = end - unit < room ? end - unit : room;
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

/* How many tiles from `first` on are of one matrix: neighbours. */
static inline uint32_t strip_of_matrix(const strip *s, uint32_t first) {
    uint32_t end = first + 1;
    while (end < s->count && s->matrix[end] == s->matrix[first])
        end++;
    return end - first;
}

static inline tile_run run_of(const linear_job *job, const strip *s, uint32_t input_rows) {
    tile_run run = {.blocks = job->blocks, .input_rows = input_rows};
    for (uint32_t i = 0; i < s->count; i++) {
        const kern_matrix *matrix = job->op->matrix[s->matrix[i]];
        run.codes[i] = matrix->codes + s->tile[i] * matrix->code_bytes;
        run.scales[i] = matrix->scales + s->tile[i] * matrix->scale_bytes;
    }
    return run;
}

static inline esp_dtype format_of(const linear_job *job, const strip *s, uint32_t tile) {
    return job->op->matrix[s->matrix[tile]]->dtype;
}

static inline uint32_t plane_of(const linear_job *job, const strip *s, uint32_t tile) {
    return job->plane[s->matrix[tile]];
}

/* How many tiles from `first` on have one format and one order of inputs. */
static inline uint32_t alike(const linear_job *job, const strip *s, uint32_t first) {
    uint32_t end = first + 1, plane = plane_of(job, s, first);
    while (end < s->count && format_of(job, s, end) == format_of(job, s, first) &&
           plane_of(job, s, end) == plane)
        end++;
    return end - first;
}

/* The same; the run is turned to their inputs. */
static inline uint32_t take_alike(const linear_job *job, const strip *s, uint32_t first,
                                  tile_run *run) {
    size_t at = plane_at(job, plane_of(job, s, first), run->input_rows);
    run->inputs = (const float *)job->dev->inputs + at * TILE_COLS;
    return alike(job, s, first);
}

/* One plane for each order that the matrices have; equal orders are one pointer. */
static inline void plan_inputs(linear_job *job) {
    for (uint32_t m = 0; m < job->op->matrix_count; m++) {
        const cpu_order *order = job->op->matrix[m]->order;
        uint32_t plane = 0;
        while (plane < job->planes && job->order[plane] != order)
            plane++;
        if (plane == job->planes) job->order[job->planes++] = order;
        job->plane[m] = plane;
    }
}

static inline linear_job job_of(kern_device *dev, const kern_linear *op) {
    bool gated = kern_is_gated(op->epilogue);
    linear_job job = {.dev = dev,
                      .op = op,
                      .cols = op->matrix[0]->cols,
                      .blocks = op->matrix[0]->blocks,
                      .unit_tiles = gated ? 2 : 1,
                      .lora = op->lora_count ? dev->lora : NULL};
    for (uint32_t m = 0; m < (gated ? 1 : op->matrix_count); m++) {
        job.first_col[m] = job.out_cols;
        job.out_cols += op->matrix[m]->rows;
        job.units += op->matrix[m]->tiles;
    }
    plan_inputs(&job);
    return job;
}

/* --- epilogues --------------------------------------------------------------------------- */

/* Rows of a tile that exist. */
static inline uint32_t tile_rows(const kern_matrix *matrix, uint32_t tile) {
    uint32_t left = matrix->rows - tile * TILE_ROWS;
    return left < TILE_ROWS ? left : TILE_ROWS;
}

static inline void add_bias(const kern_linear *op, uint32_t m, uint32_t tile, uint32_t rows,
                            float *y) {
    if (!op->bias[m]) return;
    const float *bias = (const float *)op->bias[m] + (size_t)tile * TILE_ROWS;
    for (uint32_t r = 0; r < rows; r++)
        y[r] += bias[r];
}

static inline void cap_row(const kern_linear *op, float *y) {
    if (op->epilogue != EPI_SOFTCAP) return;
    for (uint32_t v = 0; v < TILE_ROWS; v += LANES)
        v_store(y + v, v_softcap(v_load(y + v), op->softcap));
}

/* What is the input of another linear. */
static inline void store_act(const kern_linear *op, const float *y, uint16_t *out, uint32_t rows) {
    uint16_t act[TILE_ROWS];
    for (uint32_t v = 0; v < TILE_ROWS; v += LANES) {
        vf x = v_load(y + v);
        v_store_bf16(act + v, op->epilogue == EPI_GELU ? v_gelu(x) : v_gelu_erf(x));
    }
    memcpy(out, act, rows * sizeof *out);
}

/* Sixteen sums, or the `rows` of them that exist, to where they belong. */
ALWAYS_INLINE void put_sums(const kern_linear *op, const float *y, float *out, uint32_t rows) {
    bool add = op->epilogue == EPI_RESIDUAL;
    if (rows < TILE_ROWS) {
        for (uint32_t r = 0; r < rows; r++)
            out[r] = add ? out[r] + y[r] : y[r];
        return;
    }
    for (uint32_t v = 0; v < TILE_ROWS; v += LANES)
        v_store(out + v, add ? v_add(v_load(out + v), v_load(y + v)) : v_load(y + v));
}

static inline void finish_plain(const linear_job *job, const strip *s, uint32_t token,
                                float *sums) {
    const kern_linear *op = job->op;
    for (uint32_t i = 0; i < s->count; i++) {
        uint32_t m = s->matrix[i], rows = tile_rows(op->matrix[m], s->tile[i]);
        float *y = sums + i * TILE_ROWS;
        size_t at =
            (size_t)token * job->out_cols + job->first_col[m] + (size_t)s->tile[i] * TILE_ROWS;
        add_bias(op, m, s->tile[i], rows, y);
        cap_row(op, y);
        if (kern_gives_act(op->epilogue))
            store_act(op, y, (uint16_t *)op->out + at, rows);
        else
            put_sums(op, y, (float *)op->out + at, rows);
    }
}

ALWAYS_INLINE vf activate(const kern_linear *op, vf x) {
    return op->epilogue == EPI_GELU_MUL ? v_gelu(x) : v_silu(x);
}

static inline void finish_gated(const linear_job *job, const strip *s, uint32_t token,
                                float *sums) {
    const kern_linear *op = job->op;
    uint32_t pairs = s->count / 2;
    for (uint32_t i = 0; i < pairs; i++) {
        uint32_t tile = s->tile[i], rows = tile_rows(op->matrix[0], tile);
        float *gate = sums + i * TILE_ROWS, *up = sums + (i + pairs) * TILE_ROWS;
        uint16_t part[TILE_ROWS];
        uint16_t *out =
            (uint16_t *)op->out + (size_t)token * job->out_cols + (size_t)tile * TILE_ROWS;
        uint16_t *y = rows == TILE_ROWS ? out : part;
        add_bias(op, 0, tile, rows, gate);
        add_bias(op, 1, tile, rows, up);
        for (uint32_t v = 0; v < TILE_ROWS; v += LANES)
            v_store_bf16(y + v, v_mul(activate(op, v_load(gate + v)), v_load(up + v)));
        if (y == part) memcpy(out, part, rows * sizeof *out);
    }
}

/* Tokens base .. base + tokens of the op, from sums[token * stride + tile * 16 + row]. */
static inline void finish(const linear_job *job, const strip *s, uint32_t base, uint32_t tokens,
                          float *sums, uint32_t stride) {
    if (job->lora) job->dev->level->lora_update(job, s, base, tokens, sums, stride);
    for (uint32_t t = 0; t < tokens; t++, sums += stride) {
        if (kern_is_gated(job->op->epilogue))
            finish_gated(job, s, base + t, sums);
        else
            finish_plain(job, s, base + t, sums);
    }
}

#endif
