/* residency.h - which of those in a tier goes first: GreedyDual-Size-Frequency (Cherkasova, "Improving
 * WWW proxies performance with GreedyDual-Size-Frequency caching policy", 1998).
 *
 *   value = level at its last use + uses since it came * what bringing it back costs / its bytes
 *
 * The least value goes, and the level rises to it: so what is not used is overtaken in time, however
 * often it was used before; among the equally used, small ones and those that are dear to bring stay.
 *
 * Pure; one owner. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_RESIDENCY_H
#define ESPALIER_RESIDENCY_H

#include <stdint.h>

typedef struct residency_level {
    double at;
} residency_level;

typedef struct residency_use {
    double value;
    uint32_t uses; /* since it came into the tier */
} residency_use;

/* What a move into a tier costs, in microseconds: a start, and so many bytes in each. */
typedef struct residency_cost {
    double start_us, bytes_per_us;
} residency_cost;

static const residency_cost RESIDENCY_FROM_DISK = {2000, 200};
static const residency_cost RESIDENCY_FROM_HOST = {100, 4000};

enum { RESIDENCY_USES_MAX = 1000 };

static inline void residency_note(const residency_level *level, residency_use *use,
                                  residency_cost cost, uint64_t bytes) {
    if (use->uses < RESIDENCY_USES_MAX) use->uses++;
    double size = bytes ? (double)bytes : 1;
    use->value = level->at + use->uses * (cost.start_us + size / cost.bytes_per_us) / size;
}

/* It leaves the tier. */
static inline void residency_leave(residency_level *level, residency_use *use) {
    if (use->value > level->at) level->at = use->value;
    *use = (residency_use){0};
}

#endif
