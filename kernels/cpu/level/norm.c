/* norm.c - RMSNorm, LayerNorm.
 *
 *   y[i,:] = x * rsqrt(mean(x^2) + eps) * weight,  x = in[rows ? rows[i] : i,:]
 *   with a bias, LayerNorm: the same of x - mean(x), plus bias
 *   out = y; residual: out + y
 *
 * In      in [T,H] f32; rows [count] or NULL; weight [H] f32; bias [H] f32 or NULL
 * Out     out [count,H] bf16; residual: f32; kept [count,H] f32 or NULL
 * Work    split over rows; few rows stay on the caller, waking a worker costs more than they do
 * Error   sixteen partial sums in float32, folded by halves; the last partial vector padded with 0
 * Source  arXiv:1910.07467, arXiv:1607.06450 */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/level/simd.h"

enum { ALONE_ELEMENTS = 8192, ROWS_TOGETHER = 8 };

/* out = out + x * factor * weight */
static void add_row(const float *x, const float *weight, float factor, float *out, uint32_t width) {
    uint32_t k = 0;
    for (; k + LANES <= width; k += LANES) {
        vf y = v_mul(v_mul(v_load(x + k), v_set1(factor)), v_load(weight + k));
        v_store(out + k, v_add(v_load(out + k), y));
    }
    for (; k < width; k++)
        out[k] += x[k] * factor * weight[k];
}

/* An RMSNorm whose result is not kept, as decoders have it. */
static void store_scaled_row(const float *x, const float *weight, float factor, uint16_t *out,
                             uint32_t width) {
    uint32_t k = 0;
    for (; k + LANES <= width; k += LANES)
        v_store_bf16(out + k, v_mul(v_mul(v_load(x + k), v_set1(factor)), v_load(weight + k)));
    for (; k < width; k++)
        out[k] = bf16_of_f32(x[k] * factor * weight[k]);
}

/* kept may be x: an element is read before it is written. */
static void store_row(const kern_norm *op, const float *x, float mean, float factor, uint16_t *out,
                      float *kept) {
    const float *weight = op->weight, *bias = op->bias;
    uint32_t k = 0;
    for (; k + LANES <= op->width; k += LANES) {
        vf scaled = v_mul(v_sub(v_load(x + k), v_set1(mean)), v_set1(factor));
        vf y = v_mul(scaled, v_load(weight + k));
        if (bias) y = v_add(y, v_load(bias + k));
        if (kept) v_store(kept + k, y);
        v_store_bf16(out + k, y);
    }
    for (; k < op->width; k++) {
        float y = (x[k] - mean) * factor * weight[k] + (bias ? bias[k] : 0.0f);
        if (kept) kept[k] = y;
        out[k] = bf16_of_f32(y);
    }
}

static const float *input_row(const kern_norm *op, uint32_t i) {
    return (const float *)op->in + (size_t)(op->rows ? op->rows[i] : i) * op->width;
}

typedef struct row_scale {
    float mean, factor;
} row_scale;

static row_scale scale_of(const kern_norm *op, uint32_t i) {
    const float *x = input_row(op, i);
    float mean = op->bias ? v_sum(x, op->width) / (float)op->width : 0.0f;
    float square = v_sum_of_squares_around(x, mean, op->width) / (float)op->width;
    return (row_scale){.mean = mean, .factor = 1.0f / sqrtf(square + op->eps)};
}

static void scale_row(const kern_norm *op, uint32_t i, row_scale by) {
    const float *x = input_row(op, i);
    size_t at = (size_t)i * op->width;
    if (op->residual)
        add_row(x, op->weight, by.factor, (float *)op->out + at, op->width);
    else if (!op->bias && !op->kept)
        store_scaled_row(x, op->weight, by.factor, (uint16_t *)op->out + at, op->width);
    else
        store_row(op, x, by.mean, by.factor, (uint16_t *)op->out + at,
                  op->kept ? (float *)op->kept + at : NULL);
}

/* A row's sum is one chain of additions and a root: the sums of some rows overlap. */
static void norm_rows(void *arg, uint32_t worker, uint32_t workers) {
    const kern_norm *const *op = arg;
    row_scale scales[ROWS_TOGETHER];
    uint32_t begin, end;
    pool_share((*op)->count, 1, worker, workers, &begin, &end);
    for (uint32_t i = begin, count; i < end; i += count) {
        count = end - i < ROWS_TOGETHER ? end - i : ROWS_TOGETHER;
        for (uint32_t r = 0; r < count; r++)
            scales[r] = scale_of(*op, i + r);
        for (uint32_t r = 0; r < count; r++)
            scale_row(*op, i + r, scales[r]);
    }
}

void LEVEL_NAME(level_norm)(kern_device *dev, const kern_norm *op) {
    ESP_ASSERT(!(op->residual && (op->bias || op->kept)) && !(op->kept && op->rows));
    if ((size_t)op->count * op->width <= ALONE_ELEMENTS)
        norm_rows(&op, 0, 1);
    else
        pool_run(dev->pool, norm_rows, &op);
}
