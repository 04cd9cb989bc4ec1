/* step.c - the plan of one step.
 *
 *   drop   cancelled and expired sequences end
 *   share  each running sequence is promised tokens of the budget: decodes first, then prefills,
 *          both oldest first. Only the last promise can be a partial chunk: it spends the budget,
 *          which beside decodes is a chunk of prompts
 *   back   the promises are backed with pages, oldest first; when pages run out the newest running
 *          sequence is preempted. It comes last, so no promise already backed is ever broken,
 *          and the oldest always advances
 *   list   promises become the plan's work, in the order they were made
 *   admit  waiting ones join while budget, places and pages last, past those whose adapter is not
 *          there; not in a step that preempted, which would only move the same pages in a circle */
// SPDX-License-Identifier: Apache-2.0
#include "scheduler/state.h"

static void drop(scheduler *s, sched_plan *plan, uint32_t slot, esp_code why) {
    s->dropped[plan->dropped_count++] =
        (sched_dropped){seq_handle(s, slot), s->sequences[slot].request.owner, why};
    seq_end(s, slot);
}

static void drop_ended(scheduler *s, int64_t now_us, sched_plan *plan) {
    while (s->cancelled_count > 0)
        drop(s, plan, s->cancelled[0], ESP_CANCELLED);
    while (s->deadlines.count > 0) {
        uint32_t slot = s->deadlines.slots[0];
        if (s->sequences[slot].request.deadline_us > now_us) break;
        drop(s, plan, slot, ESP_DEADLINE);
    }
}

static uint32_t tokens_left(const sequence *q) { return q->known - q->cached; }

/* Promises tokens to the running decodes, or to the running prefills; returns the budget left. */
static uint32_t share(scheduler *s, bool decodes, uint32_t budget) {
    for (uint32_t slot = s->running.head; slot != NO_SLOT; slot = s->sequences[slot].next) {
        sequence *q = &s->sequences[slot];
        uint32_t left = tokens_left(q);
        if ((left <= 1) != decodes) continue;
        q->planned = left < budget ? left : budget;
        budget -= q->planned;
    }
    return budget;
}

/* What a step's tokens may come to. Who waits for the next token of an answer waits for all of them. */
static uint32_t tokens_end(const scheduler *s, uint32_t decodes) {
    uint32_t chunk = s->options.prefill_chunk, room = s->options.step_tokens - decodes;
    return decodes && chunk && chunk < room ? decodes + chunk : s->options.step_tokens;
}

static uint32_t tokens_to_back(const sequence *q) {
    return tokens_left(q) > 1 ? seq_prefill_tokens(q) : q->known;
}

/* Preempts from the newest on until the sequence has its pages; true when it was the one to go. */
static bool back(scheduler *s, uint32_t slot, sched_plan *plan) {
    const sequence *q = &s->sequences[slot];
    while (kv_reserve(s->kv, q->table, tokens_to_back(q)) != ESP_OK) {
        uint32_t newest = s->running.tail;
        bool alone = newest == s->running.head; /* sched_submit took only what fits alone */
        if (seq_shed(s, q, alone ? SHED_PINNED : SHED_WANTED)) continue;
        ESP_ASSERT(!alone || kv_leased_count(s->kv) > 0);
        if (alone) return true; /* an adapter on its way has the rest: it comes, and is asked */
        seq_preempt(s, newest);
        plan->preempted++;
        if (newest == slot) return true;
    }
    return false;
}

static void back_all(scheduler *s, sched_plan *plan) {
    uint32_t slot = s->running.head;
    while (slot != NO_SLOT) {
        if (s->sequences[slot].planned > 0 && back(s, slot, plan)) { /* it was the last */
            s->sequences[slot].planned = 0;
            return;
        }
        slot = s->sequences[slot].next;
    }
}

static void list_work(scheduler *s, sched_plan *plan, uint32_t slot) {
    const sequence *q = &s->sequences[slot];
    bool row = q->cached + q->planned == q->known;
    s->work[s->work_count++] = (sched_work){.seq = seq_handle(s, slot),
                                            .owner = q->request.owner,
                                            .table = q->table,
                                            .first = q->cached,
                                            .count = q->planned,
                                            .row = row,
                                            .outgrown = seq_outgrown(s, q)};
    s->token_count += q->planned;
    plan->row_count += row;
}

static void list_running(scheduler *s, sched_plan *plan, bool decodes) {
    for (uint32_t slot = s->running.head; slot != NO_SLOT; slot = s->sequences[slot].next) {
        const sequence *q = &s->sequences[slot];
        if (q->planned > 0 && (tokens_left(q) == 1) == decodes) list_work(s, plan, slot);
    }
}

