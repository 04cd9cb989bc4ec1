/* tables.c - block tables: which pages hold which tokens of a sequence.
 *
 * A list is indexed by position / 16 in every group. A window group's list has a hole at its front,
 * so the kernels look up any page alike and no list is ever moved. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kvcache/kvcache.h"
#include "kvcache/pages.h"

struct kv_cache {
    kv_options options;
    kv_page_set pages;
    uint32_t *next;  /* [table_count] position of the next token to compute */
    uint32_t *begin; /* [table_count][group_count] first page held */
    uint32_t *end;   /* [table_count][group_count] behind the last page held */
    uint32_t *lists; /* [table_count][group_count][table_pages_max], mapped: few are ever full */
    uint64_t lists_bytes;
    uint32_t *seen; /* [page_count] kv_check's own count of references */
};

static esp_code check_options(const kv_options *o, esp_error *err) {
    if (o->page_count == 0)
        return esp_fail_field(err, ESP_INVALID, "--kv-memory",
                              "the KV cache has no page at all; raise --kv-memory");
    if (o->group_count < 1 || o->group_count > KV_GROUPS_MAX)
        return esp_fail(err, ESP_INVALID, "the model has %u page groups, 1 to %u are supported",
                        o->group_count, (unsigned)KV_GROUPS_MAX);
    if (o->table_count == 0)
        return esp_fail_field(err, ESP_INVALID, "--max-seqs",
                              "--max-seqs is 0, at least 1 is wanted");
    if (o->table_pages_max == 0)
        return esp_fail_field(err, ESP_INVALID, "--max-context",
                              "--max-context is 0, at least 1 is wanted");
    if (o->step_tokens == 0)
        return esp_fail_field(err, ESP_INVALID, "--step-tokens",
                              "--step-tokens is 0, at least 1 is wanted");
    return ESP_OK;
}

static esp_code map_lists(kv_cache *kv, esp_error *err) {
    const kv_options *o = &kv->options;
    uint64_t entries, bytes = 0;
    bool fits =
        check_mul((uint64_t)o->table_count * o->group_count, o->table_pages_max, &entries) &&
        check_mul(entries, sizeof *kv->lists, &bytes);
    if (fits) kv->lists = mem_map(bytes);
    if (!kv->lists)
        return esp_fail(err, ESP_EXHAUSTED,
                        "no memory for block tables of %u sequences with %u pages each; "
                        "lower --max-seqs or --max-context",
                        o->table_count, o->table_pages_max);
    kv->lists_bytes = bytes;
    return ESP_OK;
}

esp_code kv_open(kv_cache **out, const kv_options *options, esp_error *err) {
    ESP_ASSERT(out && options);
    *out = NULL;
    esp_code code = check_options(options, err);
    if (code) return code;
    kv_cache *kv = mem_new(1, sizeof *kv);
    kv->options = *options;
    code = map_lists(kv, err);
    if (code) {
        kv_close(kv);
        return code;
    }
    pages_open(&kv->pages, options->page_count);
    size_t lists = (size_t)options->table_count * options->group_count;
    kv->next = mem_new(options->table_count, sizeof *kv->next);
    kv->begin = mem_new(lists, sizeof *kv->begin);
    kv->end = mem_new(lists, sizeof *kv->end);
    kv->seen = mem_new(options->page_count, sizeof *kv->seen);
    *out = kv;
    return ESP_OK;
}

void kv_close(kv_cache *kv) {
    if (!kv) return;
    pages_close(&kv->pages);
    mem_unmap(kv->lists, kv->lists_bytes);
    free(kv->next);
    free(kv->begin);
    free(kv->end);
    free(kv->seen);
    free(kv);
}

static uint32_t pages_of_tokens(uint32_t token_count) {
    return token_count / KV_PAGE_TOKENS + (token_count % KV_PAGE_TOKENS != 0);
}

/* The page of the oldest key that a token at `next` sees. */
static uint32_t window_begin(uint32_t window, uint32_t next) {
    return window == 0 || next < window ? 0 : (next - window + 1) / KV_PAGE_TOKENS;
}

/* n tokens one after another, wherever they begin, lie in at most (n + 14) / 16 + 1 pages; a step
 * reads a window's last window - 1 tokens and writes step_tokens. */
uint32_t kv_group_pages(uint32_t window, uint32_t step_tokens, uint32_t token_count) {
    uint32_t all = pages_of_tokens(token_count);
    if (window == 0) return all;
    uint64_t touched = (uint64_t)window - 1 + step_tokens;
    uint64_t most = (touched + KV_PAGE_TOKENS - 2) / KV_PAGE_TOKENS + 1;
    return most < all ? (uint32_t)most : all;
}

