/* pool.h - worker threads that run one function together, with a barrier at its end.
 *
 * The caller is worker 0. Who waits watches for some microseconds, then lets others run in between, then sleeps on a
 * futex; for how long depends on what came of it before. Nothing is allocated after pool_open. One owner thread calls
 * pool_run; it is not reentrant. Inside fn every worker must come to the same barriers. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_BASE_POOL_H
#define ESPALIER_BASE_POOL_H

#include <stdint.h>

#include "engine/base/status.h"

enum { POOL_THREADS_MAX = 256 };

typedef struct thread_pool thread_pool;
typedef void (*pool_fn)(void *arg, uint32_t worker, uint32_t worker_count);

/* thread_count 0: pool_default_threads, one for each core that this process may use (its affinity, the cgroup's
 * quota).
 * Workers go to any processor; on a machine with several memory nodes each stays within one. */
uint32_t pool_default_threads(void);
ESP_CHECKED esp_code pool_open(thread_pool **out, uint32_t thread_count, esp_error *err);
void pool_close(thread_pool *pool);
uint32_t pool_threads(const thread_pool *pool);

/* For a thread of its own that calls pool_run from now on: it stays within worker 0's memory node. */
void pool_settle(thread_pool *pool);

/* Runs fn on every worker and returns when all have returned. */
void pool_run(thread_pool *pool, pool_fn fn, void *arg);

/* From inside fn: returns when every worker has come here. */
void pool_barrier(thread_pool *pool, uint32_t worker);

/* [begin, end) of count items for one worker: contiguous, in units of `unit` items. */
static inline void pool_share(uint32_t count, uint32_t unit, uint32_t worker, uint32_t workers,
                              uint32_t *begin, uint32_t *end) {
    uint64_t units = ((uint64_t)count + unit - 1) / unit;
    uint64_t b = units * worker / workers * unit, e = units * (worker + 1) / workers * unit;
    *begin = (uint32_t)(b < count ? b : count);
    *end = (uint32_t)(e < count ? e : count);
}

#endif
