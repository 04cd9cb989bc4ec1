/* rank_sum.c - partial sums of the ranks, added in the order of the ranks.
 *
 *   s = in[0] + in[1] + ... + in[ranks - 1]
 *   out = s, or out + s
 *
 * In      in [ranks, count] f32
 * Out     out [count] f32
 * Cost    one pass over all partial sums: plain code, on the pool when it is long
 * Error   none: the bits of ref */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "kernels/cpu/cpu.h"

enum { ALONE_BYTES = 64 << 10, SHARE_UNIT = 64 };

static void add(float *restrict out, const float *restrict in, size_t count) {
    for (size_t i = 0; i < count; i++)
        out[i] += in[i];
}

/* Elements [first, first + count), a piece at a time, so that the sum stays in the cache. */
static void sum_some(const kern_rank_sum *op, size_t first, size_t count) {
    float sum[1024];
    for (size_t end = first + count; first < end; first += count) {
        count = end - first < 1024 ? end - first : 1024;
        const float *in = (const float *)op->in + first;
        float *out = (float *)op->out + first;
        memcpy(sum, in, count * sizeof *sum);
        for (uint32_t rank = 1; rank < op->ranks; rank++)
            add(sum, in + rank * op->count, count);
        if (op->residual)
            add(out, sum, count);
        else
            memcpy(out, sum, count * sizeof *sum);
    }
}

static void sum_share(void *arg, uint32_t worker, uint32_t workers) {
    const kern_rank_sum *op = arg;
    uint32_t begin, end;
    pool_share((uint32_t)op->count, SHARE_UNIT, worker, workers, &begin, &end);
    if (begin < end) sum_some(op, begin, end - begin);
}

void cpu_rank_sum(kern_device *dev, const kern_rank_sum *op) {
    ESP_ASSERT(op->ranks > 0 && op->count <= UINT32_MAX);
    kern_rank_sum shared = *op;
    if (op->ranks * op->count * sizeof(float) < ALONE_BYTES)
        sum_some(op, 0, op->count);
    else
        pool_run(dev->pool, sum_share, &shared);
}
