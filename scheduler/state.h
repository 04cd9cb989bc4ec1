/* state.h - what the scheduler remembers. Private to scheduler.
 *
 * A sequence is one slot. Where the slot is listed follows from its state:
 *
 *   FREE       free list
 *   WAITING    the waiting heap, or the list `preempted` when it has run before
 *   PARKED     the list `parked`, in the order in which they came there
 *   RUNNING    the list `running`, oldest admission first; owns a table
 *   LEAVING    the list `leaving`: it has ended, and keeps its table and its adapter until the steps
 *              that compute tokens of it are collected
 *
 * Besides, a live sequence with a deadline is in the deadline heap, and one that was cancelled is
 * in `cancelled` until the next step.
 *
 * Preempted sequences keep their order without a key: only the newest running one is ever pushed
 * back, and nothing is admitted past a preempted one, so each that is pushed to the list's head was
 * admitted before those already there. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_SCHEDULER_STATE_H
#define ESPALIER_SCHEDULER_STATE_H

#include "scheduler/scheduler.h"

#define NO_SLOT UINT32_MAX

typedef enum seq_state { SEQ_FREE, SEQ_WAITING, SEQ_PARKED, SEQ_RUNNING, SEQ_LEAVING } seq_state;

enum { HEAP_WAITING, HEAP_DEADLINE, HEAP_KINDS };

typedef struct sequence {
    sched_request request;
    seq_state state;
    uint32_t generation;
    uint64_t arrival; /* count of submits before this one */
    uint32_t known, cached;
    uint32_t planned;                /* tokens of the plan not yet computed */
    uint32_t flights;                /* steps with tokens of it, launched and not collected */
    kv_table table;                  /* while running or leaving */
    uint32_t next, prev;             /* in its list */
    uint32_t heap_index[HEAP_KINDS]; /* NO_SLOT: not in that heap */
    uint32_t cancel_index;           /* place in `cancelled`, or NO_SLOT */
    int64_t parked_us;               /* when it was first parked; 0: never */
} sequence;

/* Doubly linked through sequence.next and .prev. All ends NO_SLOT when empty. */
typedef struct slot_list {
    uint32_t head, tail, count;
} slot_list;

/* A binary heap of slots; the first to go is at slots[0]. */
typedef struct slot_heap {
    uint32_t kind;
    uint32_t count;
    uint32_t *slots; /* [slot_count] */
} slot_heap;

struct scheduler {
    sched_options options;
    kv_cache *kv;
    sched_adapters adapters; /* all-zero: none */
    uint64_t line_pages; /* that the first in line could not have in the last step; 0: it had none
                              * to ask for */
    uint32_t slot_count; /* seqs_max + waiting_max */
    sequence *sequences; /* [slot_count] */
    slot_list free, running, leaving, preempted, parked;
    slot_heap waiting, deadlines;
    uint32_t cancelled_count;
    uint32_t *cancelled; /* [slot_count] */
    uint32_t tables_free_count;
    kv_table *tables_free; /* [seqs_max] a stack */

    uint32_t work_count, token_count;
    uint32_t tokens_end;    /* of the step: the most that token_count may be */
    uint32_t flights;       /* steps launched and not collected */
    sched_work *work;       /* [seqs_max] the plan */
    sched_dropped *dropped; /* [slot_count] */

    uint64_t arrivals, preemptions_total, admitted_total;
    int64_t last_finish_us; /* 0: none yet */
    int64_t finish_gap_us;  /* running mean of the time between finishes; 0: not known */
};

/* waiting.c */
void list_init(slot_list *list);
void list_push_head(scheduler *s, slot_list *list, uint32_t slot);
void list_push_tail(scheduler *s, slot_list *list, uint32_t slot);
void list_remove(scheduler *s, slot_list *list, uint32_t slot);
void heap_push(scheduler *s, slot_heap *heap, uint32_t slot);
void heap_remove(scheduler *s, slot_heap *heap, uint32_t slot);
bool heap_before(const scheduler *s, const slot_heap *heap, uint32_t a, uint32_t b);

/* The waiting order: preempted ones, then by priority, then by arrival. */
uint32_t waiting_head(const scheduler *s);  /* NO_SLOT: nobody waits, but for those parked */
uint32_t waiting_count(const scheduler *s); /* those parked, too */
void waiting_remove(scheduler *s, uint32_t slot);
/* Before `slot` is admitted: whether one that was parked for long has to go first. */
bool waiting_is_barred(const scheduler *s, uint32_t slot, int64_t now_us);

/* adapted.c */
/* The adapter of a sequence that is about to run; HELD also for one that has none. */
sched_turn seq_hold(scheduler *s, sequence *q, int64_t now_us);
void seq_let_go(scheduler *s, const sequence *q);
/* Out of the line until sched_retry. */
void seq_park(scheduler *s, uint32_t slot, int64_t now_us);
/* Pages for a sequence out of frames of adapters that nobody holds, but its own; false: they gave none. */
bool seq_shed(scheduler *s, const sequence *q, sched_shed level);
/* Adapters of those who are next in line are wanted before they are asked for. */
void seq_prefetch(scheduler *s);
/* More than all pages, with its adapter whose size is known only now. */
bool seq_never_fits(const scheduler *s, const sequence *q);

/* scheduler.c */
sched_seq seq_handle(const scheduler *s, uint32_t slot);
/* Known tokens beyond options.short_context. */
bool seq_outgrown(const scheduler *s, const sequence *q);
/* Tokens that a prefill has room for: with one more, or its own first answer would preempt it. */
uint32_t seq_prefill_tokens(const sequence *q);
/* Waiting -> running; false when pages are short. */
bool seq_admit(scheduler *s, uint32_t slot);
/* Running -> head of the waiting ones, pages dropped. */
void seq_preempt(scheduler *s, uint32_t slot);
/* Out of every list, pages dropped, slot free; or LEAVING, until no step computes it any more. */
void seq_end(scheduler *s, uint32_t slot);
/* LEAVING -> pages dropped, slot free. */
void seq_gone(scheduler *s, uint32_t slot);
/* NO_SLOT for a handle whose sequence has ended. */
uint32_t seq_slot(const scheduler *s, sched_seq seq);

#endif
