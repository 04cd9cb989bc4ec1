/* ref_rank_sum.c - partial sums of the ranks, added in the order of the ranks.
 *
 *   s = in[0] + in[1] + ... + in[ranks - 1]
 *   out = s, or out + s
 *
 * In      in [ranks, count] f32
 * Out     out [count] f32
 * Error   none: each addition is a float32's */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/ref/ref.h"

void ref_rank_sum(kern_device *dev, const kern_rank_sum *op) {
    (void)dev;
    ESP_ASSERT(op->ranks > 0);
    const float *in = op->in;
    float *out = op->out;
    for (size_t i = 0; i < op->count; i++) {
        float sum = in[i];
        for (uint32_t rank = 1; rank < op->ranks; rank++)
            sum += in[rank * op->count + i];
        out[i] = op->residual ? out[i] + sum : sum;
    }
}
