/* ref_norm.c - RMSNorm.
 *
 *   y[i,:] = x * weight / sqrt(mean(x^2) + eps),  x = in[rows ? rows[i] : i,:]
 *   out = y; residual: out + y
 *
 * In      in [T,H] f32; rows [count] or NULL; weight [H] f32
 * Out     out [count,H] f32
 * Source  arXiv:1910.07467 */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/ref/ref.h"

void ref_norm(kern_device *dev, const kern_norm *op) {
    const float *weight = op->weight;
    (void)dev;
    for (uint32_t i = 0; i < op->count; i++) {
        const float *x = (const float *)op->in + (size_t)(op->rows ? op->rows[i] : i) * op->width;
        float *out = (float *)op->out + (size_t)i * op->width;
        float factor = ref_norm_factor(x, op->width, op->eps);
        for (uint32_t k = 0; k < op->width; k++) {
            float y = x[k] * factor * weight[k];
            out[k] = op->residual ? out[k] + y : y;
        }
    }
}
