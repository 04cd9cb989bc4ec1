/* test_queue.c - the bounded queue and its signal. */
// SPDX-License-Identifier: Apache-2.0
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/base/queue.h"

static void *item(uintptr_t number) { return (void *)number; }

static void entries_come_out_in_order_and_full_is_an_answer(void **state) {
    (void)state;
    queue *q = queue_open(3); /* becomes 4 */
    assert_null(queue_pop(q));
    for (uintptr_t lap = 0; lap < 5; lap++) {
        for (uintptr_t i = 1; i <= 4; i++)
            assert_true(queue_push(q, item(lap * 4 + i)));
        assert_false(queue_push(q, item(99)));
        assert_int_equal(queue_count(q), 4);
        for (uintptr_t i = 1; i <= 4; i++)
            assert_ptr_equal(queue_pop(q), item(lap * 4 + i));
        assert_null(queue_pop(q));
        assert_int_equal(queue_count(q), 0);
    }
    queue_close(q);
    queue_close(NULL);
}

static void the_least_capacity_is_two(void **state) {
    (void)state;
    queue *q = queue_open(0);
    assert_true(queue_push(q, item(1)) && queue_push(q, item(2)));
    assert_false(queue_push(q, item(3)));
    queue_close(q);
}

enum { PRODUCERS = 3, CONSUMERS = 2, EACH = 20000 };

typedef struct relay {
    queue *q;
    signal_word news;
    _Atomic uint32_t taken;
    uint32_t
        per_item[PRODUCERS * EACH]; /* how often each came out; one writer each if all is well */
} relay;

typedef struct producer {
    relay *r;
    uint32_t index;
} producer;

static void *produce(void *arg) {
    producer *p = arg;
    for (uintptr_t i = 0; i < EACH; i++) {
        while (!queue_push(p->r->q, item(p->index * EACH + i + 1)))
            sched_yield();
        signal_wake(&p->r->news);
    }
    return NULL;
}

static void *consume(void *arg) {
    relay *r = arg;
    uint32_t last[PRODUCERS] = {0};
    while (atomic_load(&r->taken) < PRODUCERS * EACH) {
        uint32_t seen = signal_seen(&r->news);
        void *got = queue_pop(r->q);
        if (!got) {
            /* Asleep until the next push: a lost wake-up would hang here. The last taker wakes. */
            if (atomic_load(&r->taken) < PRODUCERS * EACH) signal_wait(&r->news, seen, -1);
            continue;
        }
        uint32_t number = (uint32_t)(uintptr_t)got - 1;
        r->per_item[number]++;
        /* One producer's entries reach one consumer in the order they were pushed. */
        if (number % EACH + 1 <= last[number / EACH]) return "order";
        last[number / EACH] = number % EACH + 1;
        if (atomic_fetch_add(&r->taken, 1) + 1 == PRODUCERS * EACH) signal_wake(&r->news);
    }
    return NULL;
}

/* Three producers and two sleeping consumers over eight cells. */
static void nothing_is_lost_or_doubled_between_threads(void **state) {
    (void)state;
    static relay r;
    r.q = queue_open(8);
    pthread_t threads[PRODUCERS + CONSUMERS];
    producer producers[PRODUCERS];
    for (uint32_t i = 0; i < PRODUCERS; i++) {
        producers[i] = (producer){&r, i};
        pthread_create(&threads[i], NULL, produce, &producers[i]);
    }
    for (uint32_t i = 0; i < CONSUMERS; i++)
        pthread_create(&threads[PRODUCERS + i], NULL, consume, &r);
    for (uint32_t i = 0; i < PRODUCERS + CONSUMERS; i++) {
        void *complaint;
        pthread_join(threads[i], &complaint);
        assert_null(complaint);
    }
    for (uint32_t i = 0; i < PRODUCERS * EACH; i++)
        assert_int_equal(r.per_item[i], 1);
    queue_close(r.q);
}

static void a_wake_before_the_wait_is_not_lost(void **state) {
    (void)state;
    signal_word s = {0};
    uint32_t seen = signal_seen(&s);
    signal_wake(&s);
    signal_wait(&s, seen, -1);
    assert_int_not_equal(signal_seen(&s), seen);
}

static void a_wait_ends_at_its_timeout(void **state) {
    (void)state;
    signal_word s = {0};
    uint32_t seen = signal_seen(&s);
    signal_wait(&s, seen, 2000);
    signal_wait(&s, seen, 0);
    assert_int_equal(signal_seen(&s), seen);
    assert_int_equal(s.sleepers, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entries_come_out_in_order_and_full_is_an_answer),
        cmocka_unit_test(the_least_capacity_is_two),
        cmocka_unit_test(nothing_is_lost_or_doubled_between_threads),
        cmocka_unit_test(a_wake_before_the_wait_is_not_lost),
        cmocka_unit_test(a_wait_ends_at_its_timeout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
