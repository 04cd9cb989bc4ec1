/* adapter_metrics.h - what each adapter was asked for and how it did, for a bounded number of series.
 *
 * The ADAPTER_METRICS_SHOWN names with most traffic (tokens of prompt and answer, halved every ten
 * minutes) have series of their own; all others are counted as "other". A name takes another's place only
 * when it has twice its traffic, so that series do not come and go; its series then begin at 0, and what
 * it had before stays in "other": no counter ever falls. The versions of a name are one.
 *
 * Counted once for each request, when it has ended: nothing in a step.
 *
 * Thread   any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_ADAPTER_METRICS_H
#define ESPALIER_ADAPTER_METRICS_H

#include <stdio.h>

#include "engine/adapters/adapters.h"
#include "engine/request.h"

typedef struct adapter_metrics adapter_metrics;

enum {
    ADAPTER_METRICS_SHOWN = 32,
    ADAPTER_METRICS_TRACKED = 4096, /* names whose traffic is known, to find those with most */
};

adapter_metrics *adapter_metrics_open(void);
void adapter_metrics_close(adapter_metrics *m); /* NULL is fine */

/* A request that is done; of the base: nothing. */
void adapter_metrics_count(adapter_metrics *m, const request *r, int64_t now_us);

/* The series; infos and stats are those of adapters.h at this moment. */
void adapter_metrics_write(adapter_metrics *m, FILE *out, const adapter_info *infos, size_t count,
                           const adapters_stats *stats);

#endif
