/* queue.c - the bounded queue and the signal that announces entries.
 *
 * Each cell has a turn number. A producer may fill the cell of position p when its turn is p, and
 * sets p + 1; a consumer may empty it when its turn is p + 1, and sets p + capacity, which is the
 * turn of the producer one lap later. Positions are claimed by compare and swap.
 *
 * Source  D. Vyukov, "Bounded MPMC queue", 1024cores.net. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/base/queue.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>

#include "engine/base/clock.h"
#include "engine/base/futex.h"
#include "engine/base/mem.h"
#include "engine/base/status.h"

enum { CACHE_LINE = 64 };

typedef struct cell {
    _Atomic uint64_t turn;
    void *item;
} cell;

struct queue {
    cell *cells;
    uint64_t mask; /* capacity - 1 */
    /* Producers and consumers each move one of these: not on one cache line. */
    char pad_head[CACHE_LINE];
    _Atomic uint64_t head; /* next position to fill */
    char pad_tail[CACHE_LINE];
    _Atomic uint64_t tail; /* next position to empty */
    char pad_end[CACHE_LINE];
};

static uint64_t power_of_two(uint32_t capacity) {
    uint64_t rounded = 2;
    while (rounded < capacity)
        rounded *= 2;
    return rounded;
}

queue *queue_open(uint32_t capacity) {
    uint64_t count = power_of_two(capacity);
    queue *q = mem_new(1, sizeof *q);
    q->cells = mem_new(count, sizeof *q->cells);
    q->mask = count - 1;
    for (uint64_t i = 0; i < count; i++)
        atomic_init(&q->cells[i].turn, i);
    return q;
}

void queue_close(queue *q) {
    if (!q) return;
    free(q->cells);
    free(q);
}

/* Claims the position whose cell has turn == position + offset. NULL: that turn has not come (the
 * queue is full for a producer, empty for a consumer). */
static cell *claim(queue *q, _Atomic uint64_t *next, uint64_t offset, uint64_t *position) {
    uint64_t p = atomic_load_explicit(next, memory_order_relaxed);
    for (;;) {
        cell *c = &q->cells[p & q->mask];
        uint64_t turn = atomic_load_explicit(&c->turn, memory_order_acquire);
        int64_t late = (int64_t)(turn - (p + offset));
        if (late < 0) return NULL;
        if (late > 0) {
            p = atomic_load_explicit(next, memory_order_relaxed);
        } else if (atomic_compare_exchange_weak_explicit(next, &p, p + 1, memory_order_relaxed,
                                                         memory_order_relaxed)) {
            *position = p;
            return c;
        }
    }
}

bool queue_push(queue *q, void *item) {
    ESP_ASSERT(item);
    uint64_t position;
    cell *c = claim(q, &q->head, 0, &position);
    if (!c) return false;
    c->item = item;
    atomic_store_explicit(&c->turn, position + 1, memory_order_release);
    return true;
}

void *queue_pop(queue *q) {
    uint64_t position;
    cell *c = claim(q, &q->tail, 1, &position);
    if (!c) return NULL;
    void *item = c->item;
    atomic_store_explicit(&c->turn, position + q->mask + 1, memory_order_release);
    return item;
}

uint32_t queue_count(const queue *q) {
    uint64_t tail = atomic_load_explicit(&q->tail, memory_order_relaxed);
    uint64_t head = atomic_load_explicit(&q->head, memory_order_relaxed);
    if (head <= tail) return 0;
    return (uint32_t)(head - tail <= q->mask + 1 ? head - tail : q->mask + 1);
}

uint32_t signal_seen(signal_word *s) { return atomic_load(&s->wakes); }

/* Sequentially consistent on both sides: either the waker sees the sleeper, or the sleeper's futex
 * call sees the new count and does not sleep. */
void signal_wake(signal_word *s) {
    atomic_fetch_add(&s->wakes, 1);
    if (atomic_load(&s->sleepers) > 0) futex_wake_all(&s->wakes);
}

void signal_wait(signal_word *s, uint32_t seen, int64_t timeout_us) {
    if (signal_seen(s) != seen || timeout_us == 0) return;
    int64_t end_us = timeout_us < 0 ? 0 : clock_now_us() + timeout_us;
    int64_t left_us = timeout_us;
    atomic_fetch_add(&s->sleepers, 1);
    while (signal_seen(s) == seen) {
        futex_wait(&s->wakes, seen, left_us);
        if (timeout_us < 0) continue;
        left_us = end_us - clock_now_us();
        if (left_us <= 0) break;
    }
    atomic_fetch_sub(&s->sleepers, 1);
}
