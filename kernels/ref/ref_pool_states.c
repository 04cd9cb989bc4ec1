/* ref_pool_states.c - one vector for each sequence: mean, first or last of its tokens' states.
 *
 *   y[i,:] = mean over t of in[t,:], or in[first,:], or in[last,:]
 *   out = y, or y / max(|y|, 1e-12)
 *
 * In      in [T,H] f32; batch: row i names the last token of its sequence
 * Out     out [R,H] f32
 * Error   sums token by token in double, rounded once */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <string.h>

#include "kernels/ref/ref.h"

/* Tokens [first, first + count) are pooled. */
typedef struct token_range {
    uint32_t first, count;
} token_range;

static token_range range_of(const kern_pool_states *op, uint32_t row) {
    const step_batch *batch = op->batch;
    uint32_t last = batch->rows[row], seq = batch->token_seq[last];
    uint32_t first = batch->seq_first[seq], count = batch->seq_tokens[seq];
    ESP_ASSERT(last == first + count - 1);
    if (op->pooling == POOL_LAST) return (token_range){last, 1};
    ESP_ASSERT(batch->seq_cached[seq] == 0);
    return (token_range){first, op->pooling == POOL_FIRST ? 1 : count};
}

static void pool(const kern_pool_states *op, token_range range, float *out) {
    const float *in = (const float *)op->in + (size_t)range.first * op->width;
    for (uint32_t k = 0; k < op->width; k++) {
        double sum = 0;
        for (uint32_t t = 0; t < range.count; t++)
            sum += (double)in[(size_t)t * op->width + k];
        out[k] = (float)(sum / range.count);
    }
}

static void normalise(float *row, uint32_t width) {
    double square = 0;
    for (uint32_t k = 0; k < width; k++)
        square += (double)row[k] * (double)row[k];
    double length = fmax(sqrt(square), 1e-12);
    for (uint32_t k = 0; k < width; k++)
        row[k] = (float)((double)row[k] / length);
}

void ref_pool_states(kern_device *dev, const kern_pool_states *op) {
    (void)dev;
    ESP_ASSERT(op->pooling != POOL_NONE);
    for (uint32_t i = 0; i < op->batch->row_count; i++) {
        float *out = (float *)op->out + (size_t)i * op->width;
        pool(op, range_of(op, i), out);
        if (op->normalise) normalise(out, op->width);
    }
}
