/* ref_norm.c - RMSNorm, LayerNorm.
 *
 *   y[i,:] = x * weight / sqrt(mean(x^2) + eps),  x = in[rows ? rows[i] : i,:]
 *   with a bias, LayerNorm: the same of x - mean(x), plus bias
 *   out = y; residual: out + y
 *
 * In      in [T,H] f32; rows [count] or NULL; weight [H] f32; bias [H] f32 or NULL
 * Out     out [count,H] f32; kept the same
 * Source  arXiv:1910.07467, arXiv:1607.06450 */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/ref/ref.h"

/* y may lie where x does. */
static void layer_norm(const kern_norm *op, const float *x, float *y) {
    const float *weight = op->weight, *bias = op->bias;
    double sum = 0, squares = 0;
    for (uint32_t k = 0; k < op->width; k++)
        sum += (double)x[k];
    double mean = sum / op->width;
    for (uint32_t k = 0; k < op->width; k++)
        squares += ((double)x[k] - mean) * ((double)x[k] - mean);
    double factor = 1 / sqrt(squares / op->width + (double)op->eps);
    for (uint32_t k = 0; k < op->width; k++)
        y[k] = (float)(((double)x[k] - mean) * factor) * weight[k] + bias[k];
}

void ref_norm(kern_device *dev, const kern_norm *op) {
    const float *weight = op->weight;
    (void)dev;
    ESP_ASSERT(!(op->residual && (op->bias || op->kept)) && !(op->kept && op->rows));
    for (uint32_t i = 0; i < op->count; i++) {
        const float *x = (const float *)op->in + (size_t)(op->rows ? op->rows[i] : i) * op->width;
        float *out = (float *)op->out + (size_t)i * op->width;
        float factor = ref_norm_factor(x, op->width, op->eps);
        for (uint32_t k = 0; k < op->width && !op->bias; k++) {
            float y = x[k] * factor * weight[k];
            out[k] = op->residual ? out[k] + y : y;
        }
        if (op->bias) layer_norm(op, x, out);
        if (op->kept)
            memcpy((float *)op->kept + (size_t)i * op->width, out, op->width * sizeof *out);
    }
}
