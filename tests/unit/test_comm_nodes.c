/* test_comm_nodes.c - collectives between threads of several processes, which here are groups of threads: what each
 * rank gets is what one process would give it, and a failure anywhere ends all of them with its sentence. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "cluster/comm_local.h"
#include "cluster/comm_nodes.h"
#include "cluster/comm_tcp.h"
#include "tests/unit/comm_cases.h"
#include "tests/unit/comm_patience.h"
#include "tests/unit/free_port.h"

enum { MOST = 9 };

typedef struct rank_thread {
    comm *comm;
    uint32_t wrong;
    esp_code code;
    esp_error err;
} rank_thread;

typedef struct process_thread {
    comm_tcp_options options;
    comm *between; /* NULL: of the options */
    uint32_t each;
    rank_thread *ranks; /* [each] */
    void *(*body)(void *);
} process_thread;

/* A process: its ranks, then the end of its connection to the others. */
static void *run_process(void *arg) {
    process_thread *p = arg;
    comm *comms[COMM_RANKS_MAX];
    pthread_t threads[MOST];
    if (!p->between) ESP_ASSERT(comm_tcp_open(&p->between, &p->options, NULL) == ESP_OK);
    comm_nodes_open(comms, p->between, p->each);
    for (uint32_t i = 0; i < p->each; i++) {
        p->ranks[i] = (rank_thread){.comm = comms[i]};
        comms[i]->patience_us = HANG_US;
        ESP_ASSERT(pthread_create(&threads[i], NULL, p->body, &p->ranks[i]) == 0);
    }
    for (uint32_t i = 0; i < p->each; i++)
        pthread_join(threads[i], NULL);
    for (uint32_t i = 0; i < p->each; i++)
        comm_close(comms[i]);
    comm_close(p->between);
    return NULL;
}

static void run_ranks(rank_thread *ranks, uint32_t processes, uint32_t each, bool tcp,
                      void *(*body)(void *)) {
    process_thread all[MOST];
    pthread_t threads[MOST];
    comm *between[COMM_RANKS_MAX] = {NULL};
    char address[FREE_PORT_BYTES];
    if (tcp)
        free_port(address);
    else
        comm_local_open(between, processes);
    for (uint32_t p = 0; p < processes; p++) {
        all[p] = (process_thread){
            .options = {.address = address, .rank = p, .size = processes, .patience_us = HANG_US},
            .between = between[p],
            .each = each,
            .ranks = ranks + p * each,
            .body = body};
        assert_int_equal(pthread_create(&threads[p], NULL, run_process, &all[p]), 0);
    }
    for (uint32_t p = 0; p < processes; p++)
        pthread_join(threads[p], NULL);
}

/* ---- collectives ---- */

static pthread_barrier_t done; /* nobody leaves before all have looked */

static void *run_cases(void *arg) {
    rank_thread *r = arg;
    r->wrong = case_run(r->comm);
    r->wrong += r->comm->local_rank != r->comm->rank; /* all are of this machine */
    pthread_barrier_wait(&done);
    return NULL;
}

static void every_rank_gets_what_one_process_would_give_it(void **state) {
    (void)state;
    static const uint32_t shapes[][2] = {{1, 2}, {2, 1}, {2, 2}, {3, 2}, {2, 4}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int tcp = 0; tcp < 2; tcp++) {
            rank_thread ranks[MOST];
            uint32_t size = shapes[s][0] * shapes[s][1];
            assert_int_equal(pthread_barrier_init(&done, NULL, size), 0);
            run_ranks(ranks, shapes[s][0], shapes[s][1], tcp, run_cases);
            pthread_barrier_destroy(&done);
            for (uint32_t i = 0; i < size; i++)
                if (ranks[i].wrong)
                    fail_msg("rank %u of %u x %u: %u wrong", i, shapes[s][0], shapes[s][1],
                             ranks[i].wrong);
        }
}

/* ---- failures ---- */

/* Two processes of two ranks: the first of those asked that is told something else; 4: none. */
static uint32_t first_told_else(const rank_thread *ranks, esp_code code, const char *words,
                                uint32_t but_for) {
    uint32_t i = 0;
    while (i < 4 &&
           (but_for >> i & 1 || (ranks[i].code == code && strstr(ranks[i].err.message, words))))
        i++;
    return i;
}

/* All four are told the same. */
static void expect_all(const rank_thread *ranks, esp_code code, const char *words,
                       uint32_t but_for) {
    uint32_t i = first_told_else(ranks, code, words, but_for);
    if (i < 4) fail_msg("rank %u: %s", i, ranks[i].err.message);
}

static void first_gather(rank_thread *r) {
    uint32_t word = r->comm->rank, all[MOST];
    comm_all_gather(r->comm, &word, all, sizeof word);
}

/* Then they wait with all the patience there is. */
static void wait_for_ever(rank_thread *r) {
    uint32_t word = r->comm->rank, all[MOST];
    r->comm->patience_us = COMM_FOR_EVER;
    comm_all_gather(r->comm, &word, all, sizeof word);
    r->code = comm_check(r->comm, &r->err);
    comm_broadcast(r->comm, &word, sizeof word); /* does nothing, at once */
}

static void *last_aborts(void *arg) {
    rank_thread *r = arg;
    esp_error why = {.code = ESP_EXHAUSTED, .message = "device 7 is full"};
    first_gather(r);
    if (r->comm->rank == 3) comm_abort(r->comm, &why);
    wait_for_ever(r);
    return NULL;
}

