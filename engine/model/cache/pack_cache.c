/* pack_cache.c - finds, judges and renews the pack beside a model. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/cache/pack_cache.h"

#include <dirent.h>
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "engine/base/log.h"
#include "engine/base/mem.h"

enum { PLACES = 2 }; /* beside the model; in the folder of caches */

struct pack_cache {
    pack_cache_options options;
    char path[PLACES][PATH_MAX]; /* "" : none */
    uint64_t identity;           /* 0: the files have changed since the model was opened */
    pack_file *found;
    pack_writer *writer; /* of a new pack, while all goes well */
};

/* --- identity -------------------------------------------------------------------------------- */

/* What changes when a file does. */
static uint64_t identity_of_file(const char *path, const char *name) {
    struct stat status;
    if (stat(path, &status) != 0 || !S_ISREG(status.st_mode)) return 0;
    uint64_t facts[] = {(uint64_t)status.st_dev,          (uint64_t)status.st_ino,
                        (uint64_t)status.st_size,         (uint64_t)status.st_mtim.tv_sec,
                        (uint64_t)status.st_mtim.tv_nsec, (uint64_t)status.st_ctim.tv_sec,
                        (uint64_t)status.st_ctim.tv_nsec, XXH3_64bits(name, strlen(name))};
    return XXH3_64bits(facts, sizeof facts);
}

/* Of a folder's files, in any order; packs that lie there are none of the model. */
static uint64_t identity_of_folder(const char *path) {
    DIR *folder = opendir(path);
    uint64_t sum = 0;
    if (!folder) return 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        char file[PATH_MAX];
        bool packed = strstr(entry->d_name, ".espalier-pack") != NULL;
        int bytes = snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
        if (!packed && bytes < (int)sizeof file) sum += identity_of_file(file, entry->d_name);
    }
    closedir(folder);
    return sum;
}

uint64_t pack_cache_identity(const char *path) {
    struct stat status;
    char copy[PATH_MAX];
    if (stat(path, &status) != 0) return 0;
    if (S_ISDIR(status.st_mode)) return identity_of_folder(path);
    if (!strstr(path, "-of-")) return identity_of_file(path, path);
    snprintf(copy, sizeof copy, "%s", path); /* a part of a split model has the others beside it */
    return identity_of_folder(dirname(copy));
}

/* --- places ---------------------------------------------------------------------------------- */

static void drop_slashes(char *path) {
    for (size_t bytes = strlen(path); bytes > 1 && path[bytes - 1] == '/';)
        path[--bytes] = 0;
}

/* In the folder of caches a model goes by a hash of its real path as well as by its name. */
static void name_places(pack_cache *cache) {
    const pack_cache_options *o = &cache->options;
    char real[PATH_MAX], copy[PATH_MAX];
    if (!realpath(o->model_path, real)) return;
    drop_slashes(real);
    int bytes = snprintf(cache->path[0], PATH_MAX, "%s.%s.espalier-pack", real, o->format);
    if (bytes >= PATH_MAX) cache->path[0][0] = 0;
    if (!o->cache_folder) return;
    memcpy(copy, real, sizeof copy);
    bytes =
        snprintf(cache->path[1], PATH_MAX, "%s/%s.%016llx.%s.espalier-pack", o->cache_folder,
                 basename(copy), (unsigned long long)XXH3_64bits(real, strlen(real)), o->format);
    if (bytes >= PATH_MAX) cache->path[1][0] = 0;
}

/* The folder of caches and the one above it. */
static void make_folder(const char *path) {
    char above[PATH_MAX];
    snprintf(above, sizeof above, "%s", path);
    if (mkdir(path, 0700) == 0 || errno != ENOENT) return;
    mkdir(dirname(above), 0700);
    mkdir(path, 0700);
}

/* --- reading --------------------------------------------------------------------------------- */

/* content: of the model as well, which reads all of it. */
static pack_key wanted_key(const pack_cache *cache, bool content) {
    const pack_cache_options *o = &cache->options;
    return pack_key_of(content ? o->digest(o->digest_arg) : "", o->format, o->layout);
}

