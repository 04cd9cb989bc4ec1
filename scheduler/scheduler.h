/* scheduler.h - who runs next. Pure: requests, results and now_us in, a plan out; no clock, lock,
 * I/O, or malloc after sched_open, so any run replays from its log and a simulator drives millions of steps.
 *
 * One sequence is one request. `known` tokens = prompt + generated so far; `cached` = of those, how
 * many have their keys and values in pages. A step computes known - cached tokens, or a chunk of them;
 * when the last known token is computed the sequence has a logits row, and the engine answers with
 * sched_append (one more known token) or sched_finish.
 *
 *            sched_submit               admitted by sched_step (pages for prompt + 1)
 *   (caller) ------------>  WAITING  ------------------------------------------>  RUNNING
 *                              ^  |      preempted: pages dropped, cached = 0        |  |
 *                              +--|--------------------------------------------------+  |
 *                                 | sched_cancel, deadline, sched_finish                | the same
 *                                 v                                                     v
 *                               (gone; the slot is free)  <-------------------------  LEAVING
 *                                                               sched_collected, or at once when no plan
 *                                                               in flight computes it
 *
 * Plan: decodes (one token left to compute) first, then prefill chunks, first come first served, until
 * step_tokens are spent, or beside decodes prefill_chunk; at most one partial chunk a step. A whole request is
 * never cut: it waits, and who waits behind it too, until a step has room for all of it. When pages run out for
 * a running sequence's growth, the newest running sequence is preempted and goes to the head of the waiting
 * ones (it recomputes; by law 1 its tokens do not change).
 *
 * A request with an adapter runs while it holds the adapter (sched_adapters). One whose adapter must be
 * brought first is parked: it stands aside, and who waits behind it goes on. When the adapter has come it
 * stands where it stood. Nobody who came later is admitted past one that has been parked for
 * SCHED_PATIENCE_US, so that running sequences end and their adapters make room for its own; a preempted one
 * is never passed. When pages are short for growth, adapters that nobody holds give their frames before a
 * sequence is preempted; for an admission those that nobody asks for, and others when nothing runs.
 *
 * Pages behind a window are given back as soon as what moved the window is computed. Of a window group a
 * long prompt holds, from its admission on, what its window and one step can touch, not the whole prompt.
 *
 * Thread     the engine thread only.
 * Invariant  sched_check: every running sequence's table holds its cached tokens; no slot is in two lists;
 *            plan tokens <= step_tokens. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_SCHEDULER_H
#define ESPALIER_SCHEDULER_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "kvcache/kvcache.h"

typedef struct scheduler scheduler;

enum { SCHED_PATIENCE_US = 2000000 };

typedef struct sched_options {
    uint32_t seqs_max;    /* most running sequences (--max-seqs) */
    uint32_t waiting_max; /* most waiting ones; a submit beyond is refused */
    uint32_t step_tokens; /* token budget of a step (--step-tokens) */
    /* That of prompts in a step with decodes (--prefill-chunk); 0: what these leave. */
    uint32_t prefill_chunk;
    uint32_t context_max;   /* most tokens of a sequence (--max-context) */
    uint32_t short_context; /* a sequence that grows beyond it is computed anew, once; 0: none is */
    kv_options kv;          /* table_count, table_pages_max and step_tokens are set by sched_open */
} sched_options;

/* What the scheduler is told of a request. */
typedef struct sched_request {
    void *owner;            /* the engine's request; comes back in plans, never followed */
    uint32_t prompt_tokens; /* >= 1 */
    uint32_t output_max;    /* >= 1; prompt_tokens + output_max <= context_max */
    /* It ends with its prompt: output_max is 0, sched_append is never called. */
    bool prompt_only;
    bool whole;          /* of one that is prompt_only: all its tokens in one step */
    void *adapter;       /* what it must hold while it runs (sched_adapters); NULL: nothing */
    int32_t priority;    /* higher goes first among the waiting; 0 by default */
    int64_t deadline_us; /* monotonic; 0 = none */
} sched_request;

/* Handle of a live sequence; stale handles are told apart by generation. */
typedef struct sched_seq {
    uint32_t slot, generation;
} sched_seq;

typedef struct sched_work {
    sched_seq seq;
    void *owner;
    kv_table table;
    uint32_t first; /* position of the first token to compute (= cached) */
    uint32_t count; /* tokens to compute, >= 1 */
    bool row;       /* the last one is the last known token: its logits are wanted */
    bool outgrown;  /* the sequence has more known tokens than short_context */
} sched_work;

typedef struct sched_dropped {
    sched_seq seq;
    void *owner;
    /* ESP_DEADLINE, ESP_CANCELLED, or ESP_UNAVAILABLE: its adapter; ESP_EXHAUSTED: it and its adapter together
     * are more than all pages. */
    esp_code why;
} sched_dropped;

typedef struct sched_plan {
    uint32_t work_count, token_count, row_count;
    const sched_work *work; /* the scheduler's, valid until the next sched_step */
    uint32_t dropped_count;
    const sched_dropped *dropped; /* valid as long; ended before this step, pages already released */
    uint32_t preempted;           /* sequences pushed back by this plan */
    /* Those who wait for an adapter; with work_count 0 nothing is to be done before one comes. */
    uint32_t parked;
} sched_plan;

