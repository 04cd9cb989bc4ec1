/* pool_wait.h - how long a thread of the pool waits awake before it sleeps. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_BASE_POOL_WAIT_H
#define ESPALIER_BASE_POOL_WAIT_H

#include <stdint.h>

enum { POOL_WAIT_NS_LEAST = 20000, POOL_WAIT_NS_MOST = 500000 };

/* The next time, after one of wait_ns in which what was waited for came after came_ns, the thread asleep by then or not.
 * Longer if not sleeping at all would have been short; else less. What a step's last token takes to choose is the most. */
static inline int64_t pool_next_wait(int64_t wait_ns, int64_t came_ns) {
    wait_ns = came_ns <= POOL_WAIT_NS_MOST ? wait_ns * 2 : wait_ns / 4;
    if (wait_ns < POOL_WAIT_NS_LEAST) return POOL_WAIT_NS_LEAST;
    return wait_ns > POOL_WAIT_NS_MOST ? POOL_WAIT_NS_MOST : wait_ns;
}

#endif