uint64_t kv_pages_for(const kv_cache *kv, uint32_t token_count) {
    const kv_options *o = &kv->options;
    uint64_t pages = 0;
    for (uint32_t group = 0; group < o->group_count; group++)
        pages += kv_group_pages(o->windows[group], o->step_tokens, token_count);
    return pages;
}

/* Where (table, group) stands in kv->begin and kv->end. */
static size_t list_index(const kv_cache *kv, kv_table table, uint32_t group) {
    const kv_options *o = &kv->options;
    ESP_ASSERT(table < o->table_count && group < o->group_count);
    return (size_t)table * o->group_count + group;
}

static uint32_t *list_of(const kv_cache *kv, kv_table table, uint32_t group) {
    return kv->lists + (uint64_t)list_index(kv, table, group) * kv->options.table_pages_max;
}

/* Where the list ends once it has room for token_count tokens; it never shrinks. */
static uint32_t wanted_end(const kv_cache *kv, size_t list, uint32_t group, uint32_t token_count) {
    const kv_options *o = &kv->options;
    uint32_t most = kv_group_pages(o->windows[group], o->step_tokens, UINT32_MAX);
    uint32_t all = pages_of_tokens(token_count), begin = kv->begin[list], end = kv->end[list];
    uint32_t wanted = all > begin && all - begin > most ? begin + most : all;
    return wanted > end ? wanted : end;
}

static uint64_t pages_missing(const kv_cache *kv, kv_table table, uint32_t token_count) {
    uint64_t missing = 0;
    for (uint32_t group = 0; group < kv->options.group_count; group++) {
        size_t list = list_index(kv, table, group);
        missing += wanted_end(kv, list, group, token_count) - kv->end[list];
    }
    return missing;
}

esp_code kv_reserve(kv_cache *kv, kv_table table, uint32_t token_count) {
    ESP_ASSERT(table < kv->options.table_count);
    ESP_ASSERT(pages_of_tokens(token_count) <= kv->options.table_pages_max);
    if (pages_missing(kv, table, token_count) > kv->pages.free_count) return ESP_EXHAUSTED;
    for (uint32_t group = 0; group < kv->options.group_count; group++) {
        size_t list = list_index(kv, table, group);
        uint32_t *pages = list_of(kv, table, group), end = wanted_end(kv, list, group, token_count);
        for (; kv->end[list] < end; kv->end[list]++)
            pages[kv->end[list]] = pages_take(&kv->pages);
    }
    return ESP_OK;
}

/* Drops pages [begin, end) of a list, the last first: it is taken again first. */
static void drop_pages(kv_cache *kv, uint32_t *pages, uint32_t begin, uint32_t end) {
    for (uint32_t i = end; i-- > begin;) {
        pages_drop(&kv->pages, pages[i]);
        pages[i] = KV_PAGE_NONE;
    }
}

static void slide_list(kv_cache *kv, kv_table table, uint32_t group, uint32_t next) {
    size_t list = list_index(kv, table, group);
    uint32_t *pages = list_of(kv, table, group);
    uint32_t begin = window_begin(kv->options.windows[group], next);
    if (begin < kv->begin[list]) { /* back to where pages were freed: what is held is of no use */
        drop_pages(kv, pages, kv->begin[list], kv->end[list]);
        kv->end[list] = begin;
    } else {
        ESP_ASSERT(begin <= kv->end[list]);
        drop_pages(kv, pages, kv->begin[list], begin);
    }
    kv->begin[list] = begin;
}

void kv_slide(kv_cache *kv, kv_table table, uint32_t next) {
    ESP_ASSERT(table < kv->options.table_count);
    for (uint32_t group = 0; group < kv->options.group_count; group++)
        slide_list(kv, table, group, next);
    kv->next[table] = next;
}

void kv_release(kv_cache *kv, kv_table table) {
    for (uint32_t group = 0; group < kv->options.group_count; group++) {
        size_t list = list_index(kv, table, group);
        drop_pages(kv, list_of(kv, table, group), kv->begin[list], kv->end[list]);
        kv->begin[list] = kv->end[list] = 0;
    }
    kv->next[table] = 0;
}

