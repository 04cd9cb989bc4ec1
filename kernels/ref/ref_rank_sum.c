/* ref_rank_sum.c - partial sums of the ranks, added in the order of the ranks or as a tree.
 *
 *   s = in[0] + in[1] + ... + in[ranks - 1], or ((in[0] + in[1]) + (in[2] + in[3])) + ..
 *   out = s, or out + s
 *
 * In      in [ranks, count] f32
 * Out     out [count] f32
 * Error   none: each addition is a float32's */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/ref/ref.h"

static float in_order(const kern_rank_sum *op, const float *in) {
    float sum = in[0];
    for (uint32_t rank = 1; rank < op->ranks; rank++)
        sum += in[rank * op->count];
    return sum;
}

static float two_by_two(const kern_rank_sum *op, const float *in) {
    float part[KERN_PARTS_MAX] = {0};
    for (uint32_t rank = 0; rank < op->ranks; rank++)
        part[rank] = in[rank * op->count];
    return ref_tree(part);
}

void ref_rank_sum(kern_device *dev, const kern_rank_sum *op) {
    (void)dev;
    ESP_ASSERT(op->ranks > 0 && (!op->tree || op->ranks <= KERN_PARTS_MAX));
    const float *in = op->in;
    float *out = op->out;
    for (size_t i = 0; i < op->count; i++) {
        float sum = (op->tree ? two_by_two : in_order)(op, in + i);
        out[i] = op->residual ? out[i] + sum : sum;
    }
}
