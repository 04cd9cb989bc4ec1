/* pages.c - free stack, reference counts, leases. */
// SPDX-License-Identifier: Apache-2.0
#include "kvcache/pages.h"

#include <stdbool.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/base/status.h"

void pages_open(kv_page_set *set, uint32_t page_count) {
    set->page_count = set->free_count = page_count;
    set->free = mem_new(page_count, sizeof *set->free);
    set->refs = mem_new(page_count, sizeof *set->refs);
    /* Low numbers are taken first, so a lightly used arena touches little memory. */
    for (uint32_t i = 0; i < page_count; i++)
        set->free[i] = page_count - 1 - i;
}

void pages_close(kv_page_set *set) {
    free(set->free);
    free(set->refs);
}

static uint32_t pop_free(kv_page_set *set, uint32_t refs) {
    ESP_ASSERT(set->free_count > 0);
    uint32_t page = set->free[--set->free_count];
    ESP_ASSERT(set->refs[page] == 0);
    set->refs[page] = refs;
    return page;
}

static void push_free(kv_page_set *set, uint32_t page) {
    ESP_ASSERT(set->free_count < set->page_count);
    set->refs[page] = 0;
    set->free[set->free_count++] = page;
}

static bool is_listed(const kv_page_set *set, uint32_t page) {
    return page < set->page_count && set->refs[page] > 0 && set->refs[page] != PAGE_LEASED;
}

uint32_t pages_take(kv_page_set *set) { return pop_free(set, 1); }

void pages_hold(kv_page_set *set, uint32_t page) {
    ESP_ASSERT(is_listed(set, page));
    set->refs[page]++;
}

void pages_drop(kv_page_set *set, uint32_t page) {
    ESP_ASSERT(is_listed(set, page));
    if (--set->refs[page] == 0) push_free(set, page);
}

uint32_t pages_lease(kv_page_set *set) {
    set->leased_count++;
    return pop_free(set, PAGE_LEASED);
}

void pages_return(kv_page_set *set, uint32_t page) {
    ESP_ASSERT(page < set->page_count && set->refs[page] == PAGE_LEASED);
    set->leased_count--;
    push_free(set, page);
}