static bool holds_prefix(const kv_cache *kv, kv_table table, uint32_t token_count) {
    for (uint32_t group = 0; group < kv->options.group_count; group++) {
        size_t list = list_index(kv, table, group);
        uint32_t begin = window_begin(kv->options.windows[group], token_count);
        if (kv->begin[list] > begin || kv->end[list] < token_count / KV_PAGE_TOKENS) return false;
    }
    return true;
}

bool kv_share(kv_cache *kv, kv_table from, kv_table to, uint32_t token_count) {
    ESP_ASSERT(from < kv->options.table_count && to < kv->options.table_count);
    ESP_ASSERT(from != to && kv->next[to] == 0);
    ESP_ASSERT(token_count % KV_PAGE_TOKENS == 0 && token_count <= kv->next[from]);
    if (!holds_prefix(kv, from, token_count)) return false;
    for (uint32_t group = 0; group < kv->options.group_count; group++) {
        const uint32_t *source = list_of(kv, from, group);
        uint32_t *target = list_of(kv, to, group);
        size_t list = list_index(kv, to, group);
        ESP_ASSERT(kv->end[list] == 0);
        kv->begin[list] = window_begin(kv->options.windows[group], token_count);
        kv->end[list] = token_count / KV_PAGE_TOKENS;
        for (uint32_t i = 0; i < kv->end[list]; i++) {
            target[i] = i < kv->begin[list] ? KV_PAGE_NONE : source[i];
            if (i >= kv->begin[list]) pages_hold(&kv->pages, source[i]);
        }
    }
    kv->next[to] = token_count;
    return true;
}

kv_list kv_pages(const kv_cache *kv, kv_table table, uint32_t group) {
    size_t list = list_index(kv, table, group);
    return (kv_list){list_of(kv, table, group), kv->begin[list], kv->end[list]};
}

bool kv_lease(kv_cache *kv, uint32_t count, uint32_t *frames) {
    if (count > kv->pages.free_count) return false;
    for (uint32_t i = 0; i < count; i++)
        frames[i] = pages_lease(&kv->pages);
    return true;
}

void kv_return(kv_cache *kv, uint32_t count, const uint32_t *frames) {
    for (uint32_t i = 0; i < count; i++)
        pages_return(&kv->pages, frames[i]);
}

uint32_t kv_leased_count(const kv_cache *kv) { return kv->pages.leased_count; }

uint32_t kv_free_count(const kv_cache *kv) { return kv->pages.free_count; }

uint32_t kv_page_count(const kv_cache *kv) { return kv->pages.page_count; }

static void check_list(const kv_cache *kv, kv_table table, uint32_t group) {
    const kv_options *o = &kv->options;
    kv_list list = kv_pages(kv, table, group);
    ESP_ASSERT(list.begin <= list.end && list.end <= o->table_pages_max);
    ESP_ASSERT(list.begin == window_begin(o->windows[group], kv->next[table]));
    ESP_ASSERT(list.end - list.begin <=
               kv_group_pages(o->windows[group], o->step_tokens, UINT32_MAX));
    for (uint32_t i = 0; i < list.begin; i++)
        ESP_ASSERT(list.pages[i] == KV_PAGE_NONE);
    for (uint32_t i = list.begin; i < list.end; i++) {
        ESP_ASSERT(list.pages[i] < kv->pages.page_count);
        kv->seen[list.pages[i]]++;
    }
}

void kv_check(const kv_cache *kv) {
    const kv_page_set *pages = &kv->pages;
    ESP_ASSERT(pages->free_count <= pages->page_count);
    for (uint32_t page = 0; page < pages->page_count; page++)
        kv->seen[page] = 0;
    for (kv_table table = 0; table < kv->options.table_count; table++)
        for (uint32_t group = 0; group < kv->options.group_count; group++)
            check_list(kv, table, group);
    uint32_t held = 0, leased = 0;
    for (uint32_t page = 0; page < pages->page_count; page++) {
        bool is_leased = pages->refs[page] == PAGE_LEASED;
        ESP_ASSERT(kv->seen[page] == (is_leased ? 0 : pages->refs[page]));
        held += pages->refs[page] > 0 && !is_leased;
        leased += is_leased;
    }
    ESP_ASSERT(leased == pages->leased_count);
    ESP_ASSERT(pages->free_count + held + leased == pages->page_count);
    /* With the counts right, a free page that is held, or is on the stack twice, shows here. */
    for (uint32_t i = 0; i < pages->free_count; i++) {
        ESP_ASSERT(pages->free[i] < pages->page_count);
        ESP_ASSERT(pages->refs[pages->free[i]] == 0 && kv->seen[pages->free[i]]++ == 0);
    }
}
