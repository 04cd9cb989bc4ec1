/* pack_cache.c - finds, judges and renews the pack of a model. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/cache/pack_cache.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "engine/model/cache/pack_keeper.h"

struct pack_cache {
    pack_cache_options options;
    char path[PACK_PLACES][PATH_MAX]; /* "": none */
    pack_file *found;
    pack_keeper *keeper; /* of a new pack */
};

static void name_places(pack_cache *cache) {
    const pack_cache_options *o = &cache->options;
    if (o->folder) {
        if (!pack_name_in(cache->path[0], o->folder, o->model_path, o->format, o->layout))
            cache->path[0][0] = 0;
        return;
    }
    if (!pack_name_beside(cache->path[0], o->model_path, o->format, o->layout))
        cache->path[0][0] = 0;
    if (!o->spare || !pack_name_in(cache->path[1], o->spare, o->model_path, o->format, o->layout))
        cache->path[1][0] = 0;
}

/* --- judging --------------------------------------------------------------------------------- */

/* Whether the files are still those that were mapped. */
static bool is_unchanged(const pack_cache *cache) {
    uint64_t mapped = cache->options.identity.of_files;
    return mapped && pack_identity_of(cache->options.model_path).of_files == mapped;
}

static bool has_identity(const pack_cache *cache, const pack_file *pack) {
    return is_unchanged(cache) && pack_file_identity(pack) == cache->options.identity.of_files;
}

/* Of the model's content, which is read for it. */
static bool has_content(const pack_cache *cache, const pack_file *pack) {
    const pack_cache_options *o = &cache->options;
    char digest[MODEL_DIGEST_CHARS];
    if (!o->digest(o->model_path, digest) || !is_unchanged(cache)) return false;
    pack_key wanted = pack_key_of(digest, o->format, o->layout), seen = pack_file_key(pack);
    return memcmp(seen.model, wanted.model, sizeof seen.model) == 0;
}

static bool has_kind(const pack_cache *cache, const pack_file *pack) {
    const pack_cache_options *o = &cache->options;
    return pack_file_key(pack).kind == pack_key_of("", o->format, o->layout).kind;
}

/* So that the content need not be read next time. A pack that cannot be written stays as it is. */
static void renew(const pack_cache *cache, const char *path) {
    pack_identity identity = cache->options.identity;
    if (identity.settled) (void)!pack_file_renew(cache->found, path, identity.of_files, NULL);
}

/* Whether the pack was made of this model; why not, if not. */
static bool is_ours(const pack_cache *cache, const char *path, esp_error *err) {
    const pack_file *pack = cache->found;
    if (!has_kind(cache, pack))
        return esp_fail(err, ESP_INVALID, "is of another layout or version") == ESP_OK;
    if (has_identity(cache, pack)) return true;
    if (!has_content(cache, pack))
        return esp_fail(err, ESP_INVALID, "is of another model") == ESP_OK;
    renew(cache, path);
    return true;
}

static bool open_found(pack_cache *cache, const char *path) {
    esp_error err = {0};
    int64_t began_us = clock_now_us();
    esp_code code = pack_file_open(&cache->found, path, cache->options.pool, &err);
    if (code == ESP_NOT_FOUND) return false;
    if (code == ESP_OK && is_ours(cache, path, &err)) {
        log_event(LOG_INFO, "pack_used", "file=\"%s\" how=%s seconds=%.2f", path,
                  pack_file_how(cache->found), (double)(clock_now_us() - began_us) * 1e-6);
        return true;
    }
    pack_file_close(cache->found);
    cache->found = NULL;
    log_event(LOG_WARN, "pack_ignored", "file=\"%s\" reason=\"%s\"", path, err.message);
    return false;
}

/* --- the door -------------------------------------------------------------------------------- */

pack_cache *pack_cache_open(const pack_cache_options *options) {
    pack_cache *cache = mem_new(1, sizeof *cache);
    cache->options = *options;
    pack_cache_options *o = &cache->options;
    o->model_path = mem_copy_text(o->model_path, strlen(o->model_path));
    o->folder = o->folder ? mem_copy_text(o->folder, strlen(o->folder)) : NULL;
    o->spare = o->spare ? mem_copy_text(o->spare, strlen(o->spare)) : NULL;
    name_places(cache);
    for (uint32_t i = 0; i < PACK_PLACES && !cache->found; i++)
        if (cache->path[i][0]) (void)open_found(cache, cache->path[i]);
    return cache;
}

bool pack_cache_was_found(const pack_cache *cache) { return cache->found; }

bool pack_cache_find(const pack_cache *cache, pack_place place, kern_image *out) {
    return cache->found && pack_file_find(cache->found, place, out);
}

void pack_cache_keep(pack_cache *cache, const pack_item *items, uint32_t count, bool behind) {
    ESP_ASSERT(!cache->keeper && !cache->found);
    cache->keeper = pack_keeper_open(
        &(pack_keeper_options){&cache->options, cache->path, items, count, behind});
}

void pack_cache_stop(pack_cache *cache) {
    if (!cache) return;
    pack_keeper_close(cache->keeper);
    cache->keeper = NULL;
}

void pack_cache_close(pack_cache *cache) {
    if (!cache) return;
    pack_cache_stop(cache);
    pack_file_close(cache->found);
    free((char *)(uintptr_t)cache->options.model_path);
    free((char *)(uintptr_t)cache->options.folder);
    free((char *)(uintptr_t)cache->options.spare);
    free(cache);
}
