/* pool.c - the thread pool: four numbers that only grow.
 *
 *   start     + 1 by pool_run: the job is set; the workers wait for it
 *   done      + 1 by each worker that has returned; pool_run waits for all of them
 *   arrived   + 1 by each worker at a barrier
 *   passed    + 1 by the last of them; the others wait for it
 *
 * One waits in three ways, one after the other. The ops of a forward pass follow each other within microseconds, so
 * first it watches the number. Then it watches between offers of its processor to whoever else could use it: a thread
 * that answers a client, or the very worker it waits for. After that it sleeps: waking up again costs as much as
 * several ops. Where threads outnumber processors watching only steals the time of the one that is waited for, so it
 * is offered at once.
 *
 * Other programs may have processors, too, and then both watching and offering can cost a hundred ops: a processor
 * that is watched on is none that the kernel would move the other worker to, and to who takes an offer and has enough
 * to do it gives whole time slices. So a worker sleeps the sooner the next time if what it waited for took long (pool_next_wait),
 * and an offer that took long is the last for a while. */
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
#include "engine/base/cpus.h"
#include "engine/base/futex.h"
#include "engine/base/least.h"
#include "engine/base/mem.h"
#include "engine/base/pool_wait.h"

enum {
    WATCH_NS = POOL_WAIT_NS_LEAST, /* before the first offer */
    OFFER_NS = 150000,             /* where threads outnumber processors, or offers are not made */
    LONG_OFFER_NS = 1000000,
    OFFER_PAUSE_NS = 100000000,
    LOOKS_PER_CLOCK = 16,
    MOVE_PAUSE_NS = 1000000,
    CACHE_LINE = 64,
};

/* On a line of its own: each move of the line between two cores takes about 0.1 us. */
typedef struct counter {
    _Alignas(CACHE_LINE) _Atomic uint32_t value;
    _Atomic uint32_t sleepers;
} counter;

typedef struct worker {
    _Alignas(CACHE_LINE) thread_pool *pool;
    uint32_t index;
    uint32_t barriers; /* it has come to, over all runs */
    pthread_t thread;
    int64_t wait_ns;   /* before it sleeps, the next time */
    int64_t offers_ns; /* it makes none before */
    int64_t moved_ns;  /* when it last left a shared processor */
} worker;

struct thread_pool {
    uint32_t thread_count;
    uint32_t started; /* threads that pool_close must join */
    bool crowded;     /* more threads than processors */
    cpu_map map;
    worker *workers;     /* [thread_count]; 0 is the caller and has no thread */
    _Atomic int *on_cpu; /* [thread_count] where each began its last job; -1: nowhere yet */
    counter start;
    /* The job, on the line behind the one that announces it. Written before start, read after. */
    pool_fn fn; /* NULL: go home */
    void *arg;
    uint32_t done_at; /* what done will be when all have returned */
    counter done;
    counter arrived;
    counter passed;
};

/* ---- waiting ---- */

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

static bool at_least(uint32_t value, uint32_t target) { return (int32_t)(value - target) >= 0; }

static bool reached(counter *c, uint32_t target) {
    return at_least(atomic_load_explicit(&c->value, memory_order_acquire), target);
}

/* Adds one; who makes it the target wakes the sleepers. Sequentially consistent on both sides: either
 * the waker sees the sleeper, or the sleeper sees the new value and does not sleep. */
static void advance(counter *c, uint32_t target) {
    uint32_t value = atomic_fetch_add(&c->value, 1) + 1;
    if (value == target && atomic_load(&c->sleepers) > 0) futex_wake_all(&c->value);
}

static bool watch(counter *c, uint32_t target, int64_t end_ns) {
    do {
        for (int i = 0; i < LOOKS_PER_CLOCK; i++) {
            if (reached(c, target)) return true;
            relax();
        }
    } while (clock_now_ns() < end_ns);
    return false;
}

/* To end_ns; while offers are not made for OFFER_NS at most, as nobody else comes to run meanwhile. */
static bool watch_and_offer(worker *w, counter *c, uint32_t target, int64_t begin_ns,
                            int64_t end_ns) {
    int64_t now = clock_now_ns();
    while (now < end_ns && now >= w->offers_ns) {
        if (reached(c, target)) return true;
        sched_yield();
        int64_t began = now;
        now = clock_now_ns();
        if (!w->pool->crowded && now - began > LONG_OFFER_NS) w->offers_ns = now + OFFER_PAUSE_NS;
    }
    if (end_ns > begin_ns + OFFER_NS) end_ns = begin_ns + OFFER_NS;
    return now < end_ns ? watch(c, target, end_ns) : reached(c, target);
}

