/* adapter_group.c - every change to all of them in turn; their lists as one. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/adapters/adapter_group.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

enum { REF_BYTES = STORE_NAME_MAX + ADAPTER_DIGEST_CHARS + 2 };

struct adapter_group {
    adapters **of;
    uint32_t count;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* one of them has ended */
    struct change_of_name
        *changes; /* under way, where there are several: one of a name at a time */
};

adapter_group *group_open(adapters *const *of, uint32_t count) {
    ESP_ASSERT(count > 0);
    adapter_group *g = mem_new(1, sizeof *g);
    g->of = mem_new(count, sizeof(adapters *));
    memcpy(g->of, of, count * sizeof(adapters *));
    g->count = count;
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->changed, NULL);
    return g;
}

void group_close(adapter_group *g) {
    if (!g) return;
    ESP_ASSERT(!g->changes);
    pthread_cond_destroy(&g->changed);
    pthread_mutex_destroy(&g->lock);
    free(g->of);
    free(g);
}

/* ---- changes ---- */

/* What is done to each of them. */
typedef struct change {
    esp_code (*make)(const struct change *c, adapters *a, adapter_info *info, esp_error *err);
    const char *name, *ref; /* name NULL: that of ref */
    uint32_t version;
    adapter_unload how;
    bool pinned, loads;
} change;

static esp_code load(const change *c, adapters *a, adapter_info *info, esp_error *err) {
    if (!c->name) return adapters_load_stored(a, c->ref, info, err);
    return adapters_load_stored_as(a, c->name, c->ref, c->version, info, err);
}
static esp_code unload(const change *c, adapters *a, adapter_info *info, esp_error *err) {
    (void)info;
    return adapters_unload(a, c->ref, c->how, err);
}
static esp_code pin(const change *c, adapters *a, adapter_info *info, esp_error *err) {
    (void)info;
    return adapters_pin(a, c->ref, c->pinned, err);
}
static esp_code set_alias(const change *c, adapters *a, adapter_info *info, esp_error *err) {
    (void)info;
    return adapters_set_alias(a, c->name, c->version, err);
}

static bool passes(esp_code code) {
    return code == ESP_EXHAUSTED || code == ESP_UNAVAILABLE || code == ESP_ABORTED;
}

static void say_which(uint32_t replica, esp_error *err) {
    esp_error why = *err;
    (void)esp_fail_field(err, why.code, why.field, "replica %u: %.400s%s", replica, why.message,
                         passes(why.code) ? "; ask again" : "");
}

/* What the first one loaded, by content and number: what ref means may change meanwhile, and each counts versions of
 * its own. */
static void name_content(change *c, const adapter_info *info, char ref[REF_BYTES]) {
    snprintf(ref, REF_BYTES, "%.*s@%s", (int)strcspn(c->ref, "@"), c->ref, info->digest);
    c->ref = ref;
    c->version = info->version;
}

/* One that nobody asked the others for yet is known to the first alone, where names are looked up: what the others
 * do not know is no error then. */
static esp_code make_one_by_one(adapter_group *g, change c, adapter_info *info, esp_error *err) {
    esp_error why = {0};
    adapter_info made = {0};
    char ref[REF_BYTES];
    esp_code first = c.make(&c, g->of[0], &made, err);
    if (info) *info = made;
    if (first != ESP_OK && (c.loads || first != ESP_NOT_FOUND)) return first;
    if (c.loads) name_content(&c, &made, ref);
    for (uint32_t i = 1; i < g->count; i++) {
        esp_code code = c.make(&c, g->of[i], NULL, &why);
        if (code == ESP_OK || code == ESP_NOT_FOUND) continue;
        say_which(i, &why);
        if (err) *err = why;
        return code;
    }
    return first;
}

/* On the stack of who makes it. */
typedef struct change_of_name {
    const char *name;
    size_t bytes;
    struct change_of_name *next;
} change_of_name;

/* Under the lock. */
static bool is_changing(const adapter_group *g, const change_of_name *own) {
    for (const change_of_name *other = g->changes; other; other = other->next)
        if (other->bytes == own->bytes && !memcmp(other->name, own->name, own->bytes)) return true;
    return false;
}

static void begin(adapter_group *g, change_of_name *own) {
    pthread_mutex_lock(&g->lock);
    while (is_changing(g, own))
        pthread_cond_wait(&g->changed, &g->lock);
    own->next = g->changes;
    g->changes = own;
    pthread_mutex_unlock(&g->lock);
}