/* Whether the pack was made of this model; why not, if not. */
static bool is_ours(const pack_cache *cache, const pack_file *pack, esp_error *err) {
    pack_key seen = pack_file_key(pack);
    if (seen.kind != wanted_key(cache, false).kind)
        return esp_fail(err, ESP_INVALID, "is of another device or build") == ESP_OK;
    if (cache->identity && pack_file_identity(pack) == cache->identity) return true;
    if (memcmp(seen.model, wanted_key(cache, true).model, sizeof seen.model) == 0) return true;
    return esp_fail(err, ESP_INVALID, "is of another model") == ESP_OK;
}

static bool open_found(pack_cache *cache, const char *path) {
    esp_error err = {0};
    esp_code code = pack_file_open(&cache->found, path, cache->options.pool, &err);
    if (code == ESP_NOT_FOUND) return false;
    if (code == ESP_OK && is_ours(cache, cache->found, &err)) return true;
    pack_file_close(cache->found);
    cache->found = NULL;
    log_event(LOG_WARN, "pack_ignored", "file=\"%s\" reason=\"%s\"", path, err.message);
    return false;
}

/* Beside the model if that can be. */
static void begin_new(pack_cache *cache) {
    esp_error err = {0};
    for (uint32_t i = 0; i < PLACES && !cache->writer; i++) {
        if (!cache->path[i][0]) continue;
        if (i > 0) make_folder(cache->options.cache_folder);
        if (pack_writer_open(&cache->writer, cache->path[i], &err) == ESP_OK) return;
    }
    log_event(LOG_WARN, "pack_not_kept", "reason=\"%s\"", err.message);
}

static bool is_unchanged(const pack_cache *cache) {
    return pack_cache_identity(cache->options.model_path) == cache->options.identity;
}

pack_cache *pack_cache_open(const pack_cache_options *options) {
    pack_cache *cache = mem_new(1, sizeof *cache);
    cache->options = *options;
    name_places(cache);
    if (is_unchanged(cache)) cache->identity = options->identity;
    for (uint32_t i = 0; i < PLACES; i++)
        if (cache->path[i][0] && open_found(cache, cache->path[i])) return cache;
    begin_new(cache);
    return cache;
}

bool pack_cache_was_found(const pack_cache *cache) { return cache->found; }

bool pack_cache_find(const pack_cache *cache, pack_place place, kern_image *out) {
    return cache->found && pack_file_find(cache->found, place, out);
}

/* --- writing --------------------------------------------------------------------------------- */

static void give_up(pack_cache *cache, const esp_error *err) {
    log_event(LOG_WARN, "pack_not_kept", "reason=\"%s\"", err->message);
    pack_writer_close(cache->writer);
    cache->writer = NULL;
}

void pack_cache_add(pack_cache *cache, pack_place place, const kern_image *image) {
    esp_error err = {0};
    if (cache->writer && pack_writer_add(cache->writer, place, image, &err) != ESP_OK)
        give_up(cache, &err);
}

void pack_cache_finish(pack_cache *cache) {
    esp_error err = {0};
    if (!cache->writer) return;
    if (!cache->identity || !is_unchanged(cache)) {
        (void)esp_fail(&err, ESP_UNAVAILABLE, "the model's files changed while they were read");
        give_up(cache, &err);
        return;
    }
    pack_key key = wanted_key(cache, true);
    if (pack_writer_finish(cache->writer, key, cache->identity, &err) != ESP_OK) {
        give_up(cache, &err);
        return;
    }
    pack_writer_close(cache->writer);
    cache->writer = NULL;
    log_event(LOG_INFO, "pack_kept", "format=%s", cache->options.format);
}

void pack_cache_close(pack_cache *cache) {
    if (!cache) return;
    pack_writer_close(cache->writer);
    pack_file_close(cache->found);
    free(cache);
}