static void an_abort_of_any_rank_is_told_to_all_in_its_own_words(void **state) {
    (void)state;
    for (int tcp = 0; tcp < 2; tcp++) {
        rank_thread ranks[MOST];
        run_ranks(ranks, 2, 2, tcp, last_aborts);
        expect_all(ranks, ESP_EXHAUSTED, "device 7 is full", 0);
    }
}

/* Both ranks of process 1, and so its connection. */
static void *second_process_ends(void *arg) {
    rank_thread *r = arg;
    first_gather(r);
    if (r->comm->rank < 2) wait_for_ever(r);
    return NULL;
}

static void a_process_that_ends_is_named_by_its_ranks(void **state) {
    (void)state;
    rank_thread ranks[MOST];
    run_ranks(ranks, 2, 2, true, second_process_ends);
    expect_all(ranks, ESP_UNAVAILABLE, "the process of ranks 2 to 3 of 4 has ended", 0xc);
}

static int64_t patience_us; /* of who is to lose it */

/* Rank 3 stays away until the others have been told. */
static void *last_stays_away(void *arg) {
    rank_thread *r = arg;
    first_gather(r);
    if (r->comm->rank < 3) {
        uint32_t word = 0;
        if (r->comm->rank == 2) r->comm->patience_us = patience_us;
        comm_broadcast(r->comm, &word, sizeof word);
        first_gather(r);
        r->code = comm_check(r->comm, &r->err);
    }
    pthread_barrier_wait(&done);
    return NULL;
}

/* A whole process that does nothing, and holds its connection. */
static void *second_process_stays_away(void *arg) {
    rank_thread *r = arg;
    first_gather(r);
    if (r->comm->rank < 2) {
        if (r->comm->rank == 0) r->comm->patience_us = patience_us;
        first_gather(r);
        r->code = comm_check(r->comm, &r->err);
    }
    pthread_barrier_wait(&done);
    return NULL;
}

/* All but those are told that these are late. */
static void expect_late(void *(*body)(void *), const char *who, uint32_t but_for) {
    for (int tcp = 0; tcp < 2; tcp++) {
        bool told = false;
        for (patience_us = FIRST_US; !told; patience_us *= 2) {
            rank_thread ranks[MOST];
            char words[LATE_WORDS_BYTES];
            assert_int_equal(pthread_barrier_init(&done, NULL, 4), 0);
            run_ranks(ranks, 2, 2, tcp, body);
            pthread_barrier_destroy(&done);
            uint32_t i = first_told_else(ranks, ESP_UNAVAILABLE,
                                         late_words(words, who, patience_us), but_for);
            told = i == 4;
            if (!told && patience_us >= LAST_US) fail_msg("rank %u: %s", i, ranks[i].err.message);
        }
    }
}

static void a_rank_that_is_late_among_its_own_ends_the_other_process_too(void **state) {
    (void)state;
    expect_late(last_stays_away, "rank 3 of 4", 0x8);
}

static void a_process_that_does_not_come_is_not_waited_for(void **state) {
    (void)state;
    expect_late(second_process_stays_away, "the process of ranks 2 to 3 of 4", 0xc);
}

/* Somebody who is no rank, in the middle of anything. */
static void *abort_soon(void *arg) {
    esp_error why = {.code = ESP_INTERNAL, .message = "now"};
    static _Atomic uint32_t round;
    nanosleep(&(struct timespec){.tv_nsec = 20000000 + 3100000 * (round++ % 16)}, NULL);
    comm_abort(arg, &why);
    return NULL;
}

/* Memory that is given back as soon as a collective returns, whatever became of it: nobody may read or write it
 * then. What finds it is a sanitizer. */
static void *exchange_until_abort(void *arg) {
    enum { BYTES = 4 << 20 }; /* longer than anybody watches before he sleeps */
    rank_thread *r = arg;
    pthread_t aborts;
    if (r->comm->rank == 1) ESP_ASSERT(pthread_create(&aborts, NULL, abort_soon, r->comm) == 0);
    while ((r->code = comm_check(r->comm, &r->err)) == ESP_OK) {
        comm_part parts[MOST] = {{0}};
        for (uint32_t i = 0; i < r->comm->size; i++)
            parts[i] = (comm_part){.send = mem_new(BYTES, 1),
                                   .receive = mem_new(BYTES, 1),
                                   .send_bytes = BYTES,
                                   .receive_bytes = BYTES};
        comm_exchange(r->comm, parts);
        for (uint32_t i = 0; i < r->comm->size; i++) {
            free((void *)parts[i].send);
            free(parts[i].receive);
        }
    }
    if (r->comm->rank == 1) pthread_join(aborts, NULL);
    return NULL;
}

static void memory_of_a_rank_that_leaves_is_left_alone(void **state) {
    (void)state;
    for (int round = 0; round < 16; round++) {
        rank_thread ranks[MOST];
        run_ranks(ranks, 2, 2, false, exchange_until_abort);
        expect_all(ranks, ESP_INTERNAL, "now", 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rank_gets_what_one_process_would_give_it),
        cmocka_unit_test(an_abort_of_any_rank_is_told_to_all_in_its_own_words),
        cmocka_unit_test(a_process_that_ends_is_named_by_its_ranks),
        cmocka_unit_test(a_rank_that_is_late_among_its_own_ends_the_other_process_too),
        cmocka_unit_test(a_process_that_does_not_come_is_not_waited_for),
        cmocka_unit_test(memory_of_a_rank_that_leaves_is_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
