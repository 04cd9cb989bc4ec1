/* histogram.c - the one list of bounds. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/histogram.h"

const double histogram_bounds[HISTOGRAM_BUCKETS - 1] = {
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05,
    0.075, 0.1,   0.2,   0.5,   1.0,    2.0,  5.0,   10.0, 60.0};

uint32_t histogram_bucket(int64_t us) {
    uint32_t bucket = 0;
    while (bucket < HISTOGRAM_BUCKETS - 1 && (double)us * 1e-6 > histogram_bounds[bucket])
        bucket++;
    return bucket;
}
