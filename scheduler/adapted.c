/* adapted.c - sequences that need an adapter: held, parked, called again; frames lent to adapters. */
// SPDX-License-Identifier: Apache-2.0
#include "scheduler/state.h"

enum { PREFETCH = 4 };

void sched_set_adapters(scheduler *s, const sched_adapters *adapters) {
    ESP_ASSERT(!s->adapters.hold && adapters->hold && adapters->drop && adapters->shed);
    ESP_ASSERT(adapters->want && adapters->frames && adapters->pinned);
    s->adapters = *adapters;
}

sched_turn seq_hold(scheduler *s, sequence *q, int64_t now_us) {
    void *adapter = q->request.adapter;
    return adapter ? s->adapters.hold(s->adapters.arg, adapter, now_us) : SCHED_HELD;
}

void seq_let_go(scheduler *s, const sequence *q) {
    if (q->request.adapter) s->adapters.drop(s->adapters.arg, q->request.adapter);
}

void seq_park(scheduler *s, uint32_t slot, int64_t now_us) {
    sequence *q = &s->sequences[slot];
    ESP_ASSERT(q->state == SEQ_WAITING && q->heap_index[HEAP_WAITING] != NO_SLOT);
    waiting_remove(s, slot);
    q->state = SEQ_PARKED;
    if (q->parked_us == 0) q->parked_us = now_us;
    list_push_tail(s, &s->parked, slot);
}

void sched_retry(scheduler *s, const void *adapter) {
    uint32_t next;
    for (uint32_t slot = s->parked.head; slot != NO_SLOT; slot = next) {
        sequence *q = &s->sequences[slot];
        next = q->next;
        if (q->request.adapter != adapter) continue;
        list_remove(s, &s->parked, slot);
        q->state = SEQ_WAITING;
        heap_push(s, &s->waiting, slot);
    }
}

bool seq_shed(scheduler *s, const sequence *q, sched_shed level) {
    return s->adapters.shed && s->adapters.shed(s->adapters.arg, level, q->request.adapter);
}

bool seq_never_fits(const scheduler *s, const sequence *q) {
    const sched_request *r = &q->request;
    if (!r->adapter) return false;
    uint64_t pages = kv_pages_for(s->kv, r->prompt_tokens + r->output_max);
    return pages + s->adapters.frames(s->adapters.arg, r->adapter) > kv_page_count(s->kv);
}

/* Of the heap's indices in `edge` the one whose slot is first in line, taken out. */
static uint32_t take_first(const scheduler *s, uint32_t *edge, uint32_t *count) {
    const slot_heap *line = &s->waiting;
    uint32_t first = 0;
    for (uint32_t i = 1; i < *count; i++)
        if (heap_before(s, line, line->slots[edge[i]], line->slots[edge[first]])) first = i;
    uint32_t index = edge[first];
    edge[first] = edge[--*count];
    return index;
}

/* No more than a few: what is brought long before it is used is in the way of others. */
void seq_prefetch(scheduler *s) {
    uint32_t edge[PREFETCH + 2] = {0}, count = 1;
    for (uint32_t i = 0; i < PREFETCH && count > 0; i++) {
        uint32_t index = take_first(s, edge, &count);
        void *adapter = s->sequences[s->waiting.slots[index]].request.adapter;
        if (adapter) s->adapters.want(s->adapters.arg, adapter);
        for (uint32_t child = 2 * index + 1; child <= 2 * index + 2; child++)
            if (child < s->waiting.count) edge[count++] = child;
    }
}

/* ---- frames ---- */

uint32_t sched_leasable(const scheduler *s, uint32_t returned) {
    uint64_t kept = (uint64_t)s->running.count * s->options.kv.group_count;
    if (kept < s->line_pages) kept = s->line_pages;
    uint64_t pages = (uint64_t)kv_free_count(s->kv) + returned;
    return kept < pages ? (uint32_t)(pages - kept) : 0;
}

bool sched_lease(scheduler *s, uint32_t count, uint32_t *frames) {
    return s->flights == 0 && count <= sched_leasable(s, 0) && kv_lease(s->kv, count, frames);
}

void sched_return(scheduler *s, uint32_t count, const uint32_t *frames) {
    kv_return(s->kv, count, frames);
}
