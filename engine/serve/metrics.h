/* metrics.h - the Prometheus page (text exposition format 0.0.4). Pure: numbers in, text out. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_METRICS_H
#define ESPALIER_METRICS_H

#include <stddef.h>

#include "engine/record/recorder.h"
#include "engine/replicas.h"
#include "engine/serve/adapter_metrics.h"

/* Of one of several replicas. */
typedef struct metrics_replica {
    bool up;
    engine_stats stats;
} metrics_replica;

typedef struct metrics_input {
    const engine_stats *stats; /* of all */
    const metrics_replica *replicas;
    uint32_t replica_count; /* 0, 1: there is nothing to tell of each */
    int64_t now_us;         /* monotonic */
    uint32_t calls;         /* live gRPC calls */
    bool serving;
    const char *model, *profile, *version;
    const record_stats *records; /* NULL: nothing is recorded */
    adapter_group *adapters;     /* NULL: there are none */
    adapter_metrics *by_adapter; /* with them */
} metrics_input;

/* The page, malloc'd, NUL-terminated; *bytes without the NUL. */
char *metrics_page(const metrics_input *in, size_t *bytes);

/* Seconds since the step that is running began, else since the last one ended while requests wait
 * for a step; 0 when there is nothing to do. */
double metrics_step_age(const engine_stats *stats, int64_t now_us);

#endif
