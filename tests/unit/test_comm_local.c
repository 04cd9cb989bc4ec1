/* test_comm_local.c - collectives between threads. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <pthread.h>
#include <time.h>

#include <cmocka.h>

#include "cluster/comm_local.h"
#include "tests/unit/comm_cases.h"
#include "tests/unit/comm_patience.h"

enum { MOST = 5 };

/* One rank's thread. Plain results: a missing meeting is a race that TSan reports. */
typedef struct rank_thread {
    comm *comm;
    uint32_t wrong;
    esp_code code;
    esp_error err;
} rank_thread;

static void run_ranks(rank_thread *ranks, uint32_t size, void *(*fn)(void *)) {
    comm *comms[COMM_RANKS_MAX];
    pthread_t threads[MOST];
    comm_local_open(comms, size);
    for (uint32_t i = 0; i < size; i++) {
        ranks[i] = (rank_thread){.comm = comms[i]};
        comms[i]->patience_us = HANG_US;
        assert_int_equal(pthread_create(&threads[i], NULL, fn, &ranks[i]), 0);
    }
    for (uint32_t i = 0; i < size; i++)
        pthread_join(threads[i], NULL);
    for (uint32_t i = 0; i < size; i++)
        comm_close(comms[i]);
}

static void *run_cases(void *arg) {
    rank_thread *r = arg;
    r->wrong = case_run(r->comm);
    return NULL;
}

static void every_rank_gets_what_the_others_sent_and_sums_have_one_order(void **state) {
    (void)state;
    for (uint32_t size = 1; size <= MOST; size++) {
        rank_thread ranks[MOST];
        run_ranks(ranks, size, run_cases);
        for (uint32_t i = 0; i < size; i++)
            assert_int_equal(ranks[i].wrong, 0);
    }
}

static pthread_barrier_t others_are_here; /* so that only the last one is late */
static int64_t patience_us;               /* with it */

/* The last one never comes. */
static void *leave_the_last_out(void *arg) {
    rank_thread *r = arg;
    uint32_t word = r->comm->rank, all[MOST];
    if (word + 1 == r->comm->size) return NULL;
    pthread_barrier_wait(&others_are_here);
    r->comm->patience_us = patience_us;
    comm_all_gather(r->comm, &word, all, sizeof word);
    r->code = comm_check(r->comm, &r->err);
    comm_broadcast(r->comm, &word, sizeof word); /* does nothing, at once */
    return NULL;
}

static bool the_last_is_named(void) {
    rank_thread ranks[MOST];
    char words[LATE_WORDS_BYTES];
    uint32_t named = 0;
    assert_int_equal(pthread_barrier_init(&others_are_here, NULL, 3), 0);
    run_ranks(ranks, 4, leave_the_last_out);
    pthread_barrier_destroy(&others_are_here);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(ranks[i].code, ESP_UNAVAILABLE);
        named +=
            strstr(ranks[i].err.message, late_words(words, "rank 3 of 4", patience_us)) != NULL;
    }
    return named == 3;
}

static void a_rank_that_does_not_come_is_named_and_nobody_waits_for_ever(void **state) {
    (void)state;
    for (patience_us = FIRST_US; !the_last_is_named(); patience_us *= 2)
        assert_true(patience_us < LAST_US);
}

/* Rank 1 fails while the others sleep with all the patience there is. */
static void *abort_in_the_middle(void *arg) {
    rank_thread *r = arg;
    uint32_t word = 0;
    esp_error why = {0};
    r->comm->patience_us = COMM_FOR_EVER;
    if (r->comm->rank == 1) {
        nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
        esp_fail(&why, ESP_INTERNAL, "rank 1 has burnt down");
        comm_abort(r->comm, &why);
    }
    comm_broadcast(r->comm, &word, sizeof word);
    r->code = comm_check(r->comm, &r->err);
    return NULL;
}

static void an_abort_wakes_everyone_and_its_reason_is_told(void **state) {
    (void)state;
    rank_thread ranks[MOST];
    run_ranks(ranks, 3, abort_in_the_middle);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(ranks[i].code, ESP_INTERNAL);
        assert_string_equal(ranks[i].err.message, "rank 1 has burnt down");
    }
}

/* Ranks 1 and 2 fail, each in its own way. */
static void *disagree(void *arg) {
    rank_thread *r = arg;
    uint32_t rank = r->comm->rank;
    esp_code code =
        rank ? esp_fail(&r->err, rank == 1 ? ESP_INVALID : ESP_EXHAUSTED, "rank %u says no", rank)
             : ESP_OK;
    r->code = comm_agree(r->comm, code, &r->err);
    return NULL;
}

static void *agree(void *arg) {
    rank_thread *r = arg;
    r->code = comm_agree(r->comm, ESP_OK, &r->err);
    return NULL;
}

static void all_ranks_hear_of_the_first_that_failed(void **state) {
    (void)state;
    rank_thread ranks[MOST];
    run_ranks(ranks, 3, disagree);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(ranks[i].code, ESP_INVALID);
        assert_string_equal(ranks[i].err.message, "rank 1 says no");
    }
    run_ranks(ranks, 3, agree);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(ranks[i].code, ESP_OK);
}

/* Pauses longer than any watching. */
static void *sleep_between(void *arg) {
    rank_thread *r = arg;
    for (int round = 0; round < 10; round++) {
        if (r->comm->rank == (uint32_t)round % r->comm->size)
            nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
        r->wrong += case_broadcast(r->comm, 100);
    }
    return NULL;
}

static void ranks_that_fell_asleep_are_woken(void **state) {
    (void)state;
    rank_thread ranks[MOST];
    run_ranks(ranks, 4, sleep_between);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(ranks[i].wrong, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rank_gets_what_the_others_sent_and_sums_have_one_order),
        cmocka_unit_test(a_rank_that_does_not_come_is_named_and_nobody_waits_for_ever),
        cmocka_unit_test(an_abort_wakes_everyone_and_its_reason_is_told),
        cmocka_unit_test(all_ranks_hear_of_the_first_that_failed),
        cmocka_unit_test(ranks_that_fell_asleep_are_woken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
