/* adapter_order.h - the sequences of a step, ordered by their adapters.
 *
 * The base's sequences come first, then those of each adapter together, adapters in the order in which the
 * plan first names them, and sequences of one adapter as they stand in the plan. So each adapter's tokens
 * are one segment of the batch (engine/model/segments.h). A step without adapters keeps the plan's order.
 *
 * Thread  the engine thread. Allocates at open only; a step costs its sequences, whatever is registered. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_ADAPTER_ORDER_H
#define ESPALIER_ADAPTER_ORDER_H

#include <stdint.h>

/* Where an adapter's slot is found; of the step whose number it bears. */
typedef struct adapter_place {
    const void *adapter;
    uint64_t step;
    uint32_t slot;
} adapter_place;

typedef struct adapter_order {
    uint32_t seqs_max, places_mask;
    adapter_place *places; /* open addressing by the adapter's address */
    uint64_t step;

    /* Of the step ordered last. */
    uint32_t slot_count;   /* different adapters */
    const void **adapters; /* [slot_count] */
    uint32_t *order;       /* [works] the work that is the i-th sequence of the batch */
    int32_t *slots;        /* [works] slot of each work's adapter, or BATCH_NO_ADAPTER */
    uint32_t *ends;        /* [slot_count + 1] used while ordering */
} adapter_order;

void adapter_order_open(adapter_order *o, uint32_t seqs_max);
void adapter_order_close(adapter_order *o);

/* Before a step; then adapter_order_add for each work in the plan's order (NULL: the base), then
 * adapter_order_sort. */
void adapter_order_begin(adapter_order *o);
void adapter_order_add(adapter_order *o, uint32_t work, const void *adapter);
void adapter_order_sort(adapter_order *o, uint32_t work_count);

#endif
