/* pool.c - the thread pool: three signals and two counters.
 *
 *   start    pool_run -> workers   a new job is set
 *   done     last worker -> owner  all have returned
 *   passed   last to arrive -> the others at a barrier
 *
 * A waiter spins first, because the steps of a forward pass follow each other within microseconds,
 * and then sleeps. Where threads outnumber processors spinning only steals the time of the one that
 * is waited for, so it is left out. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/base/pool.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/cgroup.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/queue.h"

enum { SPIN_NS = 40000, SPINS_PER_LOOK = 16, CACHE_LINE = 64, MOVE_PAUSE_NS = 1000000 };

typedef struct worker {
    thread_pool *pool;
    uint32_t index;
    pthread_t thread;
    int64_t moved_ns;   /* when it last left a shared processor */
    _Atomic int on_cpu; /* where it began its last job; -1: nowhere yet */
} worker;

struct thread_pool {
    uint32_t thread_count;
    uint32_t started; /* threads that pool_close must join */
    int64_t spin_ns;
    pool_fn fn; /* the job; NULL: go home. Written before start, read after it */
    void *arg;
    worker *workers; /* [thread_count]; 0 is the caller and has no thread */
    char pad_start[CACHE_LINE];
    signal_word start;
    char pad_done[CACHE_LINE];
    _Atomic uint32_t running; /* workers still inside fn, the caller not counted */
    signal_word done;
    char pad_barrier[CACHE_LINE];
    _Atomic uint32_t arrived;
    signal_word passed;
    char pad_end[CACHE_LINE];
};

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

static bool spin(signal_word *s, uint32_t seen, int64_t spin_ns) {
    if (spin_ns == 0) return signal_seen(s) != seen;
    int64_t end_ns = clock_now_ns() + spin_ns;
    do {
        for (int i = 0; i < SPINS_PER_LOOK; i++) {
            if (signal_seen(s) != seen) return true;
            relax();
        }
    } while (clock_now_ns() < end_ns);
    return false;
}

static void await(const thread_pool *pool, signal_word *s, uint32_t seen) {
    if (!spin(s, seen, pool->spin_ns)) signal_wait(s, seen, -1);
}

/* The kernel likes to wake a thread on its waker's processor, and two threads of a pool that share one while
 * another is idle cost a decode step several times its length. Pinning would do, but on a machine with other
 * work it makes a thread wait for a processor that is taken. So: a worker that finds a lower-numbered one on
 * its processor leaves it, and is free to go where it likes afterwards. */
static void leave_shared_cpu(worker *w) {
    thread_pool *pool = w->pool;
    int cpu = sched_getcpu();
    bool shared = false;
    for (uint32_t i = 0; i < w->index && !shared; i++)
        shared = atomic_load_explicit(&pool->workers[i].on_cpu, memory_order_relaxed) == cpu;
    if (shared && cpu >= 0 && clock_now_ns() - w->moved_ns > MOVE_PAUSE_NS) {
        cpu_set_t allowed, others;
        if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
            others = allowed;
            CPU_CLR(cpu, &others);
            if (CPU_COUNT(&others) && sched_setaffinity(0, sizeof others, &others) == 0)
                (void)sched_setaffinity(0, sizeof allowed, &allowed);
        }
        w->moved_ns = clock_now_ns();
        cpu = sched_getcpu();
    }
    atomic_store_explicit(&w->on_cpu, cpu, memory_order_relaxed);
}

static void *work(void *arg) {
    worker *w = arg;
    thread_pool *pool = w->pool;
    /* pool_open makes no job, so 0 is what every worker has seen, however late it starts. */
    for (uint32_t seen = 0;; seen++) {
        await(pool, &pool->start, seen);
        if (!pool->fn) return NULL;
        if (pool->spin_ns) leave_shared_cpu(w);
        pool->fn(pool->arg, w->index, pool->thread_count);
        if (atomic_fetch_sub(&pool->running, 1) == 1) signal_wake(&pool->done);
    }
}

static uint32_t usable_cpus(void) {
    cpu_set_t set;
    int count = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    uint32_t quota = cgroup_cpus(), cpus = count > 0 ? (uint32_t)count : 1;
    return quota < cpus ? quota : cpus;
}

/* Signals are for the thread that runs the program, never for a worker. */
static int start_worker(thread_pool *pool, uint32_t index) {
    worker *w = &pool->workers[index];
    w->pool = pool;
    w->index = index;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&w->thread, NULL, work, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) return failed;
    char name[16];
    snprintf(name, sizeof name, "esp-worker-%u", (unsigned)(index & 0xffu));
    pthread_setname_np(w->thread, name);
    pool->started++;
    return 0;
}

esp_code pool_open(thread_pool **out, uint32_t thread_count, esp_error *err) {
    *out = NULL;
    uint32_t cpus = usable_cpus();
    if (thread_count == 0) thread_count = cpus < POOL_THREADS_MAX ? cpus : POOL_THREADS_MAX;
    if (thread_count > POOL_THREADS_MAX)
        return esp_fail_field(err, ESP_INVALID, "--threads", "%u threads wanted, %u is the most",
                              thread_count, (unsigned)POOL_THREADS_MAX);
    thread_pool *pool = mem_new(1, sizeof *pool);
    pool->thread_count = thread_count;
    pool->spin_ns = thread_count <= cpus ? SPIN_NS : 0;
    pool->workers = mem_new(thread_count, sizeof *pool->workers);
    for (uint32_t i = 0; i < thread_count; i++)
        atomic_init(&pool->workers[i].on_cpu, -1);
    for (uint32_t i = 1; i < thread_count; i++) {
        int failed = start_worker(pool, i);
        if (!failed) continue;
        pool_close(pool);
        return esp_fail_field(err, ESP_EXHAUSTED, "--threads",
                              "thread %u of %u could not be started: %s; lower --threads", i + 1,
                              thread_count, strerror(failed));
    }
    *out = pool;
    return ESP_OK;
}

void pool_close(thread_pool *pool) {
    if (!pool) return;
    pool->fn = NULL;
    signal_wake(&pool->start);
    for (uint32_t i = 1; i <= pool->started; i++)
        pthread_join(pool->workers[i].thread, NULL);
    free(pool->workers);
    free(pool);
}

uint32_t pool_threads(const thread_pool *pool) { return pool->thread_count; }

void pool_run(thread_pool *pool, pool_fn fn, void *arg) {
    ESP_ASSERT(fn);
    if (pool->thread_count == 1) {
        fn(arg, 0, 1);
        return;
    }
    ESP_ASSERT(atomic_load(&pool->running) == 0); /* not reentrant */
    pool->fn = fn;
    pool->arg = arg;
    atomic_store(&pool->running, pool->thread_count - 1);
    uint32_t seen = signal_seen(&pool->done);
    if (pool->spin_ns)
        atomic_store_explicit(&pool->workers[0].on_cpu, sched_getcpu(), memory_order_relaxed);
    signal_wake(&pool->start);
    fn(arg, 0, pool->thread_count);
    await(pool, &pool->done, seen);
}

void pool_barrier(thread_pool *pool, uint32_t worker_index) {
    ESP_ASSERT(worker_index < pool->thread_count);
    if (pool->thread_count == 1) return;
    uint32_t seen = signal_seen(&pool->passed);
    if (atomic_fetch_add(&pool->arrived, 1) + 1 < pool->thread_count) {
        await(pool, &pool->passed, seen);
        return;
    }
    atomic_store(&pool->arrived, 0); /* before the others can come to the next one */
    signal_wake(&pool->passed);
}
