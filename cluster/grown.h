/* grown.h - memory of a comm for messages on their way, which only grows. All-zero at first; ended by free(at). */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CLUSTER_GROWN_H
#define ESPALIER_CLUSTER_GROWN_H

#include "engine/base/mem.h"

typedef struct grown {
    char *at;
    size_t room;
} grown;

/* Room for so many bytes, of which nothing is kept; never NULL. */
static inline char *grown_take(grown *g, size_t bytes) {
    if (!g->at || g->room < bytes) {
        g->at = mem_resize(g->at, bytes + 1, 1);
        g->room = bytes;
    }
    return g->at;
}

#endif