static bool fits(const scheduler *s, const sequence *q) {
    return !q->request.whole || q->known <= s->options.step_tokens - s->token_count;
}

/* Its adapter, then its pages. False: it waits, and who waits behind it too. */
static bool admit_one(scheduler *s, sched_plan *plan, uint32_t slot, int64_t now_us) {
    sequence *q = &s->sequences[slot];
    bool preempted = q->heap_index[HEAP_WAITING] == NO_SLOT;
    if (!fits(s, q) || waiting_is_barred(s, slot, now_us)) return false;
    sched_turn turn = seq_hold(s, q, now_us);
    if (turn == SCHED_NEVER) {
        drop(s, plan, slot, ESP_UNAVAILABLE);
        return true;
    }
    if (turn == SCHED_LATER) {
        if (!preempted) seq_park(s, slot, now_us);
        plan->parked += preempted;
        return !preempted;
    }
    if (seq_never_fits(s, q)) {
        seq_let_go(s, q);
        drop(s, plan, slot, ESP_EXHAUSTED);
        return true;
    }
    if (!seq_admit(s, slot)) {
        s->line_pages = kv_pages_for(s->kv, seq_prefill_tokens(q));
        seq_let_go(s, q);
        return false;
    }
    uint32_t budget = s->tokens_end - s->token_count;
    q->planned = q->known < budget || q->request.whole ? q->known : budget;
    list_work(s, plan, slot);
    return true;
}

static void admit(scheduler *s, sched_plan *plan, int64_t now_us) {
    uint32_t leaving = s->leaving.count; /* they still have their seats */
    while (s->running.count + leaving < s->options.seqs_max && s->token_count < s->tokens_end) {
        uint32_t slot = waiting_head(s);
        if (slot == NO_SLOT || !admit_one(s, plan, slot, now_us)) return;
    }
}

void sched_step(scheduler *s, int64_t now_us, sched_plan *plan) {
    *plan = (sched_plan){.work = s->work, .dropped = s->dropped};
    s->work_count = s->token_count = 0;
    s->line_pages = 0;
    drop_ended(s, now_us, plan);
    uint32_t decodes = s->options.step_tokens - share(s, true, s->options.step_tokens);
    s->tokens_end = tokens_end(s, decodes);
    share(s, false, s->tokens_end - decodes);
    back_all(s, plan);
    list_running(s, plan, true);
    list_running(s, plan, false);
    if (plan->preempted == 0) admit(s, plan, now_us);
    if (s->adapters.want && s->waiting.count > 0) seq_prefetch(s);
    plan->work_count = s->work_count;
    plan->token_count = s->token_count;
    plan->parked += s->parked.count;
    ESP_ASSERT(s->token_count <= s->options.step_tokens);
}

/* NULL: ended or preempted since it was planned. */
static sequence *sequence_of(scheduler *s, const sched_work *w) {
    sequence *q = &s->sequences[w->seq.slot];
    return q->state == SEQ_RUNNING && q->generation == w->seq.generation ? q : NULL;
}

void sched_computed(scheduler *s) {
    for (uint32_t i = 0; i < s->work_count; i++) {
        sequence *q = sequence_of(s, &s->work[i]);
        if (!q) continue;
        q->cached += q->planned;
        q->planned = 0;
        kv_slide(s->kv, q->table, q->cached);
    }
    s->work_count = 0;
}

/* ---- steps in flight ---- */

void sched_launched(scheduler *s) {
    ESP_ASSERT(s->flights < SCHED_FLIGHTS_MAX);
    s->flights++;
    for (uint32_t i = 0; i < s->work_count; i++) {
        sequence *q = sequence_of(s, &s->work[i]);
        ESP_ASSERT(q); /* nothing came between */
        q->flights++;
    }
    sched_computed(s);
}

void sched_collected(scheduler *s, const sched_work *works, uint32_t count) {
    ESP_ASSERT(s->flights > 0);
    s->flights--;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t slot = works[i].seq.slot;
        sequence *q = &s->sequences[slot];
        ESP_ASSERT(q->generation == works[i].seq.generation && q->flights > 0);
        q->flights--;
        if (q->state == SEQ_LEAVING && q->flights == 0) seq_gone(s, slot);
    }
}

bool sched_lives(const scheduler *s, sched_seq seq) { return seq_slot(s, seq) != NO_SLOT; }

static bool is_backed(scheduler *s, const sequence *q) {
    return tokens_left(q) == 0 || kv_reserve(s->kv, q->table, tokens_to_back(q)) == ESP_OK;
}

bool sched_may_lead(scheduler *s) {
    for (uint32_t slot = s->running.head; slot != NO_SLOT; slot = s->sequences[slot].next)
        if (!is_backed(s, &s->sequences[slot])) return false;
    return s->running.count > 0;
}
