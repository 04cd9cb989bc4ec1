/* op_timer.h - an op table around another that times each op and passes it on.
 *
 * For benches: without one nothing of it is in the way of a step. It counts what it saw since the
 * last op_timer_clear, by kind of op and, for linears, by their role in the model. An op's time ends when the
 * device has computed it, not when it was asked to: before and behind each the timer waits for the device (sync),
 * so ops that would overlap stand side by side, and on a device with a queue each takes a launch and a wait, some
 * microseconds, more than it does alone.
 *
 * Thread  the device's owner. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_OP_TIMER_H
#define ESPALIER_OP_TIMER_H

#include "kernels/kernels.h"

/* In the order in which a step meets them. */
typedef enum op_kind {
    OP_EMBED,
    OP_NORM,
    OP_QKV,
    OP_ROPE_STORE,
    OP_ATTENTION,
    OP_ATTENTION_OUT,
    OP_GATE_UP,
    OP_DOWN,
    OP_POOL_STATES,
    OP_HEAD,
    OP_LINEAR, /* one without a role */
    OP_KINDS,
} op_kind;

/* "qkv" */
const char *op_kind_name(op_kind kind);

typedef struct op_time {
    uint64_t calls;
    int64_t ns;
    double flops, bytes;   /* op_cost.h */
    uint32_t rows, cols;   /* linears: of all matrices together, of the last call; else 0 */
    uint32_t other_shapes; /* calls whose shape was not that of the call before */
} op_time;

typedef struct op_times {
    op_time of[OP_KINDS];
    int64_t first_ns, last_ns; /* when the first op began and the last one ended; 0: none ran */
} op_times;

typedef struct op_timer op_timer;

op_timer *op_timer_open(void);
/* After the device that it was put around. NULL is fine. */
void op_timer_close(op_timer *t);

/* Puts the timer around a device: *ops and *dev become its own, *dev is closed through them. A timer
 * is put around one device only. */
void op_timer_wrap(op_timer *t, const kern_ops **ops, kern_device **dev);

const op_times *op_timer_read(const op_timer *t);
void op_timer_clear(op_timer *t);

/* Adds the figures of one to another; the moments first_ns and last_ns of `to` stay. */
void op_times_add(op_times *to, const op_times *from);
int64_t op_times_sum_ns(const op_times *times);

#endif
