/* adapter_list.c - what is known of the adapters. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "engine/adapters/adapters_inner.h"
#include "engine/base/mem.h"

/* ---- lists ---- */

static adapter_state state_of(const adapter *ad) {
    if (adapter_is_leaving(ad)) return ADAPTER_LEAVING;
    if (atomic_load_explicit(&ad->broken, memory_order_acquire)) return ADAPTER_BROKEN;
    return ad->read ? ADAPTER_READY : ADAPTER_LISTED;
}

static adapter_tier tier_of(const adapter *ad) {
    if (atomic_load_explicit(&ad->on_device, memory_order_acquire)) return ADAPTER_DEVICE;
    return ad->image && image_is_home(ad->image) ? ADAPTER_HOST : ADAPTER_DISK;
}

static uint32_t vocab_of(const adapter *ad) {
    const tokenizer *tok = adapter_tokenizer(ad);
    return adapter_vocab(ad) || !tok ? adapter_vocab(ad) : tok_count(tok);
}

/* Under the lock. */
void list_info(const adapter *ad, adapter_info *out) {
    *out = (adapter_info){.version = ad->version,
                          .state = state_of(ad),
                          .tier = tier_of(ad),
                          .current = ad->entry && ad->entry->current == ad,
                          .pinned = atomic_load(&ad->pinned),
                          .rank = ad->facts.rank,
                          .vocab = vocab_of(ad),
                          .bytes = ad->image ? image_bytes(ad->image) : ad->packed_bytes,
                          .file_bytes = ad->facts.file_bytes,
                          .parameters = ad->facts.parameters,
                          .users = adapter_users(ad),
                          .requests = atomic_load(&ad->requests),
                          .loads = atomic_load(&ad->loads),
                          .evictions = atomic_load(&ad->evictions),
                          .last_use_us = atomic_load(&ad->last_use_us)};
    memcpy(out->name, ad->name, sizeof out->name);
    memcpy(out->digest, ad->digest, sizeof out->digest);
    if (atomic_load_explicit(&ad->broken, memory_order_acquire)) out->error = ad->error;
}

void adapter_read_info(adapters *a, const adapter *ad, adapter_info *out) {
    pthread_mutex_lock(&a->lock);
    list_info(ad, out);
    pthread_mutex_unlock(&a->lock);
}

adapter_tier adapters_tier(adapters *a, const char *name, const char *digest) {
    pthread_mutex_lock(&a->lock);
    const adapter_entry *entry = names_find(a, name);
    const adapter *ad = entry ? names_digest(entry, digest) : NULL;
    adapter_tier tier = ad ? tier_of(ad) : ADAPTER_DISK;
    pthread_mutex_unlock(&a->lock);
    return tier;
}

int adapter_info_order(const void *x, const void *y) {
    const adapter_info *p = x, *q = y;
    int names = strcmp(p->name, q->name);
    if (names) return names;
    if (p->version != q->version) return p->version > q->version ? 1 : -1;
    int leaving = (p->state == ADAPTER_LEAVING) - (q->state == ADAPTER_LEAVING);
    return leaving ? leaving : strcmp(p->digest, q->digest);
}

/* Nobody has it any more; its memory goes back a little later. */
static bool is_over(const adapter_info *info) {
    return info->state == ADAPTER_LEAVING && info->users == 0;
}

static void count_in(adapters_stats *stats, const adapter_info *info) {
    stats->known++;
    stats->host += info->tier == ADAPTER_HOST;
    stats->device += info->tier == ADAPTER_DEVICE;
    stats->pinned += info->pinned;
    stats->loads += info->loads;
    stats->evictions += info->evictions;
}

/* Under the lock: what is not counted name by name. */
static adapters_stats begin_stats(adapters *a) {
    adapters_stats stats = {.host_bytes = atomic_load(&a->host_bytes),
                            .frames = atomic_load(&a->leased_frames),
                            .loads = a->freed_loads,
                            .evictions = a->freed_evictions,
                            .failures = atomic_load(&a->failures)};
    for (const adapter *ad = a->unnamed; ad; ad = ad->next_version) {
        stats.loads += atomic_load(&ad->loads);
        stats.evictions += atomic_load(&ad->evictions);
    }
    return stats;
}

/* Under the lock. Each number is read once, for the list and for the sum. list: room for all. */
static size_t look(adapters *a, adapter_info *list, adapters_stats *stats) {
    size_t filled = 0;
    *stats = begin_stats(a);
    for (uint32_t i = 0; i < NAME_BUCKETS; i++)
        for (const adapter_entry *e = a->names[i]; e; e = e->next)
            for (const adapter *ad = e->versions; ad; ad = ad->next_version) {
                list_info(ad, &list[filled]);
                count_in(stats, &list[filled]);
                filled += !is_over(&list[filled]);
            }
    return filled;
}

void adapters_look(adapters *a, adapter_info **out, size_t *count, adapters_stats *stats) {
    pthread_mutex_lock(&a->lock);
    *out = mem_new(a->adapter_count + 1, sizeof **out);
    *count = look(a, *out, stats);
    pthread_mutex_unlock(&a->lock);
    qsort(*out, *count, sizeof **out, adapter_info_order);
}

void adapters_list(adapters *a, adapter_info **out, size_t *count) {
    adapters_stats stats;
    adapters_look(a, out, count, &stats);
}

void adapters_read_stats(adapters *a, adapters_stats *out) {
    adapter_info *infos;
    size_t count;
    adapters_look(a, &infos, &count, out);
    free(infos);
}
