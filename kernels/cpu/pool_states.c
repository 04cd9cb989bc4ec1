/* pool_states.c - one vector for each sequence: mean, first or last of its tokens' states.
 *
 *   y[i,:] = mean over t of in[t,:], or in[first,:], or in[last,:]
 *   out = y, or y / max(|y|, 1e-12)
 *
 * In      in [T,H] f32; batch: row i names the last token of its sequence
 * Out     out [R,H] f32
 * Cost    one pass over the states: plain code, on the caller. The length is summed in double
 * Error   sums token by token in float32 */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

/* The mean of count rows. */
static void average(const float *rows, uint32_t count, uint32_t width, float *out) {
    memcpy(out, rows, width * sizeof *out);
    for (uint32_t t = 1; t < count; t++)
        for (uint32_t k = 0; k < width; k++)
            out[k] += rows[(size_t)t * width + k];
    for (uint32_t k = 0; k < width; k++)
        out[k] /= (float)count;
}

static void normalise(float *row, uint32_t width) {
    double square = 0;
    for (uint32_t k = 0; k < width; k++)
        square += (double)row[k] * (double)row[k];
    double length = fmax(sqrt(square), 1e-12);
    for (uint32_t k = 0; k < width; k++)
        row[k] = (float)((double)row[k] / length);
}

static void pool_row(const kern_pool_states *op, uint32_t row) {
    const step_batch *batch = op->batch;
    uint32_t last = batch->rows[row], seq = batch->token_seq[last];
    uint32_t first = batch->seq_first[seq], count = batch->seq_tokens[seq];
    float *out = (float *)op->out + (size_t)row * op->width;
    ESP_ASSERT(last == first + count - 1);
    ESP_ASSERT(op->pooling == POOL_LAST || batch->seq_cached[seq] == 0);
    if (op->pooling == POOL_LAST) first = last;
    if (op->pooling != POOL_MEAN) count = 1;
    average((const float *)op->in + (size_t)first * op->width, count, op->width, out);
    if (op->normalise) normalise(out, op->width);
}

void cpu_pool_states(kern_device *dev, const kern_pool_states *op) {
    (void)dev;
    ESP_ASSERT(op->pooling != POOL_NONE);
    for (uint32_t i = 0; i < op->batch->row_count; i++)
        pool_row(op, i);
}
