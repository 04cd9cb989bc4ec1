/* lora_fetch.h - what updates will be wanted of memory soon, fetched some lines at a time while something else is
 * computed: into the second cache, whose lines wait there for a linear's time. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_LORA_FETCH_H
#define ESPALIER_LORA_FETCH_H

#include "engine/base/least.h"
#include "kernels/cpu/cpu.h"
#include "kernels/lora_run.h"

enum {
    LORA_FETCH_RUNS = 128,
    LORA_AHEAD_LINES = 4096, /* of A for the next op: a part of that cache */
};

typedef struct lora_fetch {
    uint32_t count, which, per_step; /* runs; the run that comes next; lines of a step */
    struct {
        const char *at;
        uint32_t lines;
    } run[LORA_FETCH_RUNS];
} lora_fetch;

static inline void lora_fetch_clear(lora_fetch *fetch) {
    fetch->count = fetch->which = fetch->per_step = 0;
}

/* Until lora_fetch_within, per_step is the sum of all lines. Runs that there is no room for are left out. */
static inline void lora_fetch_add(lora_fetch *fetch, const char *at, uint32_t bytes) {
    uint32_t lines = (bytes + CACHE_LINE_BYTES - 1) / CACHE_LINE_BYTES;
    if (fetch->count == LORA_FETCH_RUNS) return;
    fetch->per_step += lines;
    fetch->run[fetch->count].at = at;
    fetch->run[fetch->count++].lines = lines;
}

/* Units first .. first + count of a run. */
static inline void lora_fetch_units(lora_fetch *fetch, const lora_run *run, void *const *pieces,
                                    uint32_t first, uint32_t count) {
    for (uint32_t unit = first, together; unit < first + count; unit += together) {
        const char *at = lora_unit(run, pieces, unit, &together);
        together = least(together, first + count - unit);
        lora_fetch_add(fetch, at, together * run->unit_bytes);
    }
}

/* All of it in so many steps, at least one. */
static inline void lora_fetch_within(lora_fetch *fetch, uint32_t steps) {
    fetch->per_step = (fetch->per_step + steps - 1) / steps;
}

static inline void lora_fetch_step(lora_fetch *fetch) {
    for (uint32_t i = 0; i < fetch->per_step; i++) {
        if (fetch->which == fetch->count) return;
        __builtin_prefetch(fetch->run[fetch->which].at, 0, 2);
        fetch->run[fetch->which].at += CACHE_LINE_BYTES;
        if (--fetch->run[fetch->which].lines == 0) fetch->which++;
    }
}

#endif
