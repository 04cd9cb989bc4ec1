/* merge_heap.h - the pairs of a piece that may be merged, best first.
 *
 * An entry is rank << 32 | symbol: the least rank first and, of equal ones, the leftmost symbol. Who
 * pops an entry checks that the symbol's pair still has that rank; entries of pairs that have changed
 * are passed over. A merge takes one entry off and puts two on at most, so 2 * symbols are enough.
 *
 * Thread  belongs to one call. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_MERGE_HEAP_H
#define ESPALIER_TEXT_MERGE_HEAP_H

#include <stdint.h>

#include "engine/base/status.h"

#define MERGE_NO_RANK UINT32_MAX   /* the pair is no token */
#define MERGE_NO_SYMBOL UINT32_MAX /* no neighbour */

/* Symbols up to which scanning for the best pair beats the heap; bench/bench_tokenizer. */
enum { MERGE_SCAN_MAX = 48 };

typedef struct merge_heap {
    uint64_t *at; /* [capacity] */
    uint32_t count, capacity;
} merge_heap;

/* A node has so many children: of a heap far larger than the caches each level down is a miss, and four
 * children lie in one or two lines. */
enum { MERGE_HEAP_WAYS = 4 };

static inline void merge_heap_push(merge_heap *heap, uint32_t rank, uint32_t symbol) {
    if (rank == MERGE_NO_RANK) return;
    uint64_t entry = (uint64_t)rank << 32 | symbol;
    ESP_ASSERT(heap->count < heap->capacity);
    uint32_t at = heap->count++;
    for (uint32_t up; at > 0; at = up) {
        up = (at - 1) / MERGE_HEAP_WAYS;
        if (heap->at[up] <= entry) break;
        heap->at[at] = heap->at[up];
    }
    heap->at[at] = entry;
}

/* The least of the children first .. end. */
static inline uint32_t merge_heap_least(const merge_heap *heap, uint32_t first, uint32_t end) {
    uint32_t least = first;
    for (uint32_t child = first + 1; child < end; child++)
        if (heap->at[child] < heap->at[least]) least = child;
    return least;
}

static inline uint64_t merge_heap_pop(merge_heap *heap) {
    uint64_t top = heap->at[0], last = heap->at[--heap->count];
    uint32_t at = 0;
    for (uint64_t first; (first = (uint64_t)at * MERGE_HEAP_WAYS + 1) < heap->count;) {
        uint64_t end =
            first + MERGE_HEAP_WAYS < heap->count ? first + MERGE_HEAP_WAYS : heap->count;
        uint32_t child = merge_heap_least(heap, (uint32_t)first, (uint32_t)end);
        if (heap->at[child] >= last) break;
        heap->at[at] = heap->at[child];
        at = child;
    }
    heap->at[at] = last;
    return top;
}

#endif
