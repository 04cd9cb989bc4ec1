/* divergence.h - how far two rows of logits are apart. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_DIVERGENCE_H
#define ESPALIER_DIVERGENCE_H

#include <math.h>
#include <stdint.h>

static inline double log_sum(const float *x, uint32_t count) {
    double most = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < count; i++)
        most = fmax(most, (double)x[i]);
    for (uint32_t i = 0; i < count; i++)
        sum += exp((double)x[i] - most);
    return most + log(sum);
}

/* Kullback-Leibler, of the softmax of q from that of p. */
static inline double divergence(const float *p, const float *q, uint32_t count) {
    double zp = log_sum(p, count), zq = log_sum(q, count), sum = 0;
    for (uint32_t i = 0; i < count; i++)
        sum += exp((double)p[i] - zp) * ((double)p[i] - zp - (double)q[i] + zq);
    return sum;
}

/* The token that greedy sampling takes. */
static inline uint32_t best(const float *x, uint32_t count) {
    uint32_t at = 0;
    for (uint32_t i = 1; i < count; i++)
        if (x[i] > x[at]) at = i;
    return at;
}

#endif
