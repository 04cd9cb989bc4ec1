/* sample_math.h - the two walks over a whole row of logits: the largest, and the softmax weights.
 * Private to sampling.
 *
 * Four lanes at a time in portable vectors, with our own exp: no result depends on the C library or
 * on the machine's instruction level. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_SAMPLE_MATH_H
#define ESPALIER_SAMPLE_MATH_H

#include <stdbool.h>
#include <stdint.h>

static inline bool sample_finite(float x) { return x - x == 0.0f; }

/* Lowest index of the largest finite value, or -1 when there is none. */
int32_t sample_argmax(const float *values, uint32_t count);

/* weights[i] = exp((values[i] - top) / temperature), 0 for a value that is not finite; returns
 * their sum, in double, in an order of its own. top is the largest finite value. weights may be NULL. */
double sample_weights(const float *values, uint32_t count, float top, float temperature,
                      float *weights);

#endif
