/* bench_pool.c - what the thread pool costs when the work is nothing; one JSON row each.
 *
 *   bench_pool [THREADS] [CROWD]
 *
 *   run       pool_run of an empty function, one after the other
 *   run_after the same behind 5 us of the caller's own work, as an op's serial part is
 *   barrier   pool_barrier inside one run
 *   wake      pool_run after 2 ms of nothing: the workers sleep
 *   step      210 runs of 5 us of work for each worker, as a decode step has ops; per run
 *
 *   crowd     CROWD threads more, each busy for 100 us of every millisecond, as threads that answer
 *             clients are: how late they got a processor, over all of the above
 *   beside    step, while one thread more is always busy, as another program may be; the crowd has gone
 *   after     step again
 *
 * ns of one, over all of them: least, median, 99th percentile. */
// SPDX-License-Identifier: Apache-2.0
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "engine/base/clock.h"
#include "engine/base/pool.h"

enum { SAMPLES = 100000, WAKES = 200, STEPS = 200, STEP_RUNS = 210 };
enum { CROWD_MAX = 64, GUEST_SAMPLES = 2000 };
enum { WORK_NS = 5000, CROWD_BUSY_NS = 100000, CROWD_IDLE_NS = 900000, NAP_NS = 2000000 };

typedef struct bench bench;
typedef struct guest {
    bench *b;
    pthread_t thread;
    uint32_t count;
    int64_t late_ns[GUEST_SAMPLES];
} guest;

struct bench {
    thread_pool *pool;
    guest *guests; /* [CROWD_MAX] */
    uint32_t crowd;
    _Atomic bool over;
    int64_t ns[SAMPLES];
};

static void keep_busy(int64_t ns) {
    int64_t end = clock_now_ns() + ns;
    while (clock_now_ns() < end) {
    }
}

static void nothing(void *arg, uint32_t worker, uint32_t workers) {
    (void)arg, (void)worker, (void)workers;
}

static void some_work(void *arg, uint32_t worker, uint32_t workers) {
    (void)arg, (void)worker, (void)workers;
    keep_busy(WORK_NS);
}

static void pass_barriers(void *arg, uint32_t worker, uint32_t workers) {
    bench *b = arg;
    (void)workers;
    for (uint32_t i = 0; i < SAMPLES; i++) {
        int64_t began = worker == 0 ? clock_now_ns() : 0;
        pool_barrier(b->pool, worker);
        if (worker == 0) b->ns[i] = clock_now_ns() - began;
    }
}

static void time_runs(bench *b, uint32_t count, int64_t before_ns, bool sleeps, pool_fn fn) {
    const struct timespec pause = {.tv_nsec = before_ns};
    for (uint32_t i = 0; i < count; i++) {
        if (sleeps)
            nanosleep(&pause, NULL);
        else if (before_ns)
            keep_busy(before_ns);
        int64_t began = clock_now_ns();
        pool_run(b->pool, fn, NULL);
        b->ns[i] = clock_now_ns() - began;
    }
}

static void time_steps(bench *b) {
    for (uint32_t step = 0; step < STEPS; step++) {
        int64_t began = clock_now_ns();
        for (uint32_t i = 0; i < STEP_RUNS; i++)
            pool_run(b->pool, some_work, NULL);
        b->ns[step] = (clock_now_ns() - began) / STEP_RUNS;
        keep_busy(20 * WORK_NS);
    }
}

static int by_value(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void print_row(bench *b, const char *what, uint32_t count) {
    qsort(b->ns, count, sizeof *b->ns, by_value);
    printf("{\"bench\":\"pool\",\"op\":\"%s\",\"threads\":%u,\"crowd\":%u,\"least_ns\":%lld,"
           "\"median_ns\":%lld,\"p99_ns\":%lld}\n",
           what, pool_threads(b->pool), b->crowd, (long long)b->ns[0], (long long)b->ns[count / 2],
           (long long)b->ns[count - 1 - count / 100]);
    fflush(stdout);
}

static void *one_of_the_crowd(void *arg) {
    guest *g = arg;
    const struct timespec idle = {.tv_nsec = CROWD_IDLE_NS};
    while (!atomic_load(&g->b->over)) {
        keep_busy(CROWD_BUSY_NS);
        int64_t due = clock_now_ns() + CROWD_IDLE_NS;
        nanosleep(&idle, NULL);
        if (g->count < GUEST_SAMPLES) g->late_ns[g->count++] = clock_now_ns() - due;
    }
    return NULL;
}

static void invite(bench *b, uint32_t wanted) {
    b->guests = calloc(CROWD_MAX, sizeof *b->guests);
    for (; b->guests && b->crowd < wanted && b->crowd < CROWD_MAX; b->crowd++) {
        guest *g = &b->guests[b->crowd];
        g->b = b;
        if (pthread_create(&g->thread, NULL, one_of_the_crowd, g) != 0) return;
    }
}

static void dismiss(bench *b) {
    uint32_t count = 0;
    atomic_store(&b->over, true);
    for (uint32_t i = 0; i < b->crowd; i++) {
        guest *g = &b->guests[i];
        pthread_join(g->thread, NULL);
        for (uint32_t k = 0; k < g->count && count < SAMPLES; k++)
            b->ns[count++] = g->late_ns[k];
    }
    if (count) print_row(b, "crowd", count);
    free(b->guests);
    b->guests = NULL;
    b->crowd = 0;
}

static void measure(bench *b) {
    time_runs(b, SAMPLES, 0, false, nothing);
    print_row(b, "run", SAMPLES);
    time_runs(b, SAMPLES / 10, WORK_NS, false, nothing);
    print_row(b, "run_after", SAMPLES / 10);
    pool_run(b->pool, pass_barriers, b);
    print_row(b, "barrier", SAMPLES);
    time_runs(b, WAKES, NAP_NS, true, nothing);
    print_row(b, "wake", WAKES);
    time_steps(b);
    print_row(b, "step", STEPS);
}

static void *never_rest(void *arg) {
    _Atomic bool *over = arg;
    while (!atomic_load(over)) {
    }
    return NULL;
}

static void measure_beside(bench *b) {
    _Atomic bool over = false;
    pthread_t busy;
    if (pthread_create(&busy, NULL, never_rest, &over) != 0) return;
    time_steps(b);
    atomic_store(&over, true);
    pthread_join(busy, NULL);
    print_row(b, "beside", STEPS);
    time_steps(b);
    print_row(b, "after", STEPS);
}

int main(int argc, char **argv) {
    static bench b;
    if (pool_open(&b.pool, argc > 1 ? (uint32_t)atoi(argv[1]) : 0, NULL) != ESP_OK) return 1;
    invite(&b, argc > 2 ? (uint32_t)atoi(argv[2]) : 0);
    measure(&b);
    dismiss(&b);
    measure_beside(&b);
    pool_close(b.pool);
    return 0;
}
