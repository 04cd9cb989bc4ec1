/* replica_choice.c - the least of all costs, looked for from another replica each time. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/replica_choice.h"

static uint64_t cost_of(const replica_view *v) {
    static const uint32_t to_bring[] = {0, REPLICA_HOST_COST, REPLICA_DISK_COST};
    return (uint64_t)v->live + to_bring[v->adapter];
}

uint32_t replica_choose(const replica_view *views, uint32_t count, uint32_t turn) {
    uint32_t best = REPLICA_NONE;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t at = (uint32_t)(((uint64_t)turn + i) % count);
        if (views[at].out) continue;
        if (best == REPLICA_NONE || cost_of(&views[at]) < cost_of(&views[best])) best = at;
    }
    return best;
}
