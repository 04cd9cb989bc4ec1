/* kvcache.h - pages of attention memory, and who holds them.
 *
 * A page is KV_PAGE_TOKENS token slots of the layers of one page group; every page is one frame of
 * the arena. A sequence owns one ordered list of pages per group, its table; a full page may be
 * shared by several tables and is then read-only. This module keeps the books only: page numbers
 * in, page numbers out. The bytes are the device's (kernels/kernels.h).
 *
 * A group sees everything, or a window: a token at position p needs the keys of the last `window`
 * positions, its own too. A window group holds no page that lies wholly before the window of the
 * table's next token, and never more than one step can touch:
 *
 *   position   0        begin * 16      next - window + 1      next          end * 16
 *              | freed  | held: read by the next token ........| written ... |
 *
 * Frames can be leased for what is not attention memory (adapters): whole, one by one, known here by
 * their numbers alone.
 *
 * Thread     the engine thread only; no locks, no clock, no I/O, no malloc after kv_open.
 * Invariant  free + held + leased == page_count, a page's reference count is the number of tables that list
 *            it, and a table lists what its windows see, after every call (kv_check). */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_KVCACHE_H
#define ESPALIER_KVCACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/batch.h"
#include "engine/base/status.h"

typedef struct kv_cache kv_cache;

typedef struct kv_options {
    uint32_t page_count;      /* frames of the arena */
    uint32_t group_count;     /* page groups, 1..KV_GROUPS_MAX */
    uint32_t table_count;     /* most tables at once (= most running sequences) */
    uint32_t table_pages_max; /* most pages a table lists in one group: ceil(max_context / 16) */
    uint32_t step_tokens;     /* most tokens of a table written in one step, >= 1 */
    uint32_t windows[KV_GROUPS_MAX]; /* of each group, in tokens; 0: it sees everything */
} kv_options;

/* Index of a table, 0..table_count-1. */
typedef uint32_t kv_table;

ESP_CHECKED esp_code kv_open(kv_cache **out, const kv_options *options, esp_error *err);
void kv_close(kv_cache *kv);

/* Grows the table to hold token_count tokens; a window group stops at what a step can touch. All or
 * nothing: on ESP_EXHAUSTED the table is as it was and someone must be preempted. Asserts
 * token_count fits table_pages_max. */
ESP_CHECKED esp_code kv_reserve(kv_cache *kv, kv_table table, uint32_t token_count);

/* The table's next token to compute is at position `next` (0 in an empty table): pages behind its
 * windows are dropped. Going back, to compute anew, drops what a window group has when it lacks
 * pages from there on. */
void kv_slide(kv_cache *kv, kv_table table, uint32_t next);

/* Drops all pages of the table; a page nobody else lists becomes free. */
void kv_release(kv_cache *kv, kv_table table);

/* Makes the empty table `to` begin with the pages of `from` that hold its first token_count tokens
 * (a multiple of KV_PAGE_TOKENS: only full pages are shared), so that its next token is at
 * token_count. False, and nothing shared, when a window of `from` has moved beyond them. */
ESP_CHECKED bool kv_share(kv_cache *kv, kv_table from, kv_table to, uint32_t token_count);

/* No page: what stands in a list behind the window. */
#define KV_PAGE_NONE UINT32_MAX

/* Pages the table lists in a group, in position order: pages[i] holds positions [16i, 16i + 16),
 * begin <= i < end. Those before begin were freed, or never taken. Valid until the table changes. */
typedef struct kv_list {
    const uint32_t *pages;
    uint32_t begin, end;
} kv_list;
kv_list kv_pages(const kv_cache *kv, kv_table table, uint32_t group);

/* Leases count frames that no table lists; their numbers go to frames. All or nothing: false when fewer
 * are free. */
ESP_CHECKED bool kv_lease(kv_cache *kv, uint32_t count, uint32_t *frames);
/* Ends the lease of these. Asserts that each is leased. */
void kv_return(kv_cache *kv, uint32_t count, const uint32_t *frames);

uint32_t kv_free_count(const kv_cache *kv);
uint32_t kv_leased_count(const kv_cache *kv);
uint32_t kv_page_count(const kv_cache *kv);
/* Most pages held in all groups together by a table that grows to token_count tokens. Reads options
 * only: any thread. */
uint64_t kv_pages_for(const kv_cache *kv, uint32_t token_count);
/* The same of one group with a window (0: none), written step_tokens at a time. */
uint32_t kv_group_pages(uint32_t window, uint32_t step_tokens, uint32_t token_count);

/* Walks everything and asserts the invariant. */
void kv_check(const kv_cache *kv);

#endif
