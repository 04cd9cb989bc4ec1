/* norm.c - RMSNorm.
 *
 *   out[i,:] = x * rsqrt(mean(x^2) + eps) * weight,  x = in[rows ? rows[i] : i,:]
 *
 * In      in [T,H] f32; rows [count] or NULL; weight [H] f32
 * Out     out [count,H] bf16
 * Work    split over rows; few rows stay on the caller, waking a worker costs more than they do
 * Error   sixteen partial sums in float32, folded by halves; the last partial vector padded with 0
 * Source  arXiv:1910.07467 */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "kernels/cpu/level/simd.h"

enum { ALONE_ELEMENTS = 8192 };

static float sum_of_squares(const float *x, uint32_t width) {
    v16 sum;
    for (uint32_t v = 0; v < VECTORS; v++)
        sum.v[v] = v_zero();
    uint32_t i = 0;
    for (; i + 16 <= width; i += 16)
        for (uint32_t v = 0; v < VECTORS; v++) {
            vf a = v_load(x + i + v * LANES);
            sum.v[v] = v_fma(a, a, sum.v[v]);
        }
    float tail[16] = {0};
    memcpy(tail, x + i, (width - i) * sizeof *x);
    for (uint32_t v = 0; v < VECTORS; v++) {
        vf a = v_load(tail + v * LANES);
        sum.v[v] = v_fma(a, a, sum.v[v]);
    }
    return v16_sum(sum);
}

static void norm_row(const kern_norm *op, uint32_t i) {
    const float *x = (const float *)op->in + (size_t)(op->rows ? op->rows[i] : i) * op->width;
    const float *weight = op->weight;
    uint16_t *out = (uint16_t *)op->out + (size_t)i * op->width;
    float mean = sum_of_squares(x, op->width) / (float)op->width;
    float factor = 1.0f / sqrtf(mean + op->eps);
    uint32_t k = 0;
    for (; k + LANES <= op->width; k += LANES) {
        vf scaled = v_mul(v_load(x + k), v_set1(factor));
        v_store_bf16(out + k, v_mul(scaled, v_load(weight + k)));
    }
    for (; k < op->width; k++)
        out[k] = bf16_of_f32(x[k] * factor * weight[k]);
}

static void norm_rows(void *arg, uint32_t worker, uint32_t workers) {
    const kern_norm *const *op = arg;
    uint32_t begin, end;
    pool_share((*op)->count, 1, worker, workers, &begin, &end);
    for (uint32_t i = begin; i < end; i++)
        norm_row(*op, i);
}

void LEVEL_NAME(level_norm)(kern_device *dev, const kern_norm *op) {
    if ((size_t)op->count * op->width <= ALONE_ELEMENTS)
        norm_rows(&op, 0, 1);
    else
        pool_run(dev->pool, norm_rows, &op);
}
