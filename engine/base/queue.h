/* queue.h - a bounded queue of pointers, many producers and many consumers, without a lock
 * (D. Vyukov, "Bounded MPMC queue"). Full is an answer, not a wait. Memory is taken at open. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_BASE_QUEUE_H
#define ESPALIER_BASE_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct queue queue;

/* capacity is rounded up to a power of two, 2 at least. */
queue *queue_open(uint32_t capacity);
void queue_close(queue *q); /* NULL is fine; entries are the caller's */

bool queue_push(queue *q, void *item); /* false: full */
void *queue_pop(queue *q);             /* NULL: empty */
uint32_t queue_count(const queue *q);  /* about; exact when nobody moves */

/* signal: a futex with a counter. One waiter side, any number of wakers. A wake before the wait is
 * not lost: signal_wait returns at once when wakes came since `seen`. */
typedef struct signal_word {
    _Atomic uint32_t wakes;
    _Atomic uint32_t sleepers;
} signal_word;

uint32_t signal_seen(signal_word *s);
void signal_wake(signal_word *s); /* system call only when someone sleeps */
/* Waits until the count differs from seen or timeout_us (< 0: for ever) has passed. */
void signal_wait(signal_word *s, uint32_t seen, int64_t timeout_us);

#endif
