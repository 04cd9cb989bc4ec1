/* adapter_names.c - names, and the versions behind each. All of it under the lock. */
// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/adapters/adapters_inner.h"
#include "engine/base/mem.h"

/* FNV-1a (Fowler, Noll, Vo). */
static uint32_t bucket_of(const char *name) {
    uint32_t hash = 2166136261u;
    for (; *name; name++)
        hash = (hash ^ (uint8_t)*name) * 16777619u;
    return hash % NAME_BUCKETS;
}

adapter_entry *names_find(const adapters *a, const char *name) {
    adapter_entry *entry = a->names[bucket_of(name)];
    while (entry && strcmp(entry->name, name) != 0)
        entry = entry->next;
    return entry;
}

adapter_entry *names_take(adapters *a, const char *name) {
    adapter_entry *entry = names_find(a, name);
    if (entry) return entry;
    entry = mem_new(1, sizeof *entry);
    snprintf(entry->name, sizeof entry->name, "%s", name);
    adapter_entry **bucket = &a->names[bucket_of(name)];
    entry->next = *bucket;
    *bucket = entry;
    return entry;
}

void names_settle(adapters *a, adapter_entry *entry) {
    if (entry->versions || entry->unloaded || entry->loading) return;
    adapter_entry **link = &a->names[bucket_of(entry->name)];
    while (*link != entry)
        link = &(*link)->next;
    *link = entry->next;
    free(entry);
}

adapter *names_version(const adapter_entry *entry, uint32_t version) {
    for (adapter *ad = entry->versions; ad; ad = ad->next_version)
        if (ad->version == version && !adapter_is_leaving(ad)) return ad;
    return NULL;
}

adapter *names_digest(const adapter_entry *entry, const char *digest) {
    for (adapter *ad = entry->versions; ad; ad = ad->next_version)
        if (strncmp(ad->digest, digest, strlen(digest)) == 0 && !adapter_is_leaving(ad)) return ad;
    return NULL;
}

/* Only what is known to be missing is: of all else who reads the words says what is wrong with it. */
static bool may_be_there(const char *file) {
    return access(file, F_OK) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

static bool has_tokens(const char *path) {
    char file[PATH_MAX];
    for (uint32_t i = 0; i < ADAPTER_TOKEN_FILES; i++) {
        int bytes = snprintf(file, sizeof file, "%s/%s", path, ADAPTER_TOKEN_FILE[i]);
        if (bytes >= (int)sizeof file || may_be_there(file)) return true;
    }
    return false;
}

adapter *names_add(adapters *a, adapter_entry *entry, uint32_t version, const char *digest,
                   const char *path) {
    adapter *ad = mem_new(1, sizeof *ad);
    ad->owner = a;
    ad->entry = entry;
    ad->version = version;
    snprintf(ad->name, sizeof ad->name, "%s", entry->name);
    snprintf(ad->digest, sizeof ad->digest, "%s", digest);
    ad->path = mem_copy_text(path, strlen(path));
    ad->has_tokens = has_tokens(path);
    ad->next_version = entry->versions;
    entry->versions = ad;
    if (version > entry->last_version) entry->last_version = version;
    a->adapter_count++;
    return ad;
}

void names_remove(adapters *a, adapter *ad) {
    adapter_entry *entry = ad->entry;
    adapter **link = &entry->versions;
    while (*link != ad)
        link = &(*link)->next_version;
    *link = ad->next_version;
    if (entry->current == ad) entry->current = NULL;
    ad->entry = NULL;
    names_settle(a, entry);
}

esp_code names_unknown(const adapters *a, const char *ref, esp_error *err) {
    char shown[2 * STORE_NAME_MAX], known[NAMES_TOLD * (STORE_NAME_MAX + 3)] = "";
    esp_show(shown, sizeof shown, ref, strlen(ref));
    uint32_t told = 0;
    size_t used = 0;
    for (uint32_t i = 0; i < NAME_BUCKETS && told < NAMES_TOLD; i++)
        for (adapter_entry *e = a->names[i]; e && told < NAMES_TOLD; e = e->next)
            if (e->current)
                used += (size_t)snprintf(known + used, sizeof known - used, "%s%s",
                                         told++ ? ", " : "", e->name);
    if (told == 0)
        return esp_fail_field(err, ESP_NOT_FOUND, "model", "no adapter \"%s\"; none is loaded",
                              shown);
    return esp_fail_field(err, ESP_NOT_FOUND, "model",
                          "no adapter \"%s\"; there are %u, among them %s", shown, a->adapter_count,
                          known);
}
