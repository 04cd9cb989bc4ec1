/* waiting.c - lists and heaps of slots, and the order of those who wait. */
// SPDX-License-Identifier: Apache-2.0
#include "scheduler/state.h"

void list_init(slot_list *list) { *list = (slot_list){NO_SLOT, NO_SLOT, 0}; }

static void list_link(scheduler *s, slot_list *list, uint32_t prev, uint32_t slot, uint32_t next) {
    s->sequences[slot].prev = prev;
    s->sequences[slot].next = next;
    *(prev == NO_SLOT ? &list->head : &s->sequences[prev].next) = slot;
    *(next == NO_SLOT ? &list->tail : &s->sequences[next].prev) = slot;
    list->count++;
}

void list_push_head(scheduler *s, slot_list *list, uint32_t slot) {
    list_link(s, list, NO_SLOT, slot, list->head);
}

void list_push_tail(scheduler *s, slot_list *list, uint32_t slot) {
    list_link(s, list, list->tail, slot, NO_SLOT);
}

void list_remove(scheduler *s, slot_list *list, uint32_t slot) {
    uint32_t prev = s->sequences[slot].prev, next = s->sequences[slot].next;
    *(prev == NO_SLOT ? &list->head : &s->sequences[prev].next) = next;
    *(next == NO_SLOT ? &list->tail : &s->sequences[next].prev) = prev;
    list->count--;
}

/* Arrival numbers are unique, so the order is total and a replay pops the same slots. */
bool heap_before(const scheduler *s, const slot_heap *heap, uint32_t a, uint32_t b) {
    const sequence *x = &s->sequences[a], *y = &s->sequences[b];
    if (heap->kind == HEAP_WAITING && x->request.priority != y->request.priority)
        return x->request.priority > y->request.priority;
    if (heap->kind == HEAP_DEADLINE && x->request.deadline_us != y->request.deadline_us)
        return x->request.deadline_us < y->request.deadline_us;
    return x->arrival < y->arrival;
}

static void heap_put(scheduler *s, slot_heap *heap, uint32_t index, uint32_t slot) {
    heap->slots[index] = slot;
    s->sequences[slot].heap_index[heap->kind] = index;
}

static void heap_sift_up(scheduler *s, slot_heap *heap, uint32_t index, uint32_t slot) {
    while (index > 0) {
        uint32_t parent = (index - 1) / 2;
        if (!heap_before(s, heap, slot, heap->slots[parent])) break;
        heap_put(s, heap, index, heap->slots[parent]);
        index = parent;
    }
    heap_put(s, heap, index, slot);
}

static void heap_sift_down(scheduler *s, slot_heap *heap, uint32_t index, uint32_t slot) {
    for (;;) {
        uint32_t child = 2 * index + 1;
        if (child >= heap->count) break;
        if (child + 1 < heap->count &&
            heap_before(s, heap, heap->slots[child + 1], heap->slots[child]))
            child++;
        if (!heap_before(s, heap, heap->slots[child], slot)) break;
        heap_put(s, heap, index, heap->slots[child]);
        index = child;
    }
    heap_put(s, heap, index, slot);
}

void heap_push(scheduler *s, slot_heap *heap, uint32_t slot) {
    ESP_ASSERT(heap->count < s->slot_count);
    heap_sift_up(s, heap, heap->count++, slot);
}

void heap_remove(scheduler *s, slot_heap *heap, uint32_t slot) {
    uint32_t index = s->sequences[slot].heap_index[heap->kind];
    ESP_ASSERT(index < heap->count && heap->slots[index] == slot);
    uint32_t last = heap->slots[--heap->count];
    if (last != slot) {
        heap_sift_down(s, heap, index, last);
        if (heap->slots[index] == last) heap_sift_up(s, heap, index, last);
    }
    s->sequences[slot].heap_index[heap->kind] = NO_SLOT;
}

uint32_t waiting_head(const scheduler *s) {
    if (s->preempted.count > 0) return s->preempted.head;
    return s->waiting.count > 0 ? s->waiting.slots[0] : NO_SLOT;
}

uint32_t waiting_count(const scheduler *s) {
    return s->preempted.count + s->waiting.count + s->parked.count;
}

void waiting_remove(scheduler *s, uint32_t slot) {
    const sequence *q = &s->sequences[slot];
    if (q->heap_index[HEAP_WAITING] != NO_SLOT)
        heap_remove(s, &s->waiting, slot);
    else
        list_remove(s, q->state == SEQ_PARKED ? &s->parked : &s->preempted, slot);
}

/* Of those parked the first came there first; one that came back from the line stands where it came
 * again, so all are looked at. They are few: each waits for an adapter on its way. */
bool waiting_is_barred(const scheduler *s, uint32_t slot, int64_t now_us) {
    for (uint32_t p = s->parked.head; p != NO_SLOT; p = s->sequences[p].next)
        if (now_us - s->sequences[p].parked_us > SCHED_PATIENCE_US &&
            heap_before(s, &s->waiting, p, slot))
            return true;
    return false;
}