static void sleep_until(counter *c, uint32_t target) {
    uint32_t value;
    atomic_fetch_add(&c->sleepers, 1);
    while (!at_least(value = atomic_load(&c->value), target))
        futex_wait(&c->value, value, -1);
    atomic_fetch_sub(&c->sleepers, 1);
}

static void await(worker *w, counter *c, uint32_t target) {
    if (reached(c, target)) return;
    const int64_t begin_ns = clock_now_ns();
    const int64_t end_ns = begin_ns + (w->pool->crowded ? OFFER_NS : w->wait_ns);
    if (!w->pool->crowded && watch(c, target, begin_ns + WATCH_NS)) return;
    if (!watch_and_offer(w, c, target, begin_ns, end_ns)) sleep_until(c, target);
    w->wait_ns = pool_next_wait(w->wait_ns, clock_now_ns() - begin_ns);
}

/* ---- processors ---- */

static bool shares_cpu(const worker *w, int cpu) {
    for (uint32_t i = 0; i < w->index; i++)
        if (atomic_load_explicit(&w->pool->on_cpu[i], memory_order_relaxed) == cpu) return true;
    return false;
}

/* Written only when it changes, so that everyone keeps a copy of the line. */
static void note_cpu(const thread_pool *pool, uint32_t index, int cpu) {
    _Atomic int *at = &pool->on_cpu[index];
    if (atomic_load_explicit(at, memory_order_relaxed) != cpu)
        atomic_store_explicit(at, cpu, memory_order_relaxed);
}

static void move_off(int cpu) {
    cpu_set_t allowed, others;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    others = allowed;
    CPU_CLR(cpu, &others);
    if (CPU_COUNT(&others) && sched_setaffinity(0, sizeof others, &others) == 0)
        (void)sched_setaffinity(0, sizeof allowed, &allowed);
}

/* The kernel likes to wake a thread on its waker's processor, and two threads of a pool that share
 * one while another is idle cost a decode step several times its length. Pinning each to one would
 * do, but on a machine with other work it makes a thread wait for a processor that is taken. So: a
 * worker that finds a lower-numbered one on its processor leaves it, and is free to go where it likes
 * afterwards. */
static void leave_shared_cpu(worker *w) {
    int cpu = sched_getcpu();
    if (cpu >= 0 && shares_cpu(w, cpu) && clock_now_ns() - w->moved_ns > MOVE_PAUSE_NS) {
        move_off(cpu);
        w->moved_ns = clock_now_ns();
        cpu = sched_getcpu();
    }
    note_cpu(w->pool, w->index, cpu);
}

/* Memory lies beside the processor that touches it first. Shares of work are contiguous and a worker's
 * are about the same in every op, so a worker that stays by its memory finds most of its weights there.
 * Where all memory is alike there is nothing to stay by. */
static void stay_by_memory(const thread_pool *pool, uint32_t index) {
    if (pool->map.nodes == 1 || pool->crowded) return;
    const cpu_set_t *node = &pool->map.node[cpus_node_of(&pool->map, index, pool->thread_count)];
    (void)sched_setaffinity(0, sizeof *node, node); /* refused: it runs where it may */
}

void pool_settle(thread_pool *pool) { stay_by_memory(pool, 0); }

/* ---- workers ---- */

static void *work(void *arg) {
    worker *w = arg;
    thread_pool *pool = w->pool;
    stay_by_memory(pool, w->index);
    /* pool_open makes no job, so the first is 1, however late a worker starts. */
    for (uint32_t run = 1;; run++) {
        await(w, &pool->start, run);
        if (!pool->fn) return NULL;
        uint32_t done_at = pool->done_at;
        if (!pool->crowded) leave_shared_cpu(w);
        pool->fn(pool->arg, w->index, pool->thread_count);
        advance(&pool->done, done_at);
    }
}

