/* ref_linear.c - y[t,n] = sum_k W[n,k] x[t,k] (+ bias[n]), then the epilogue.
 *
 * In    x [T,K] f32; up to three matrices [N,K] of any dtype, their outputs side by side
 * Out   out [T, sum of N] f32; gated: silu(gate) * up or gelu(gate) * up, [T,N]; or gelu of each
 *       the low-rank updates of segments of tokens are added to the sums (ref_lora.c)
 * Temp  up to three weight rows as float32 per worker, each dequantised once per call
 * Work  split over rows n: one worker computes all tokens of an output column */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>

#include "kernels/ref/ref_lora.h"

typedef struct linear_job {
    const kern_device *dev;
    const kern_linear *op;
    uint32_t out_cols;
} linear_job;

static float bias_of(const kern_linear *op, uint32_t m, uint32_t row) {
    return op->bias[m] ? ((const float *)op->bias[m])[row] : 0.0f;
}

static float silu(float x) { return x / (1.0f + expf(-x)); }

/* The tanh form; sqrt(2/pi) is 0.797.. */
static float gelu(float x) {
    return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
}

static float gelu_erf(float x) { return 0.5f * x * (1.0f + erff(x * (float)M_SQRT1_2)); }

static float finish(const kern_linear *op, float y) {
    switch (op->epilogue) {
    case EPI_SOFTCAP:
        return ref_softcap(y, op->softcap);
    case EPI_GELU:
        return gelu(y);
    case EPI_GELU_ERF:
        return gelu_erf(y);
    default:
        return y;
    }
}

/* By parts, where the op has them: the tree's last ones are 0, which changes none. */
static float sum_of(const kern_linear *op, const float *w, const float *x, uint32_t cols) {
    float part[KERN_PARTS_MAX] = {0};
    if (!op->parts) return ref_dot(w, x, cols);
    for (uint32_t i = 0, first = 0; i < op->parts->count; first = op->parts->end[i++])
        part[i] = ref_dot(w + first, x + first, op->parts->end[i] - first);
    return ref_tree(part);
}

/* Column `col` of out is row `row` of matrix m. */
static void plain_column(const linear_job *job, uint32_t m, uint32_t row, uint32_t col,
                         float *scratch) {
    const kern_linear *op = job->op;
    const kern_matrix *matrix = op->matrix[m];
    float *w = scratch;
    ref_read_row(matrix, row, scratch + matrix->cols, w);
    float bias = bias_of(op, m, row);
    ref_lora_walk lora = {.dev = job->dev, .op = op};
    for (uint32_t t = 0; t < op->token_count; t++) {
        const float *x = (const float *)op->in + (size_t)t * matrix->cols;
        float *out = (float *)op->out + (size_t)t * job->out_cols + col;
        float sum = ref_lora_update(&lora, t, m, row, sum_of(op, w, x, matrix->cols));
        float y = finish(op, sum + bias);
        *out = op->epilogue == EPI_RESIDUAL ? *out + y : y;
    }
}

static void gated_column(const linear_job *job, uint32_t row, float *scratch) {
    const kern_linear *op = job->op;
    uint32_t cols = op->matrix[0]->cols;
    float *gate = scratch, *up = scratch + cols, *spare = up + cols;
    ref_read_row(op->matrix[0], row, spare, gate);
    ref_read_row(op->matrix[1], row, spare, up);
    ref_lora_walk lora = {.dev = job->dev, .op = op};
    for (uint32_t t = 0; t < op->token_count; t++) {
        const float *x = (const float *)op->in + (size_t)t * cols;
        float g = ref_lora_update(&lora, t, 0, row, ref_dot(gate, x, cols));
        float u = ref_lora_update(&lora, t, 1, row, ref_dot(up, x, cols));
        g += bias_of(op, 0, row);
        u += bias_of(op, 1, row);
        g = op->epilogue == EPI_GELU_MUL ? gelu(g) : silu(g);
        ((float *)op->out)[(size_t)t * job->out_cols + row] = g * u;
    }
}

static void linear_columns(void *arg, uint32_t worker, uint32_t workers) {
    const linear_job *job = arg;
    const kern_linear *op = job->op;
    float *scratch = job->dev->row_scratch + (size_t)worker * REF_SCRATCH_ROWS * job->dev->cols_max;
    uint32_t begin, end, m = 0, first = 0;
    pool_share(job->out_cols, 1, worker, workers, &begin, &end);
    for (uint32_t col = begin; col < end; col++) {
        if (kern_is_gated(op->epilogue)) {
            gated_column(job, col, scratch);
            continue;
        }
        while (col - first >= op->matrix[m]->rows)
            first += op->matrix[m++]->rows;
        plain_column(job, m, col - first, col, scratch);
    }
}

void ref_linear(kern_device *dev, const kern_linear *op) {
    ESP_ASSERT(op->matrix_count >= 1 && op->matrix_count <= LINEAR_MATRICES_MAX);
    uint32_t out_cols = 0, rows[LINEAR_MATRICES_MAX];
    for (uint32_t m = 0; m < op->matrix_count; m++) {
        ESP_ASSERT(op->matrix[m]->cols == op->matrix[0]->cols);
        rows[m] = op->matrix[m]->rows;
        out_cols += rows[m];
    }
    if (kern_is_gated(op->epilogue)) {
        ESP_ASSERT(op->matrix_count == 2 && op->matrix[0]->rows == op->matrix[1]->rows);
        out_cols = op->matrix[0]->rows;
    }
    ESP_ASSERT(kern_parts_fit(op, op->matrix[0]->cols));
    linear_job job = {.dev = dev, .op = op, .out_cols = out_cols};
    ESP_ASSERT(op->token_count <= dev->tokens_max);
    ESP_ASSERT(kern_lora_fits(op, rows, op->matrix[0]->cols));
    if (op->lora_count > 0) ref_lora_shrink(dev, op);
    if (op->token_count > 0) pool_run(dev->pool, linear_columns, &job);
}
