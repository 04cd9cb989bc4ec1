/* pack_keeper.h - writes a pack, at once or behind the back of a model that serves already.
 *
 * Gigabytes that are written at full speed take memory bandwidth and the disk from the requests of
 * the first seconds. So the thread is as nice as can be, and writes 256 MB a second: of what a machine
 * can copy, a hundredth. (Not the scheduler's idle class: on a machine that is never idle it would
 * never end.) */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_PACK_KEEPER_H
#define ESPALIER_MODEL_PACK_KEEPER_H

#include "engine/model/cache/pack_cache.h"

enum { PACK_PLACES = 2 };

typedef struct pack_keeper pack_keeper;

typedef struct pack_keeper_options {
    const pack_cache_options *cache; /* outlives the keeper */
    char (*paths)[PATH_MAX];         /* [PACK_PLACES], the first that can be written; "": none */
    const pack_item *items;          /* [count], copied; their bytes stay */
    uint32_t count;
    bool behind;
} pack_keeper_options;

/* Begins, and ends unless behind. */
pack_keeper *pack_keeper_open(const pack_keeper_options *options);
/* Gives up what is not finished. NULL is fine. */
void pack_keeper_close(pack_keeper *keeper);

#endif