/* Signals are for the thread that runs the program, never for a worker. */
static int start_worker(thread_pool *pool, uint32_t index) {
    worker *w = &pool->workers[index];
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

static esp_code start_workers(thread_pool *pool, esp_error *err) {
    for (uint32_t i = 1; i < pool->thread_count; i++) {
        int failed = start_worker(pool, i);
        if (failed)
            return esp_fail_field(err, ESP_EXHAUSTED, "--threads",
                                  "thread %u of %u could not be started: %s; lower --threads",
                                  i + 1, pool->thread_count, strerror(failed));
    }
    return ESP_OK;
}

/* Whole lines, which malloc does not promise. */
static thread_pool *new_pool(uint32_t thread_count, const cpu_map *map) {
    thread_pool *pool = mem_map(sizeof *pool);
    worker *workers = mem_map(thread_count * sizeof *workers);
    if (!pool || !workers) {
        mem_unmap(pool, sizeof *pool);
        mem_unmap(workers, thread_count * sizeof *workers);
        return NULL;
    }
    pool->thread_count = thread_count;
    pool->map = *map;
    pool->crowded = thread_count > least(map->cpus, cgroup_cpus());
    pool->workers = workers;
    pool->on_cpu = mem_new(thread_count, sizeof *pool->on_cpu);
    for (uint32_t i = 0; i < thread_count; i++) {
        workers[i].pool = pool;
        workers[i].index = i;
        workers[i].wait_ns = POOL_WAIT_NS_MOST;
        atomic_init(&pool->on_cpu[i], -1);
    }
    return pool;
}

static uint32_t default_threads(const cpu_map *map) {
    return least(least(map->cores, cgroup_cpus()), POOL_THREADS_MAX);
}

uint32_t pool_default_threads(void) {
    cpu_map map;
    cpus_read_own(&map);
    return default_threads(&map);
}

esp_code pool_open(thread_pool **out, uint32_t thread_count, esp_error *err) {
    *out = NULL;
    cpu_map map;
    cpus_read_own(&map);
    if (thread_count == 0) thread_count = default_threads(&map);
    if (thread_count > POOL_THREADS_MAX)
        return esp_fail_field(err, ESP_INVALID, "--threads", "%u threads wanted, %u is the most",
                              thread_count, (unsigned)POOL_THREADS_MAX);
    thread_pool *pool = new_pool(thread_count, &map);
    if (!pool)
        return esp_fail_field(err, ESP_EXHAUSTED, "--threads",
                              "no memory for %u threads; lower --threads", thread_count);
    esp_code code = start_workers(pool, err);
    if (code == ESP_OK)
        *out = pool;
    else
        pool_close(pool);
    return code;
}

void pool_close(thread_pool *pool) {
    if (!pool) return;
    pool->fn = NULL;
    advance(&pool->start, atomic_load(&pool->start.value) + 1);
    for (uint32_t i = 1; i <= pool->started; i++)
        pthread_join(pool->workers[i].thread, NULL);
    free(pool->on_cpu);
    mem_unmap(pool->workers, pool->thread_count * sizeof *pool->workers);
    mem_unmap(pool, sizeof *pool);
}

uint32_t pool_threads(const thread_pool *pool) { return pool->thread_count; }

/* ---- a run ---- */

void pool_run(thread_pool *pool, pool_fn fn, void *arg) {
    ESP_ASSERT(fn);
    if (pool->thread_count == 1) {
        fn(arg, 0, 1);
        return;
    }
    ESP_ASSERT(atomic_load(&pool->done.value) == pool->done_at); /* not reentrant */
    if (!pool->crowded) note_cpu(pool, 0, sched_getcpu());
    uint32_t run = atomic_load_explicit(&pool->start.value, memory_order_relaxed) + 1;
    uint32_t done_at = pool->done_at + pool->thread_count - 1;
    pool->fn = fn;
    pool->arg = arg;
    pool->done_at = done_at;
    advance(&pool->start, run);
    fn(arg, 0, pool->thread_count);
    await(&pool->workers[0], &pool->done, done_at);
}

/* Every worker counts its barriers, and all come to the same ones. */
void pool_barrier(thread_pool *pool, uint32_t worker_index) {
    ESP_ASSERT(worker_index < pool->thread_count);
    if (pool->thread_count == 1) return;
    uint32_t barrier = ++pool->workers[worker_index].barriers;
    uint32_t arrived = atomic_fetch_add(&pool->arrived.value, 1) + 1;
    if (arrived == barrier * pool->thread_count)
        advance(&pool->passed, barrier);
    else
        await(&pool->workers[worker_index], &pool->passed, barrier);
}
