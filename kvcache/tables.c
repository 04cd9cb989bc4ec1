/* tables.c - block tables: which pages hold which tokens of a sequence.
 *
 * A table has equally many pages in each group, so one count serves all of them. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kvcache/kvcache.h"
#include "kvcache/pages.h"

struct kv_cache {
    kv_options options;
    kv_page_set pages;
    uint32_t *counts; /* [table_count] pages of a table in each group */
    uint32_t *lists;  /* [table_count][group_count][table_pages_max], mapped: few are ever full */
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
    kv->counts = mem_new(options->table_count, sizeof *kv->counts);
    kv->seen = mem_new(options->page_count, sizeof *kv->seen);
    *out = kv;
    return ESP_OK;
}

void kv_close(kv_cache *kv) {
    if (!kv) return;
    pages_close(&kv->pages);
    mem_unmap(kv->lists, kv->lists_bytes);
    free(kv->counts);
    free(kv->seen);
    free(kv);
}

static uint32_t pages_of_tokens(uint32_t token_count) {
    return token_count / KV_PAGE_TOKENS + (token_count % KV_PAGE_TOKENS != 0);
}

static uint32_t *list_of(const kv_cache *kv, kv_table table, uint32_t group) {
    const kv_options *o = &kv->options;
    ESP_ASSERT(table < o->table_count && group < o->group_count);
    return kv->lists + ((uint64_t)table * o->group_count + group) * o->table_pages_max;
}

esp_code kv_reserve(kv_cache *kv, kv_table table, uint32_t token_count) {
    ESP_ASSERT(table < kv->options.table_count);
    uint32_t have = kv->counts[table], want = pages_of_tokens(token_count);
    ESP_ASSERT(want <= kv->options.table_pages_max);
    if (want <= have) return ESP_OK;
    if ((uint64_t)(want - have) * kv->options.group_count > kv->pages.free_count)
        return ESP_EXHAUSTED;
    for (uint32_t group = 0; group < kv->options.group_count; group++) {
        uint32_t *list = list_of(kv, table, group);
        for (uint32_t i = have; i < want; i++)
            list[i] = pages_take(&kv->pages);
    }
    kv->counts[table] = want;
    return ESP_OK;
}

void kv_release(kv_cache *kv, kv_table table) {
    ESP_ASSERT(table < kv->options.table_count);
    for (uint32_t group = 0; group < kv->options.group_count; group++) {
        const uint32_t *list = list_of(kv, table, group);
        for (uint32_t i = kv->counts[table]; i-- > 0;)
            pages_drop(&kv->pages, list[i]);
    }
    kv->counts[table] = 0;
}

void kv_share(kv_cache *kv, kv_table from, kv_table to, uint32_t token_count) {
    ESP_ASSERT(from < kv->options.table_count && to < kv->options.table_count);
    ESP_ASSERT(from != to && kv->counts[to] == 0);
    ESP_ASSERT(token_count % KV_PAGE_TOKENS == 0);
    uint32_t shared = token_count / KV_PAGE_TOKENS;
    ESP_ASSERT(shared <= kv->counts[from]);
    for (uint32_t group = 0; group < kv->options.group_count; group++) {
        const uint32_t *source = list_of(kv, from, group);
        uint32_t *target = list_of(kv, to, group);
        for (uint32_t i = 0; i < shared; i++) {
            target[i] = source[i];
            pages_hold(&kv->pages, source[i]);
        }
    }
    kv->counts[to] = shared;
}

const uint32_t *kv_pages(const kv_cache *kv, kv_table table, uint32_t group, uint32_t *count) {
    const uint32_t *list = list_of(kv, table, group);
    *count = kv->counts[table];
    return list;
}

uint32_t kv_free_count(const kv_cache *kv) { return kv->pages.free_count; }

uint32_t kv_page_count(const kv_cache *kv) { return kv->pages.page_count; }

uint32_t kv_pages_for(const kv_cache *kv, uint32_t token_count) {
    return pages_of_tokens(token_count) * kv->options.group_count;
}

static void count_table(const kv_cache *kv, kv_table table) {
    ESP_ASSERT(kv->counts[table] <= kv->options.table_pages_max);
    for (uint32_t group = 0; group < kv->options.group_count; group++) {
        const uint32_t *list = list_of(kv, table, group);
        for (uint32_t i = 0; i < kv->counts[table]; i++) {
            ESP_ASSERT(list[i] < kv->pages.page_count);
            kv->seen[list[i]]++;
        }
    }
}

void kv_check(const kv_cache *kv) {
    const kv_page_set *pages = &kv->pages;
    ESP_ASSERT(pages->free_count <= pages->page_count);
    for (uint32_t page = 0; page < pages->page_count; page++)
        kv->seen[page] = 0;
    for (kv_table table = 0; table < kv->options.table_count; table++)
        count_table(kv, table);
    uint32_t held = 0;
    for (uint32_t page = 0; page < pages->page_count; page++) {
        ESP_ASSERT(kv->seen[page] == pages->refs[page]);
        held += pages->refs[page] > 0;
    }
    ESP_ASSERT(pages->free_count + held == pages->page_count);
    /* With the counts right, a free page that is held, or is on the stack twice, shows here. */
    for (uint32_t i = 0; i < pages->free_count; i++) {
        ESP_ASSERT(pages->free[i] < pages->page_count);
        ESP_ASSERT(kv->seen[pages->free[i]]++ == 0);
    }
}
