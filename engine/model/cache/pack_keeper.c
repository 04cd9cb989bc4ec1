/* pack_keeper.c - writes a pack, at once or behind the back of a model that serves already. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/cache/pack_keeper.h"

#include <libgen.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"

enum { PACK_KEEP_RATE = 256 << 20 /* bytes a second */, DISK_PART_KEPT_FREE = 10, NICE_LEAST = 19 };

struct pack_keeper {
    pack_keeper_options options;
    pack_item *items;
    uint64_t bytes; /* of all of them, about */
    pthread_t thread;
    bool threaded;
    int64_t next_us; /* when the next stretch may be written */
    pthread_mutex_t lock;
    pthread_cond_t moved;
    bool stop; /* under lock */
};

/* Waits for the stretch's time; false: the keeper is closed. */
static bool go_on(void *arg) {
    pack_keeper *k = arg;
    int64_t now_us = clock_now_us();
    if (k->next_us < now_us) k->next_us = now_us;
    k->next_us += (int64_t)PACK_STRETCH_BYTES * 1000000 / PACK_KEEP_RATE;
    struct timespec until = {k->next_us / 1000000, k->next_us % 1000000 * 1000};
    pthread_mutex_lock(&k->lock);
    while (!k->stop && clock_now_us() < k->next_us)
        pthread_cond_timedwait(&k->moved, &k->lock, &until);
    bool stop = k->stop;
    pthread_mutex_unlock(&k->lock);
    return !stop;
}

/* A disk that is nearly full has better uses. */
static bool has_room(const pack_keeper *k, const char *path) {
    char copy[PATH_MAX];
    struct statvfs disk;
    snprintf(copy, sizeof copy, "%s", path);
    if (statvfs(dirname(copy), &disk) != 0) return true; /* the writer will say why not */
    uint64_t left = (uint64_t)disk.f_bavail * disk.f_frsize;
    return left > k->bytes && left - k->bytes > disk.f_blocks / DISK_PART_KEPT_FREE * disk.f_frsize;
}

/* At the first place that takes it. */
static esp_code open_writer(pack_keeper *k, pack_writer **out, const char **path, esp_error *err) {
    const pack_cache_options *o = k->options.cache;
    esp_code code = esp_fail(err, ESP_DENIED, "no folder to write to");
    for (uint32_t i = 0; i < PACK_PLACES; i++) {
        *path = k->options.paths[i];
        if (!(*path)[0]) continue;
        if (i > 0 || o->folder) pack_make_folder(o->folder ? o->folder : o->spare);
        pack_writer_options writing = {.path = *path,
                                       .mode = pack_mode_of(o->model_path),
                                       .go_on = k->threaded ? go_on : NULL,
                                       .arg = k};
        code = has_room(k, *path)
                   ? pack_writer_open(out, &writing, err)
                   : esp_fail(err, ESP_EXHAUSTED, "a tenth of the disk would not stay free");
        if (!code) return ESP_OK;
    }
    return code;
}

/* The digest is of what lies at the path now: of what was packed, if the identity is the same. */
static esp_code make_key(const pack_cache_options *o, pack_key *out, esp_error *err) {
    char digest[MODEL_DIGEST_CHARS];
    bool read = o->digest(o->model_path, digest);
    if (!read || !o->identity.of_files ||
        pack_identity_of(o->model_path).of_files != o->identity.of_files)
        return esp_fail(err, ESP_UNAVAILABLE, "the model's files changed while they were read");
    *out = pack_key_of(digest, o->format, o->layout);
    return ESP_OK;
}

static esp_code write_all(pack_keeper *k, pack_writer *writer, esp_error *err) {
    const pack_cache_options *o = k->options.cache;
    pack_key key;
    esp_code code = ESP_OK;
    for (uint32_t i = 0; i < k->options.count && !code; i++)
        code = pack_writer_add(writer, k->items[i].place, &k->items[i].image, err);
    if (!code) code = make_key(o, &key, err);
    if (code) return code;
    return pack_writer_finish(writer, key, o->identity.settled ? o->identity.of_files : 0, err);
}

static void *run(void *arg) {
    pack_keeper *k = arg;
    pack_writer *writer = NULL;
    const char *path = "";
    esp_error err = {0};
    int64_t began_us = clock_now_us();
    if (k->threaded) (void)setpriority(PRIO_PROCESS, (id_t)gettid(), NICE_LEAST);
    esp_code code = open_writer(k, &writer, &path, &err);
    if (!code) code = write_all(k, writer, &err);
    pack_writer_close(writer);
    if (code)
        log_event(LOG_INFO, "pack_not_kept", "reason=\"%s\"", err.message);
    else
        log_event(LOG_INFO, "pack_kept", "file=\"%s\" megabytes=%.0f seconds=%.1f", path,
                  (double)k->bytes * 1e-6, (double)(clock_now_us() - began_us) * 1e-6);
    return NULL;
}

static void init_locks(pack_keeper *k) {
    pthread_condattr_t monotonic;
    ESP_ASSERT(pthread_condattr_init(&monotonic) == 0 &&
               pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC) == 0 &&
               pthread_cond_init(&k->moved, &monotonic) == 0 &&
               pthread_mutex_init(&k->lock, NULL) == 0);
    pthread_condattr_destroy(&monotonic);
}

pack_keeper *pack_keeper_open(const pack_keeper_options *options) {
    pack_keeper *k = mem_new(1, sizeof *k);
    k->options = *options;
    k->items = mem_new(options->count, sizeof *k->items);
    for (uint32_t i = 0; i < options->count; i++) {
        k->items[i] = options->items[i];
        k->bytes += k->items[i].image.count + PACK_ALIGNMENT;
    }
    init_locks(k);
    k->threaded = options->behind;
    if (k->threaded && pthread_create(&k->thread, NULL, run, k) == 0) return k;
    k->threaded = false;
    run(k);
    return k;
}

void pack_keeper_close(pack_keeper *k) {
    if (!k) return;
    pthread_mutex_lock(&k->lock);
    k->stop = true;
    pthread_cond_signal(&k->moved);
    pthread_mutex_unlock(&k->lock);
    if (k->threaded) pthread_join(k->thread, NULL);
    pthread_cond_destroy(&k->moved);
    pthread_mutex_destroy(&k->lock);
    free(k->items);
    free(k);
}
