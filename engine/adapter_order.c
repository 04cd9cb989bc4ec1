/* adapter_order.c - slots by hash, then one stable counting sort. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/adapter_order.h"

#include <assert.h>
#include <stdlib.h>

#include "engine/base/batch.h"
#include "engine/base/mem.h"
#include "engine/base/status.h"

void adapter_order_open(adapter_order *o, uint32_t seqs_max) {
    uint32_t places = 16;
    while (places < 2 * seqs_max)
        places *= 2;
    *o = (adapter_order){.seqs_max = seqs_max, .places_mask = places - 1};
    o->places = mem_new(places, sizeof *o->places);
    o->adapters = mem_new(seqs_max, sizeof *o->adapters);
    o->order = mem_new(seqs_max, sizeof *o->order);
    o->slots = mem_new(seqs_max, sizeof *o->slots);
    o->ends = mem_new((size_t)seqs_max + 1, sizeof *o->ends);
}

void adapter_order_close(adapter_order *o) {
    free(o->places);
    free(o->adapters);
    free(o->order);
    free(o->slots);
    free(o->ends);
}

void adapter_order_begin(adapter_order *o) {
    o->step++;
    o->slot_count = 0;
    o->ends[0] = 0;
}

static uint32_t hash_of(const void *adapter) {
    return (uint32_t)((uint64_t)(uintptr_t)adapter * 0x9e3779b97f4a7c15u >> 32);
}

/* At most half of the places are taken, so a free one is always found. */
static uint32_t slot_of(adapter_order *o, const void *adapter) {
    uint32_t at = hash_of(adapter) & o->places_mask;
    while (o->places[at].step == o->step && o->places[at].adapter != adapter)
        at = (at + 1) & o->places_mask;
    adapter_place *place = &o->places[at];
    if (place->step == o->step) return place->slot;
    *place = (adapter_place){adapter, o->step, o->slot_count};
    o->adapters[o->slot_count++] = adapter;
    o->ends[o->slot_count] = 0;
    return place->slot;
}

void adapter_order_add(adapter_order *o, uint32_t work, const void *adapter) {
    ESP_ASSERT(work < o->seqs_max);
    o->slots[work] = adapter ? (int32_t)slot_of(o, adapter) : BATCH_NO_ADAPTER;
    o->ends[o->slots[work] + 1]++; /* the base's are counted at 0 */
}

void adapter_order_sort(adapter_order *o, uint32_t work_count) {
    uint32_t end = 0;
    static_assert(BATCH_NO_ADAPTER == -1, "the base's slot comes before all others");
    /* From counts to where each one's sequences begin; placing them moves that to where they end. */
    for (uint32_t i = 0; i <= o->slot_count; i++) {
        uint32_t count = o->ends[i];
        o->ends[i] = end;
        end += count;
    }
    ESP_ASSERT(end == work_count);
    for (uint32_t work = 0; work < work_count; work++)
        o->order[o->ends[o->slots[work] + 1]++] = work;
}
