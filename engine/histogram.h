/* histogram.h - latencies in buckets. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_HISTOGRAM_H
#define ESPALIER_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_BUCKETS = 20 };
/* Bounds in seconds: bucket i counts values <= histogram_bounds[i]; the last bucket is +Inf. */
extern const double histogram_bounds[HISTOGRAM_BUCKETS - 1];
typedef struct histogram {
    uint64_t count[HISTOGRAM_BUCKETS];
    double sum; /* seconds */
} histogram;

/* Of a latency in microseconds. */
uint32_t histogram_bucket(int64_t us);

#endif
