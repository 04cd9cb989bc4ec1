/* replicas_inner.h - the inside of replicas, shared by replicas.c (requests) and replicas_open.c; nobody else
 * includes it. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_REPLICAS_INNER_H
#define ESPALIER_REPLICAS_INNER_H

#include <sched.h>

#include "engine/replicas.h"

/* One of them. */
typedef struct replica {
    engine *e;
    cpu_set_t cpus; /* where its threads stay; empty: anywhere */
    _Atomic bool stuck;
} replica;

struct replicas {
    replica of[REPLICAS_MAX]; /* [count] */
    uint32_t count;
    uint32_t *gpus; /* [count][tp] the device of each rank; NULL: none were chosen */
    adapter_group *adapters;
    signal_word news;
    _Atomic uint32_t turn;
};

/* replicas.c: once all engines are open. */
void replicas_join(replicas *all);

#endif
