/* sample_math.h - the walks over a whole row of logits: the largest, the softmax weights, the next
 * one above a bar. Private to sampling.
 *
 * As many lanes at a time as the processor has, with our own exp. No result depends on the C library or on the machine's
 * instruction level: each lane's operations are single IEEE ones, and sums have one shape:
 *
 *   block  SAMPLE_BLOCK weights; weight i is added to lane i mod 8, in double, in index order; then
 *          ((l0 + l4) + (l2 + l6)) + ((l1 + l5) + (l3 + l7))
 *   row    the sums of its blocks, one after another */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_SAMPLE_MATH_H
#define ESPALIER_SAMPLE_MATH_H

#include <stdbool.h>
#include <stdint.h>

enum { SAMPLE_BLOCK = 256 };

static inline bool sample_finite(float x) { return x - x == 0.0f; }

static inline uint32_t sample_blocks(uint32_t count) {
    return (count + SAMPLE_BLOCK - 1) / SAMPLE_BLOCK;
}

/* Lowest index of the largest finite value, or -1 when there is none. */
int32_t sample_argmax(const float *values, uint32_t count);

/* weights[i] = exp((values[i] - top) / temperature), 0 for a value that is not finite; returns
 * their sum. top is the largest finite value. weights [count] and sums [sample_blocks(count)], of
 * each block, may be NULL. */
double sample_weights(const float *values, uint32_t count, float top, float temperature,
                      float *weights, double *sums);

/* The first index >= begin whose value is above the bar, or count; NaN is above nothing. */
uint32_t sample_next_far(const float *values, uint32_t begin, uint32_t count, float bar);
static inline uint32_t sample_next(const float *values, uint32_t begin, uint32_t count, float bar) {
    if (begin < count && values[begin] > bar) return begin; /* they come in runs */
    return sample_next_far(values, begin, count, bar);
}

/* The same for one target each; block_weights for at most SAMPLE_BLOCK values. */
typedef struct sample_walks {
    const char *name;
    int32_t (*argmax)(const float *values, uint32_t count);
    double (*block_weights)(const float *values, uint32_t count, float top, float temperature,
                            float *weights);
    uint32_t (*next)(const float *values, uint32_t begin, uint32_t count, float bar);
} sample_walks;

/* Those that this processor can run, best first; NULL behind the last. */
const sample_walks *sample_walks_at(uint32_t index);

#endif
