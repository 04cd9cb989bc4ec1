/* pack_writer.c - writes a file of packed matrices under another name, and renames it when it is
 * whole and on the disk: a reader sees all of it or nothing. */
// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/model/cache/pack_inner.h"

struct pack_writer {
    int fd; /* -1: finished, or never opened */
    char path[PATH_MAX], temporary[PATH_MAX];
    char name[96];
    uint64_t at; /* bytes written */
    XXH3_state_t *hash;
    pack_entry *entries;
    uint32_t count, capacity;
};

static esp_code fail(const pack_writer *w, const char *doing, esp_error *err) {
    int number = errno;
    esp_code code = number == ENOSPC || number == EDQUOT  ? ESP_EXHAUSTED
                    : number == ENOENT                    ? ESP_NOT_FOUND
                    : number == EACCES || number == EROFS ? ESP_DENIED
                                                          : ESP_UNAVAILABLE;
    return esp_fail(err, code, "%s: cannot %s: %s", w->name, doing, strerror(number));
}

static esp_code put(pack_writer *w, const void *bytes, uint64_t count, esp_error *err) {
    const uint8_t *from = bytes;
    for (uint64_t left = count; left > 0;) {
        ssize_t wrote = write(w->fd, from, left < (1u << 30) ? left : 1u << 30);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0) return fail(w, "write", err);
        from += wrote;
        left -= (uint64_t)wrote;
    }
    w->at += count;
    return ESP_OK;
}

/* Zeros up to a multiple of alignment. */
static esp_code pad(pack_writer *w, uint64_t alignment, esp_error *err) {
    static const uint8_t zeros[PACK_ALIGNMENT];
    uint64_t over = w->at % alignment;
    return over ? put(w, zeros, alignment - over, err) : ESP_OK;
}

/* The unfinished file, ours alone: what a crash left is used again, what another process is writing
 * is not touched. Between open and lock that process may have finished and renamed it. */
static int open_temporary(const char *path) {
    struct stat mine, named;
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0) return -1;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0 && fstat(fd, &mine) == 0 && stat(path, &named) == 0 &&
        mine.st_ino == named.st_ino && mine.st_dev == named.st_dev && ftruncate(fd, 0) == 0)
        return fd;
    close(fd);
    errno = EBUSY;
    return -1;
}

esp_code pack_writer_open(pack_writer **out, const char *path, esp_error *err) {
    static const pack_header empty;
    *out = NULL;
    pack_writer *w = mem_new(1, sizeof *w);
    w->fd = -1;
    w->hash = XXH3_createState();
    ESP_ASSERT(w->hash);
    file_show_name(w->name, sizeof w->name, path);
    int used = snprintf(w->path, sizeof w->path, "%s", path);
    int more = snprintf(w->temporary, sizeof w->temporary, "%s.new", path);
    errno = ENAMETOOLONG;
    if (used < (int)sizeof w->path && more < (int)sizeof w->temporary)
        w->fd = open_temporary(w->temporary);
    esp_code code = w->fd < 0 ? fail(w, "create it", err) : put(w, &empty, sizeof empty, err);
    if (code) {
        pack_writer_close(w);
        return code;
    }
    *out = w;
    return ESP_OK;
}

static void hash_more(pack_writer *w, const void *bytes, uint64_t count) {
    ESP_ASSERT(XXH3_64bits_update(w->hash, bytes, count) == XXH_OK);
}

/* The order of the columns, padded. */
static esp_code put_order(pack_writer *w, const kern_image *image, uint64_t bytes, esp_error *err) {
    static const uint8_t zeros[PACK_ORDER_ALIGNMENT];
    if (!bytes) return ESP_OK;
    hash_more(w, image->order, bytes);
    hash_more(w, zeros, pack_order_room(bytes) - bytes);
    esp_code code = put(w, image->order, bytes, err);
    return code ? code : pad(w, PACK_ORDER_ALIGNMENT, err);
}

esp_code pack_writer_add(pack_writer *w, pack_place place, const kern_image *image,
                         esp_error *err) {
    esp_code code = pad(w, PACK_ALIGNMENT, err);
    if (code) return code;
    pack_entry entry = {.place = place,
                        .rows = image->rows,
                        .cols = image->cols,
                        .at = w->at,
                        .order_bytes = image->order ? image->cols * sizeof(uint32_t) : 0,
                        .bytes = image->count};
    snprintf(entry.dtype, sizeof entry.dtype, "%s", dtype_info(image->dtype)->name);
    ESP_ASSERT(XXH3_64bits_reset(w->hash) == XXH_OK);
    if ((code = put_order(w, image, entry.order_bytes, err))) return code;
    hash_more(w, image->bytes, image->count);
    if ((code = put(w, image->bytes, image->count, err))) return code;
    entry.hash = XXH3_64bits_digest(w->hash);
    if (w->count == w->capacity) {
        w->capacity = w->capacity ? 2 * w->capacity : 256;
        w->entries = mem_resize(w->entries, w->capacity, sizeof *w->entries);
    }
    w->entries[w->count++] = entry;
    return ESP_OK;
}

/* The name in its folder is on the disk as well. */
static void sync_folder(const pack_writer *w) {
    char path[PATH_MAX];
    memcpy(path, w->path, sizeof path);
    int fd = open(dirname(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    fsync(fd);
    close(fd);
}

static esp_code put_header(pack_writer *w, pack_header *h, esp_error *err) {
    h->header_hash = XXH3_64bits(h, PACK_HASHED_HEADER);
    if (pwrite(w->fd, h, sizeof *h, 0) != (ssize_t)sizeof *h) return fail(w, "write", err);
    if (fsync(w->fd) != 0) return fail(w, "flush", err);
    if (rename(w->temporary, w->path) != 0) return fail(w, "rename", err);
    close(w->fd);
    w->fd = -1;
    sync_folder(w);
    return ESP_OK;
}

esp_code pack_writer_finish(pack_writer *w, pack_key key, uint64_t identity, esp_error *err) {
    uint64_t table_bytes = (uint64_t)w->count * sizeof *w->entries;
    esp_code code = pad(w, PACK_ORDER_ALIGNMENT, err);
    if (code) return code;
    pack_header h = {.key = key,
                     .identity = identity,
                     .table_at = w->at,
                     .entries = w->count,
                     .table_hash = XXH3_64bits(w->entries, table_bytes)};
    memcpy(h.magic, PACK_MAGIC, sizeof h.magic);
    if ((code = put(w, w->entries, table_bytes, err))) return code;
    h.file_bytes = w->at;
    return put_header(w, &h, err);
}

void pack_writer_close(pack_writer *w) {
    if (!w) return;
    if (w->fd >= 0) {
        unlink(w->temporary); /* before the lock goes */
        close(w->fd);
    }
    XXH3_freeState(w->hash);
    free(w->entries);
    free(w);
}