/* Adapters as the scheduler sees them: things that a sequence holds while it runs, that may have to be
 * brought first, and that lie in frames of the same arena as the pages. All called by the engine
 * thread from within sched_step, sched_finish and their like; none of them calls the scheduler but for
 * sched_lease and sched_return. */
typedef enum sched_turn {
    SCHED_HELD,  /* it is there, and stays until drop */
    SCHED_LATER, /* it is being brought: sched_retry says when to ask again */
    SCHED_NEVER, /* it cannot be brought: the sequence is dropped with ESP_UNAVAILABLE */
} sched_turn;

/* How much adapters are asked to give: each level includes those before. */
typedef enum sched_shed {
    SHED_UNWANTED, /* what no request asks for */
    SHED_WANTED,   /* what only waiting requests ask for */
    SHED_PINNED,   /* what is pinned, too: the oldest sequence could not go on otherwise */
} sched_shed;

typedef struct sched_adapters {
    void *arg;
    sched_turn (*hold)(void *arg, void *adapter, int64_t now_us);
    void (*drop)(void *arg, void *adapter);
    /* A sequence near the head of the line will ask for it: the move may begin. */
    void (*want)(void *arg, void *adapter);
    /* Returns frames (sched_return) of an adapter that nobody holds, other than `but`; false: none. */
    bool (*shed)(void *arg, sched_shed level, const void *but);
    /* Frames that the adapter takes, 0 while not known, and frames of pinned ones other than it. */
    uint32_t (*frames)(void *arg, const void *adapter);
    uint32_t (*pinned)(void *arg, const void *but);
} sched_adapters;

typedef struct sched_stats {
    uint32_t waiting, running;
    uint32_t parked; /* of the waiting ones: those whose adapter is being brought */
    uint32_t pages_free, pages_total;
    uint64_t preemptions_total, admitted_total;
} sched_stats;

ESP_CHECKED esp_code sched_open(scheduler **out, const sched_options *options, esp_error *err);
void sched_close(scheduler *s);

/* Queues a request. ESP_INVALID: can never fit (context or page count); the sentence names the limit and
 * the flag. ESP_EXHAUSTED: waiting_max reached; retry_ms is set from the recent drain rate. */
ESP_CHECKED esp_code sched_submit(scheduler *s, int64_t now_us, const sched_request *request,
                                  sched_seq *out, esp_error *err);

/* The next step's plan; may be empty. Drops cancelled and expired sequences first. */
void sched_step(scheduler *s, int64_t now_us, sched_plan *plan);

/* The plan was computed: cached advances by each work's count. */
void sched_computed(scheduler *s);

/* The same of a plan that a device is at: it is in flight until sched_collected. Until then its sequences
 * keep pages, adapter and seat, also when they end, and nothing is leased. The steps of a device come one
 * after another: what a later one is planned with is there when that one runs. */
enum { SCHED_FLIGHTS_MAX = 2 };
void sched_launched(scheduler *s);
/* The oldest plan in flight is over; its works, as it had them. */
void sched_collected(scheduler *s, const sched_work *works, uint32_t count);
/* Whether sched_step may be called with a plan in flight: it would preempt nobody. Takes the pages that
 * running sequences grow into. */
bool sched_may_lead(scheduler *s);
/* Not ended yet. */
bool sched_lives(const scheduler *s, sched_seq seq);

/* One more known token of a sequence whose row was sampled, or will have been before the next plan is
 * computed. With the one beyond short_context the model treats the whole sequence differently: what is cached no
 * longer counts, and it keeps its pages, but for window groups that have freed some of theirs. */
void sched_append(scheduler *s, sched_seq seq);

/* The sequence is over; its pages are released, now or with the last plan in flight that has it. */
void sched_finish(scheduler *s, int64_t now_us, sched_seq seq);

/* Once, before the first request that has an adapter. */
void sched_set_adapters(scheduler *s, const sched_adapters *adapters);
/* The adapter has come, or never will: who waits for it stands in line again, where it stood. */
void sched_retry(scheduler *s, const void *adapter);
/* Frames that sched_lease would have if so many more were returned. */
uint32_t sched_leasable(const scheduler *s, uint32_t returned);
/* Frames of the arena for an adapter. All or nothing; refused when it would leave less than a free page
 * for each group of each running sequence, so that it preempts nobody, or less than the first in line
 * waits for; or while a plan is in flight, as what is copied into frames is copied beside it. */
ESP_CHECKED bool sched_lease(scheduler *s, uint32_t count, uint32_t *frames);
void sched_return(scheduler *s, uint32_t count, const uint32_t *frames);

/* Marks it; the next sched_step drops it (stale handles are ignored). */
void sched_cancel(scheduler *s, sched_seq seq);

/* Tests and the bench force a preemption of the newest running sequence; false when none runs. */
bool sched_preempt_newest(scheduler *s);

void sched_read_stats(const scheduler *s, sched_stats *out);
const kv_cache *sched_kv(const scheduler *s);
bool sched_idle(const scheduler *s); /* nothing waiting or running */
void sched_check(const scheduler *s);

#endif
