/* pages.h - the frames of the arena: which are free, which are leased, and how many tables list each
 * of the others. Private to kvcache.
 *
 * Invariant  a page is on the free stack exactly when its reference count is 0; a leased one, which no
 *            table lists, has PAGE_LEASED. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_KVCACHE_PAGES_H
#define ESPALIER_KVCACHE_PAGES_H

#include <stdint.h>

#define PAGE_LEASED UINT32_MAX

typedef struct kv_page_set {
    uint32_t page_count;
    uint32_t free_count;
    uint32_t leased_count;
    uint32_t *free; /* [page_count] a stack; the top is taken next */
    uint32_t *refs; /* [page_count] tables that list the page, or PAGE_LEASED */
} kv_page_set;

void pages_open(kv_page_set *set, uint32_t page_count);
void pages_close(kv_page_set *set);

/* A free page, now listed once. Asserts there is one. */
uint32_t pages_take(kv_page_set *set);
void pages_hold(kv_page_set *set, uint32_t page); /* one more table lists it */
void pages_drop(kv_page_set *set, uint32_t page); /* one less; the last frees it */

/* A free page that is no table's. Asserts there is one. */
uint32_t pages_lease(kv_page_set *set);
void pages_return(kv_page_set *set, uint32_t page);

#endif
