/* invariant.c - sched_check: walks every list and asserts what state.h says of it. */
// SPDX-License-Identifier: Apache-2.0
#include "scheduler/state.h"

/* Each slot of the list is in the wanted state and linked both ways; returns nothing, asserts. */
static void check_list(const scheduler *s, const slot_list *list, seq_state state) {
    uint32_t count = 0, prev = NO_SLOT;
    for (uint32_t slot = list->head; slot != NO_SLOT; slot = s->sequences[slot].next) {
        ESP_ASSERT(slot < s->slot_count && count < s->slot_count);
        ESP_ASSERT(s->sequences[slot].state == state && s->sequences[slot].prev == prev);
        ESP_ASSERT(s->sequences[slot].heap_index[HEAP_WAITING] == NO_SLOT);
        prev = slot;
        count++;
    }
    ESP_ASSERT(list->tail == prev && list->count == count);
}

static void check_heap(const scheduler *s, const slot_heap *heap) {
    for (uint32_t i = 0; i < heap->count; i++) {
        uint32_t slot = heap->slots[i];
        ESP_ASSERT(slot < s->slot_count && s->sequences[slot].heap_index[heap->kind] == i);
        ESP_ASSERT(i == 0 || heap_before(s, heap, heap->slots[(i - 1) / 2], slot));
    }
}

static void check_running(const scheduler *s, const sequence *q) {
    const kv_options *kv = &s->options.kv;
    for (uint32_t group = 0; group < kv->group_count; group++) {
        kv_list list = kv_pages(s->kv, q->table, group);
        uint32_t window = kv->windows[group];
        uint32_t oldest = window && q->cached >= window ? q->cached - window + 1 : 0;
        ESP_ASSERT(list.begin == oldest / KV_PAGE_TOKENS);
        ESP_ASSERT((uint64_t)list.end * KV_PAGE_TOKENS >= (uint64_t)q->cached + q->planned);
    }
    ESP_ASSERT(q->cached + q->planned <= q->known);
}

/* A state has exactly one list, so a slot in two lists would have shown as a wrong count. */
static void check_sequences(const scheduler *s) {
    uint32_t count[SEQ_LEAVING + 1] = {0}, with_deadline = 0, cancelled = 0;
    for (uint32_t slot = 0; slot < s->slot_count; slot++) {
        const sequence *q = &s->sequences[slot];
        count[q->state]++;
        ESP_ASSERT(
            (q->heap_index[HEAP_DEADLINE] != NO_SLOT) ==
            (q->state != SEQ_FREE && q->state != SEQ_LEAVING && q->request.deadline_us != 0));
        ESP_ASSERT(q->flights <= s->flights &&
                   (q->flights == 0 || q->state == SEQ_RUNNING || q->state == SEQ_LEAVING));
        ESP_ASSERT(q->state != SEQ_LEAVING || (q->flights > 0 && q->cancel_index == NO_SLOT));
        ESP_ASSERT((q->state != SEQ_WAITING && q->state != SEQ_PARKED) || (q->cached == 0 && q->planned == 0));
        if (q->state == SEQ_RUNNING) check_running(s, q);
        with_deadline += q->heap_index[HEAP_DEADLINE] != NO_SLOT;
        if (q->cancel_index == NO_SLOT) continue;
        ESP_ASSERT(q->state != SEQ_FREE && s->cancelled[q->cancel_index] == slot);
        cancelled++;
    }
    ESP_ASSERT(count[SEQ_FREE] == s->free.count && count[SEQ_RUNNING] == s->running.count);
    ESP_ASSERT(count[SEQ_PARKED] == s->parked.count && count[SEQ_LEAVING] == s->leaving.count);
    ESP_ASSERT(count[SEQ_WAITING] + count[SEQ_PARKED] == waiting_count(s));
    ESP_ASSERT(with_deadline == s->deadlines.count && cancelled == s->cancelled_count);
}

static void check_tables(const scheduler *s) {
    ESP_ASSERT(s->tables_free_count + s->running.count + s->leaving.count == s->options.seqs_max);
    for (uint32_t i = 0; i < s->tables_free_count; i++) {
        for (uint32_t group = 0; group < s->options.kv.group_count; group++)
            ESP_ASSERT(kv_pages(s->kv, s->tables_free[i], group).end == 0);
    }
}

static void check_plan(const scheduler *s) {
    uint32_t tokens = 0;
    for (uint32_t i = 0; i < s->work_count; i++)
        tokens += s->work[i].count;
    ESP_ASSERT(s->work_count == 0 || tokens == s->token_count);
    ESP_ASSERT(tokens <= s->options.step_tokens && s->work_count <= s->options.seqs_max);
}

void sched_check(const scheduler *s) {
    check_list(s, &s->free, SEQ_FREE);
    check_list(s, &s->running, SEQ_RUNNING);
    check_list(s, &s->leaving, SEQ_LEAVING);
    check_list(s, &s->preempted, SEQ_WAITING);
    check_list(s, &s->parked, SEQ_PARKED);
    check_heap(s, &s->waiting);
    check_heap(s, &s->deadlines);
    check_sequences(s);
    check_tables(s);
    check_plan(s);
}