static void end(adapter_group *g, const change_of_name *own) {
    pthread_mutex_lock(&g->lock);
    change_of_name **link = &g->changes;
    while (*link != own)
        link = &(*link)->next;
    *link = own->next;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

static esp_code make(adapter_group *g, const change *c, adapter_info *info, esp_error *err) {
    change_of_name own = {.name = c->name ? c->name : c->ref};
    own.bytes = strcspn(own.name, "@");
    if (g->count == 1) return c->make(c, g->of[0], info, err);
    begin(g, &own);
    esp_code code = make_one_by_one(g, *c, info, err);
    end(g, &own);
    return code;
}

esp_code group_load_stored(adapter_group *g, const char *ref, adapter_info *info, esp_error *err) {
    return make(g, &(change){.make = load, .ref = ref, .loads = true}, info, err);
}

esp_code group_load_stored_as(adapter_group *g, const char *name, const char *ref,
                              adapter_info *info, esp_error *err) {
    const change c = {.make = load, .name = name, .ref = ref, .loads = true};
    return make(g, &c, info, err);
}

esp_code group_unload(adapter_group *g, const char *ref, adapter_unload how, esp_error *err) {
    return make(g, &(change){.make = unload, .ref = ref, .how = how}, NULL, err);
}

esp_code group_pin(adapter_group *g, const char *ref, bool pinned, esp_error *err) {
    return make(g, &(change){.make = pin, .ref = ref, .pinned = pinned}, NULL, err);
}

esp_code group_set_alias(adapter_group *g, const char *name, uint32_t version, esp_error *err) {
    return make(g, &(change){.make = set_alias, .name = name, .version = version}, NULL, err);
}

/* What fits one base fits its copies. */
esp_code group_check(adapter_group *g, const char *path, esp_error *err) {
    return adapters_check(g->of[0], path, err);
}

/* ---- lists ---- */

/* In the lists' order; of equals the first replica's comes first. */
typedef struct listed {
    adapter_info info;
    uint32_t replica;
} listed;

static int by_order(const void *x, const void *y) {
    const listed *p = x, *q = y;
    int order = adapter_info_order(&p->info, &q->info);
    return order ? order : (p->replica > q->replica) - (p->replica < q->replica);
}

#define RAISE(to, from) ((to) = (from) > (to) ? (from) : (to))

/* States are in the order of what there is to tell. Names are looked up with the first, which so knows what a bare
 * name means and how many asked. */
static void add(adapter_info *to, const adapter_info *from) {
    if (from->state == ADAPTER_BROKEN && to->state != ADAPTER_BROKEN) to->error = from->error;
    RAISE(to->state, from->state);
    RAISE(to->tier, from->tier);
    RAISE(to->rank, from->rank);
    RAISE(to->bytes, from->bytes);
    RAISE(to->file_bytes, from->file_bytes);
    RAISE(to->parameters, from->parameters);
    RAISE(to->last_use_us, from->last_use_us);
    to->pinned |= from->pinned;
    to->users += from->users;
    to->loads += from->loads;
    to->evictions += from->evictions;
}

static void add_stats(adapters_stats *to, const adapters_stats *from) {
    to->known += from->known;
    to->host += from->host;
    to->device += from->device;
    to->pinned += from->pinned;
    to->host_bytes += from->host_bytes;
    to->frames += from->frames;
    to->loads += from->loads;
    to->evictions += from->evictions;
    to->failures += from->failures;
}

static void append(listed **all, size_t *total, uint32_t replica, adapters *a,
                   adapters_stats *stats) {
    adapter_info *infos;
    size_t count;
    adapters_stats one;
    adapters_look(a, &infos, &count, &one);
    add_stats(stats, &one);
    listed *grown = mem_new(*total + count + 1, sizeof *grown);
    if (*total) memcpy(grown, *all, *total * sizeof *grown);
    for (size_t i = 0; i < count; i++)
        grown[*total + i] = (listed){.info = infos[i], .replica = replica};
    free(*all);
    free(infos);
    *all = grown;
    *total += count;
}

void group_look(adapter_group *g, adapter_info **out, size_t *count, adapters_stats *stats) {
    if (g->count == 1) {
        adapters_look(g->of[0], out, count, stats);
        return;
    }
    listed *all = NULL;
    size_t total = 0, used = 0;
    *stats = (adapters_stats){0};
    for (uint32_t i = 0; i < g->count; i++)
        append(&all, &total, i, g->of[i], stats);
    qsort(all, total, sizeof *all, by_order);
    adapter_info *merged = mem_new(total + 1, sizeof *merged);
    for (size_t i = 0; i < total; i++)
        if (used && adapter_info_order(&merged[used - 1], &all[i].info) == 0)
            add(&merged[used - 1], &all[i].info);
        else
            merged[used++] = all[i].info;
    free(all);
    *out = merged;
    *count = used;
}

void group_list(adapter_group *g, adapter_info **out, size_t *count) {
    adapters_stats stats;
    group_look(g, out, count, &stats);
}
