/* test_comm_tcp.c - ranks that meet at an address: every collective; who is no rank is sent away and holds nobody up;
 * what the others learn of one that fails. */
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

#include "cluster/comm_tcp.h"
#include "cluster/tcp_greeting.h"
#include "engine/base/clock.h"
#include "tests/unit/comm_cases.h"
#include "tests/unit/comm_patience.h"
#include "tests/unit/free_port.h"

enum { MOST = 4 };

typedef struct rank_thread {
    comm_tcp_options options;
    void (*body)(struct rank_thread *r, comm *c);
    uint32_t wrong;
    esp_code code;
    esp_error err;
} rank_thread;

static char address[FREE_PORT_BYTES];
static uint16_t port;

static void choose_port(void) { port = free_port(address); }

static void *live(void *arg) {
    rank_thread *r = arg;
    comm *c = NULL;
    r->code = comm_tcp_open(&c, &r->options, &r->err);
    if (r->code == ESP_OK) c->patience_us = HANG_US;
    if (r->code == ESP_OK && r->body) r->body(r, c);
    comm_close(c);
    return NULL;
}

/* The last ones first: they wait for rank 0 to listen. */
static void start(rank_thread *ranks, pthread_t *threads, uint32_t size,
                  void (*body)(rank_thread *, comm *)) {
    for (uint32_t i = size; i-- > 0;) {
        ranks[i] = (rank_thread){
            .options = {.address = address, .rank = i, .size = size, .patience_us = HANG_US},
            .body = body};
        assert_int_equal(pthread_create(&threads[i], NULL, live, &ranks[i]), 0);
    }
}

static void run_ranks(rank_thread *ranks, uint32_t size, void (*body)(rank_thread *, comm *)) {
    pthread_t threads[MOST];
    start(ranks, threads, size, body);
    for (uint32_t i = 0; i < size; i++)
        pthread_join(threads[i], NULL);
}

/* ---- collectives ---- */

static pthread_barrier_t done; /* nobody leaves before all have looked */

static void run_cases(rank_thread *r, comm *c) {
    r->wrong = case_run(c);
    r->wrong += c->local_rank != c->rank; /* all are of this machine */
    r->wrong += comm_check(c, &r->err) != ESP_OK;
    pthread_barrier_wait(&done);
}

static void every_rank_gets_what_the_others_sent(void **state) {
    (void)state;
    for (uint32_t size = 1; size <= MOST; size++) {
        rank_thread ranks[MOST];
        choose_port();
        assert_int_equal(pthread_barrier_init(&done, NULL, size), 0);
        run_ranks(ranks, size, run_cases);
        pthread_barrier_destroy(&done);
        for (uint32_t i = 0; i < size; i++) {
            if (ranks[i].code != ESP_OK) fail_msg("%s", ranks[i].err.message);
            assert_int_equal(ranks[i].wrong, 0);
        }
    }
}

/* ---- who is no rank ---- */

