/* kvcache.h - pages of attention memory, and who holds them.
 *
 * A page is KV_PAGE_TOKENS token slots of the layers of one page group; every page is one frame of
 * the arena. A sequence owns one ordered list of pages per group, its table; a full page may be
 * shared by several tables and is then read-only. This module keeps the books only: page numbers
 * in, page numbers out. The bytes are the device's (kernels/kernels.h).
 *
 * Thread     the engine thread only; no locks, no clock, no I/O, no malloc after kv_open.
 * Invariant  free + held == page_count, and a page's reference count is the number of tables that
 *            list it, after every call (kv_check). */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_KVCACHE_H
#define ESPALIER_KVCACHE_H

#include <stdint.h>

#include "engine/base/batch.h"
#include "engine/base/status.h"

typedef struct kv_cache kv_cache;

typedef struct kv_options {
    uint32_t page_count;      /* frames of the arena */
    uint32_t group_count;     /* page groups, 1..KV_GROUPS_MAX */
    uint32_t table_count;     /* most tables at once (= most running sequences) */
    uint32_t table_pages_max; /* most pages a table lists in one group: ceil(max_context / 16) */
} kv_options;

/* Index of a table, 0..table_count-1. */
typedef uint32_t kv_table;

ESP_CHECKED esp_code kv_open(kv_cache **out, const kv_options *options, esp_error *err);
void kv_close(kv_cache *kv);

/* Grows the table to hold token_count tokens in every group. All or nothing: on ESP_EXHAUSTED the
 * table is as it was and someone must be preempted. Asserts token_count fits table_pages_max. */
ESP_CHECKED esp_code kv_reserve(kv_cache *kv, kv_table table, uint32_t token_count);

/* Drops all pages of the table; a page nobody else lists becomes free. */
void kv_release(kv_cache *kv, kv_table table);

/* Makes the empty table `to` begin with the pages of `from` that hold its first token_count tokens
 * (a multiple of KV_PAGE_TOKENS: only full pages are shared). */
void kv_share(kv_cache *kv, kv_table from, kv_table to, uint32_t token_count);

/* Pages the table lists in a group, in position order; valid until the table changes. */
const uint32_t *kv_pages(const kv_cache *kv, kv_table table, uint32_t group, uint32_t *count);

uint32_t kv_free_count(const kv_cache *kv);
uint32_t kv_page_count(const kv_cache *kv);
/* Pages needed in all groups together for token_count tokens. */
uint32_t kv_pages_for(const kv_cache *kv, uint32_t token_count);

/* Walks everything and asserts the invariant. */
void kv_check(const kv_cache *kv);

#endif
