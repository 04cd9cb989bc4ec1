/* test_pool.c - workers that run one function together. */
// SPDX-License-Identifier: Apache-2.0
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "engine/base/pool.h"
#include "engine/base/pool_wait.h"

enum { ROUNDS = 300, BARRIERS = 5, MOST = 9 };

typedef struct job {
    thread_pool *pool;
    uint32_t phase[MOST]; /* plain memory: a missing barrier is a race that TSan reports */
    uint32_t late[MOST];  /* workers that were seen behind a barrier already passed */
} job;

static void step_through_barriers(void *arg, uint32_t worker, uint32_t workers) {
    job *j = arg;
    for (uint32_t b = 0; b < BARRIERS; b++) {
        j->phase[worker]++;
        pool_barrier(j->pool, worker);
        for (uint32_t other = 0; other < workers; other++)
            j->late[worker] += j->phase[other] != j->phase[worker];
        pool_barrier(j->pool, worker);
    }
}

/* One worker, as many as processors, and far more than processors (they give way at once). */
static void every_worker_runs_and_no_one_passes_a_barrier_early(void **state) {
    (void)state;
    for (uint32_t threads = 1; threads <= MOST; threads++) {
        job j = {0};
        assert_int_equal(pool_open(&j.pool, threads, NULL), ESP_OK);
        assert_int_equal(pool_threads(j.pool), threads);
        for (uint32_t round = 0; round < ROUNDS; round++)
            pool_run(j.pool, step_through_barriers, &j);
        for (uint32_t w = 0; w < threads; w++) {
            assert_int_equal(j.phase[w], ROUNDS * BARRIERS);
            assert_int_equal(j.late[w], 0);
        }
        pool_close(j.pool);
    }
}

static void one_barrier(void *arg, uint32_t worker, uint32_t workers) {
    job *j = arg;
    if (worker + 1 == workers) nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    j->phase[worker]++;
    pool_barrier(j->pool, worker);
    for (uint32_t other = 0; other < workers; other++)
        j->late[worker] += j->phase[other] != j->phase[worker];
}

/* The last worker comes so late that the others, the caller too, have gone to sleep. */
static void a_late_worker_finds_the_others_asleep(void **state) {
    (void)state;
    for (uint32_t threads = 2; threads <= 7; threads++) {
        job j = {0};
        assert_int_equal(pool_open(&j.pool, threads, NULL), ESP_OK);
        for (uint32_t round = 0; round < 5; round++)
            pool_run(j.pool, one_barrier, &j);
        for (uint32_t w = 0; w < threads; w++) {
            assert_int_equal(j.phase[w], 5);
            assert_int_equal(j.late[w], 0);
        }
        pool_close(j.pool);
    }
}

static void count_calls(void *arg, uint32_t worker, uint32_t workers) {
    (void)workers;
    ((uint32_t *)arg)[worker]++;
}

typedef struct pair {
    thread_pool *pool;
    uint32_t calls[4];
} pair;

static void *run_settled(void *arg) {
    pair *p = arg;
    pool_settle(p->pool);
    for (uint32_t i = 0; i < ROUNDS; i++)
        pool_run(p->pool, count_calls, p->calls);
    return NULL;
}

/* The thread that opens a pool loads a model with it; another one then takes it over. Two such pools
 * at once are more threads than most test machines have processors. */
static void pools_are_taken_over_by_threads_of_their_own(void **state) {
    (void)state;
    pair pairs[2] = {{0}};
    pthread_t owners[2];
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pool_open(&pairs[i].pool, 4, NULL), ESP_OK);
        pool_run(pairs[i].pool, count_calls, pairs[i].calls);
        assert_int_equal(pthread_create(&owners[i], NULL, run_settled, &pairs[i]), 0);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(owners[i], NULL);
        for (int w = 0; w < 4; w++)
            assert_int_equal(pairs[i].calls[w], ROUNDS + 1);
        pool_close(pairs[i].pool);
    }
}

/* Pauses longer than any spinning, so that the workers sleep and must be woken. */
static void workers_that_fell_asleep_are_woken(void **state) {
    (void)state;
    thread_pool *pool;
    uint32_t calls[3] = {0};
    assert_int_equal(pool_open(&pool, 3, NULL), ESP_OK);
    for (int i = 0; i < 20; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        pool_run(pool, count_calls, calls);
    }
    assert_int_equal(calls[0] + calls[1] + calls[2], 60);
    assert_int_equal(calls[0], 20);
    pool_close(pool);
}

static void a_pool_that_never_ran_closes(void **state) {
    (void)state;
    thread_pool *pool;
    assert_int_equal(pool_open(&pool, 0, NULL), ESP_OK);
    assert_true(pool_threads(pool) >= 1);
    pool_close(pool);
    pool_close(NULL);
}

static void too_many_threads_are_refused_by_flag(void **state) {
    (void)state;
    thread_pool *pool;
    esp_error err;
    assert_int_equal(pool_open(&pool, POOL_THREADS_MAX + 1, &err), ESP_INVALID);
    assert_string_equal(err.field, "--threads");
    assert_null(pool);
}

/* Any count, any unit: shares are contiguous, start on units, and cover everything once. */
static void shares_cover_everything_once(void **state) {
    (void)state;
    for (uint32_t count = 0; count < 70; count++)
        for (uint32_t unit = 1; unit <= 16; unit *= 4)
            for (uint32_t workers = 1; workers <= 7; workers++) {
                uint32_t next = 0, begin, end;
                for (uint32_t w = 0; w < workers; w++) {
                    pool_share(count, unit, w, workers, &begin, &end);
                    assert_int_equal(begin, next);
                    assert_true(end >= begin && (begin % unit == 0 || begin == count));
                    next = end;
                }
                assert_int_equal(next, count);
            }
}

/* A burst of other programs shortens the waits; waking up late, and no more than that, lengthens them again. */
static void waits_grow_when_sleeping_was_not_worth_it(void **state) {
    (void)state;
    int64_t wait = POOL_WAIT_NS_MOST;
    for (int i = 0; i < 5; i++)
        wait = pool_next_wait(wait, 3000000);
    assert_int_equal(wait, POOL_WAIT_NS_LEAST);
    assert_int_equal(pool_next_wait(wait, 3000000), POOL_WAIT_NS_LEAST);
    for (int i = 0; i < 5; i++) /* it slept, and was woken after 70 us */
        wait = pool_next_wait(wait, 70000);
    assert_int_equal(wait, POOL_WAIT_NS_MOST);
    assert_int_equal(pool_next_wait(wait, POOL_WAIT_NS_MOST), POOL_WAIT_NS_MOST);
    assert_true(pool_next_wait(wait, POOL_WAIT_NS_MOST + 1) < wait);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(waits_grow_when_sleeping_was_not_worth_it),
        cmocka_unit_test(every_worker_runs_and_no_one_passes_a_barrier_early),
        cmocka_unit_test(a_late_worker_finds_the_others_asleep),
        cmocka_unit_test(pools_are_taken_over_by_threads_of_their_own),
        cmocka_unit_test(workers_that_fell_asleep_are_woken),
        cmocka_unit_test(a_pool_that_never_ran_closes),
        cmocka_unit_test(too_many_threads_are_refused_by_flag),
        cmocka_unit_test(shares_cover_everything_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