static int connect_there(void) {
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    for (int i = 0; i < HANG_US / 10000; i++) {
        if (connect(fd, (struct sockaddr *)&at, sizeof at) == 0) return fd;
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    fail_msg("rank 0 does not listen");
    return -1;
}

/* Says these bytes; those of the answer, until the connection ends. */
static size_t say(const void *bytes, size_t count, void *answer, size_t room) {
    int fd = connect_there();
    size_t got = 0;
    assert_int_equal(send(fd, bytes, count, MSG_NOSIGNAL), count);
    for (ssize_t n = 1; n > 0 && got<room; got += n> 0 ? (size_t)n : 0)
        n = recv(fd, (char *)answer + got, room - got, 0);
    close(fd);
    return got;
}

static void expect_verdict(tcp_greeting g, uint32_t verdict) {
    tcp_welcome w = {0};
    size_t got = say(&g, sizeof g, &w, sizeof w);
    if (!verdict) {
        assert_int_equal(got, 0);
        return;
    }
    assert_int_equal(got, sizeof w);
    assert_true(tcp_welcome_is_ours(&w));
    assert_int_equal(w.verdict, verdict);
    assert_int_equal(w.size, 2);
}

static void expect_place(tcp_place p, uint32_t verdict) {
    expect_verdict(tcp_greeting_make(p, "elsewhere"), verdict);
}

/* As long as a greeting. */
static const char browser[sizeof(tcp_greeting)] =
    "GET / HTTP/1.1\r\nHost: here\r\nUser-Agent: a browser\r\nAccept: */*\r\n\r\n";

/* Rank 1 comes when all of them have been there. */
static void strangers_are_sent_away_and_hold_nobody_up(void **state) {
    (void)state;
    rank_thread ranks[2] = {{.wrong = 0}, {.wrong = 0}};
    pthread_t threads[2];
    uint8_t noise[4096], nothing[8];
    choose_port();
    assert_int_equal(pthread_barrier_init(&done, NULL, 2), 0);
    ranks[0].options = (comm_tcp_options){.address = address, .size = 2, .patience_us = HANG_US};
    ranks[0].body = run_cases;
    assert_int_equal(pthread_create(&threads[0], NULL, live, &ranks[0]), 0);
    for (size_t i = 0; i < sizeof noise; i++)
        noise[i] = (uint8_t)(i * 131 + 7);
    int silent = connect_there(), slow = connect_there();
    assert_int_equal(send(slow, "espr", 4, MSG_NOSIGNAL), 4);
    assert_int_equal(say(noise, sizeof(tcp_greeting), nothing, sizeof nothing), 0);
    assert_int_equal(say(browser, sizeof browser, nothing, sizeof nothing), 0);
    tcp_greeting good = tcp_greeting_make((tcp_place){1, 2, 1}, "elsewhere"), g = good;
    memset(g.host, 'x', sizeof g.host);
    expect_verdict(g, 0);
    g = good, g.each = 0;
    expect_verdict(g, TCP_OTHER_SIZE);
    g.version = 1; /* which had no such word */
    expect_verdict(g, TCP_OTHER_BUILD);
    g = good, g.version = 99;
    expect_verdict(g, TCP_OTHER_BUILD);
    expect_place((tcp_place){1, 3, 1}, TCP_OTHER_SIZE);
    expect_place((tcp_place){1, 2, 2}, TCP_OTHER_SIZE);
    expect_place((tcp_place){0, 1, 2}, TCP_OTHER_SHARE);
    expect_place((tcp_place){1, 0x80000001u, 2}, TCP_OTHER_SIZE); /* 2 in 32 bits */
    expect_place((tcp_place){0, 2, 1}, TCP_RANK_TAKEN);
    expect_place((tcp_place){UINT32_MAX, 2, 1}, TCP_RANK_TAKEN);
    ranks[1].options = ranks[0].options;
    ranks[1].options.rank = 1;
    ranks[1].body = run_cases;
    assert_int_equal(pthread_create(&threads[1], NULL, live, &ranks[1]), 0);
    for (uint32_t i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        if (ranks[i].code != ESP_OK) fail_msg("%s", ranks[i].err.message);
        assert_int_equal(ranks[i].wrong, 0);
    }
    pthread_barrier_destroy(&done);
    close(silent);
    close(slow);
}

/* Rank 2 never comes. False: somebody else did not in time. */
static bool twins_are_told(int64_t patience_us) {
    rank_thread ranks[2] = {{.wrong = 0}, {.wrong = 0}}, twin = {.wrong = 0}, other = {.wrong = 0};
    pthread_t threads[3];
    choose_port();
    ranks[0].options =
        (comm_tcp_options){.address = address, .size = 3, .patience_us = patience_us};
    assert_int_equal(pthread_create(&threads[0], NULL, live, &ranks[0]), 0);
    twin.options = (comm_tcp_options){
        .address = address, .rank = 1, .size = 3, .patience_us = 2 * patience_us};
    ranks[1].options = other.options = twin.options;
    other.options.size = 4;
    assert_int_equal(pthread_create(&threads[1], NULL, live, &ranks[1]), 0);
    assert_int_equal(pthread_create(&threads[2], NULL, live, &twin), 0);
    live(&other);
    for (uint32_t i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(ranks[0].code, ESP_UNAVAILABLE);
    bool first = twin.code == ESP_INVALID;
    const rank_thread *refused = first ? &twin : &ranks[1], *taken = first ? &ranks[1] : &twin;
    if (refused->code != ESP_INVALID || other.code != ESP_INVALID ||
        !strstr(ranks[0].err.message, "1 of 3 ranks have not come"))
        return false;
    assert_string_equal(other.err.field, "--tp");
    assert_string_equal(refused->err.field, "--rank");
    assert_int_equal(taken->code, ESP_UNAVAILABLE);
    return true;
}

static void two_of_one_number_and_another_size_are_told(void **state) {
    (void)state;
    for (int64_t patience_us = 2 * FIRST_US; !twins_are_told(patience_us); patience_us *= 2)
        assert_true(patience_us < LAST_US);
}

static void addresses_that_are_none_are_refused(void **state) {
    (void)state;
    static const char *const none[] = {"", ":", "here", ":7", "here:", "[]:5"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        for (uint32_t rank = 0; rank < 2; rank++) {
            comm_tcp_options o = {
                .address = none[i], .rank = rank, .size = 2, .patience_us = 100000};
            comm *c = NULL;
            esp_error err = {0};
            assert_int_not_equal(comm_tcp_open(&c, &o, &err), ESP_OK);
            assert_string_equal(err.field, "--rendezvous");
        }
    choose_port();
    comm_tcp_options o = {.address = address, .rank = 1, .size = 2, .patience_us = 300000};
    comm *c = NULL;
    esp_error err = {0};
    assert_int_equal(comm_tcp_open(&c, &o, &err), ESP_UNAVAILABLE);
    assert_non_null(strstr(err.message, "nobody listens"));
}

/* ---- ranks that fail ---- */

static void last_leaves(rank_thread *r, comm *c) {
    uint32_t word = c->rank, all[MOST];
    comm_all_gather(c, &word, all, sizeof word);
    if (c->rank + 1 == c->size) return;
    comm_all_gather(c, &word, all, sizeof word);
    r->code = comm_check(c, &r->err);
    comm_broadcast(c, &word, sizeof word); /* does nothing, at once */
}

static void a_rank_that_ends_is_named_to_all(void **state) {
    (void)state;
    rank_thread ranks[MOST];
    choose_port();
    run_ranks(ranks, 3, last_leaves);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(ranks[i].code, ESP_UNAVAILABLE);
        if (!strstr(ranks[i].err.message, "rank 2 of 3 has ended"))
            fail_msg("rank %u: %s", i, ranks[i].err.message);
    }
}

static void last_aborts(rank_thread *r, comm *c) {
    uint32_t word = c->rank, all[MOST];
    esp_error why = {.code = ESP_EXHAUSTED, .message = "device 7 is full"};
    comm_all_gather(c, &word, all, sizeof word);
    if (c->rank + 1 == c->size) comm_abort(c, &why);
    comm_all_gather(c, &word, all, sizeof word);
    r->code = comm_check(c, &r->err);
}

/* And calls nothing more but a look, but does not leave. */
static void last_aborts_and_stays(rank_thread *r, comm *c) {
    uint32_t word = c->rank, all[MOST];
    esp_error why = {.code = ESP_EXHAUSTED, .message = "device 7 is full"};
    comm_all_gather(c, &word, all, sizeof word);
    c->patience_us = COMM_FOR_EVER;
    if (c->rank + 1 == c->size)
        comm_abort(c, &why);
    else
        comm_all_gather(c, &word, all, sizeof word);
    r->code = comm_check(c, &r->err);
    pthread_barrier_wait(&done);
}

static void a_failure_is_told_before_its_rank_leaves(void **state) {
    (void)state;
    rank_thread ranks[MOST];
    choose_port();
    assert_int_equal(pthread_barrier_init(&done, NULL, 3), 0);
    run_ranks(ranks, 3, last_aborts_and_stays);
    pthread_barrier_destroy(&done);
    for (uint32_t i = 0; i < 3; i++)
        assert_string_equal(ranks[i].err.message, "device 7 is full");
}

static void a_failure_is_told_in_its_own_words(void **state) {
    (void)state;
    rank_thread ranks[MOST];
    choose_port();
    run_ranks(ranks, 3, last_aborts);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(ranks[i].code, ESP_EXHAUSTED);
        assert_string_equal(ranks[i].err.message, "device 7 is full");
    }
}

static void last_is_late(rank_thread *r, comm *c) {
    uint32_t word = c->rank, all[MOST];
    comm_all_gather(c, &word, all, sizeof word);
    c->patience_us = 500000;
    if (c->rank == 0) {
        comm_all_gather(c, &word, all, sizeof word);
        r->code = comm_check(c, &r->err);
    }
    pthread_barrier_wait(&done);
}

static void a_rank_that_does_not_come_is_not_waited_for(void **state) {
    (void)state;
    rank_thread ranks[MOST];
    choose_port();
    assert_int_equal(pthread_barrier_init(&done, NULL, 2), 0);
    run_ranks(ranks, 2, last_is_late);
    pthread_barrier_destroy(&done);
    assert_int_equal(ranks[0].code, ESP_UNAVAILABLE);
    assert_non_null(strstr(ranks[0].err.message, "rank 1 of 2 did not come within 0.5 s"));
}

/* Rank 1's frames are of another size than rank 0 expects. */
static void sizes_differ(rank_thread *r, comm *c) {
    uint8_t in[32] = {0}, all[64];
    comm_all_gather(c, in, all, c->rank ? 24 : 16);
    r->code = comm_check(c, &r->err);
}

static void ranks_that_disagree_on_a_size_end(void **state) {
    (void)state;
    rank_thread ranks[MOST];
    choose_port();
    run_ranks(ranks, 2, sizes_differ);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(ranks[i].code, ESP_UNAVAILABLE);
        if (!strstr(ranks[i].err.message, "nobody asked for")) fail_msg("%s", ranks[i].err.message);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rank_gets_what_the_others_sent),
        cmocka_unit_test(strangers_are_sent_away_and_hold_nobody_up),
        cmocka_unit_test(two_of_one_number_and_another_size_are_told),
        cmocka_unit_test(addresses_that_are_none_are_refused),
        cmocka_unit_test(a_rank_that_ends_is_named_to_all),
        cmocka_unit_test(a_failure_is_told_in_its_own_words),
        cmocka_unit_test(a_failure_is_told_before_its_rank_leaves),
        cmocka_unit_test(a_rank_that_does_not_come_is_not_waited_for),
        cmocka_unit_test(ranks_that_disagree_on_a_size_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
