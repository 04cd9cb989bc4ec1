/* replica_choice.h - which replica a request goes to, as pure numbers.
 *
 * The one with the fewest requests, where an adapter that has to be brought first counts as some requests more: as
 * many as a step would rather wait behind than for a copy of it. So the requests of an adapter stay together while
 * that leaves nobody waiting, and spread as soon as it does. Among equals turns are taken. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_REPLICA_CHOICE_H
#define ESPALIER_REPLICA_CHOICE_H

#include <stdbool.h>
#include <stdint.h>

enum {
    REPLICAS_MAX = 64,
    REPLICA_HOST_COST = 4,  /* requests; the adapter is in memory, not on the device */
    REPLICA_DISK_COST = 16, /* ...; it is only in its files */
    REPLICA_NONE = UINT32_MAX,
};

typedef enum replica_adapter {
    REPLICA_ADAPTER_HERE, /* on the device, or none is asked for */
    REPLICA_ADAPTER_HOST,
    REPLICA_ADAPTER_DISK,
} replica_adapter;

typedef struct replica_view {
    bool out;      /* it takes none: broken, stuck, or it refused this one */
    uint32_t live; /* requests submitted and not ended */
    replica_adapter adapter;
} replica_view;

/* REPLICA_NONE when all are out. turn: a number that grows by 1 with each request. */
uint32_t replica_choose(const replica_view *views, uint32_t count, uint32_t turn);

#endif
