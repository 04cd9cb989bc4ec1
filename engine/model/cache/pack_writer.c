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

#include "engine/base/mem.h"
#include "engine/model/cache/pack_inner.h"

struct pack_writer {
    pack_writer_options options;
    int fd; /* -1: finished, or never opened */
    char path[PATH_MAX], temporary[PATH_MAX];
    char name[96];
    uint8_t *stretch;     /* PACK_STRETCH_BYTES: what is not yet written */
    uint64_t at, written; /* bytes of the file: given, and on their way to the disk */
    pack_entry *entries;
    uint32_t count, capacity;
    uint64_t *hashes;
    uint32_t hash_count, hash_capacity;
};

static esp_code fail(const pack_writer *w, const char *doing, esp_error *err) {
    int number = errno;
    esp_code code = number == ENOSPC || number == EDQUOT  ? ESP_EXHAUSTED
                    : number == ENOENT                    ? ESP_NOT_FOUND
                    : number == EACCES || number == EROFS ? ESP_DENIED
                                                          : ESP_UNAVAILABLE;
    return esp_fail(err, code, "%s: cannot %s: %s", w->name, doing, strerror(number));
}

static void add_hash(pack_writer *w, uint64_t end) {
    uint64_t at, bytes;
    if (w->hash_count == w->hash_capacity) {
        w->hash_capacity = w->hash_capacity ? 2 * w->hash_capacity : 256;
        w->hashes = mem_resize(w->hashes, w->hash_capacity, sizeof *w->hashes);
    }
    pack_stretch(w->hash_count, end, &at, &bytes);
    w->hashes[w->hash_count++] = XXH3_64bits(w->stretch + at % PACK_STRETCH_BYTES, bytes);
}

/* What has gathered; the disk is told to begin at once, so that little is left for the end. */
static esp_code flush(pack_writer *w, esp_error *err) {
    uint64_t count = w->at - w->written;
    for (uint64_t done = 0; done < count;) {
        ssize_t wrote = write(w->fd, w->stretch + done, count - done);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0) return fail(w, "write", err);
        done += (uint64_t)wrote;
    }
    (void)sync_file_range(w->fd, (off_t)w->written, (off_t)count, SYNC_FILE_RANGE_WRITE);
    w->written = w->at;
    if (w->options.go_on && !w->options.go_on(w->options.arg))
        return esp_fail(err, ESP_CANCELLED, "%s: the process ends", w->name);
    return ESP_OK;
}

/* hashed: a matrix or padding; NULL bytes are zeros. */
static esp_code put(pack_writer *w, const void *bytes, uint64_t count, bool hashed,
                    esp_error *err) {
    const uint8_t *from = bytes;
    while (count > 0) {
        uint64_t used = w->at % PACK_STRETCH_BYTES, room = PACK_STRETCH_BYTES - used;
        uint64_t now = count < room ? count : room;
        if (from)
            memcpy(w->stretch + used, from, now);
        else
            memset(w->stretch + used, 0, now);
        if (from) from += now;
        count -= now;
        w->at += now;
        if (now < room) continue;
        if (hashed) add_hash(w, w->at);
        esp_code code = flush(w, err);
        if (code) return code;
    }
    return ESP_OK;
}

/* Zeros up to a multiple of alignment. */
static esp_code pad(pack_writer *w, uint64_t alignment, esp_error *err) {
    uint64_t over = w->at % alignment;
    return over ? put(w, NULL, alignment - over, true, err) : ESP_OK;
}

/* The unfinished file, ours alone: what a crash left is used again, what another process is writing
 * is not touched. Between open and lock that process may have finished and renamed it. */
static int open_temporary(const char *path, mode_t mode) {
    struct stat mine, named;
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd < 0) return -1;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0 && fstat(fd, &mine) == 0 && stat(path, &named) == 0 &&
        mine.st_ino == named.st_ino && mine.st_dev == named.st_dev && ftruncate(fd, 0) == 0)
        return fd;
    close(fd);
    errno = EBUSY;
    return -1;
}

esp_code pack_writer_open(pack_writer **out, const pack_writer_options *options, esp_error *err) {
    *out = NULL;
    pack_writer *w = mem_new(1, sizeof *w);
    w->options = *options;
    w->fd = -1;
    w->stretch = mem_map(PACK_STRETCH_BYTES);
    ESP_ASSERT(w->stretch);
    file_show_name(w->name, sizeof w->name, options->path);
    int used = snprintf(w->path, sizeof w->path, "%s", options->path);
    int more = snprintf(w->temporary, sizeof w->temporary, "%s.new", options->path);
    errno = ENAMETOOLONG;
    if (used < (int)sizeof w->path && more < (int)sizeof w->temporary)
        w->fd = open_temporary(w->temporary, options->mode);
    esp_code code =
        w->fd < 0 ? fail(w, "create it", err) : put(w, NULL, PACK_ALIGNMENT, false, err);
    if (code) {
        pack_writer_close(w);
        return code;
    }
    *out = w;
    return ESP_OK;
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
    if (image->order) code = put(w, image->order, entry.order_bytes, true, err);
    if (!code) code = pad(w, PACK_ORDER_ALIGNMENT, err);
    if (!code) code = put(w, image->bytes, image->count, true, err);
    if (code) return code;
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

static uint64_t hash_table(const pack_writer *w) {
    uint64_t entries = (uint64_t)w->count * sizeof *w->entries;
    uint64_t hashes = (uint64_t)w->hash_count * sizeof *w->hashes;
    uint8_t *both = mem_new(entries + hashes, 1);
    if (entries) memcpy(both, w->entries, entries);
    if (hashes) memcpy(both + entries, w->hashes, hashes);
    uint64_t hash = XXH3_64bits(both, entries + hashes);
    free(both);
    return hash;
}

esp_code pack_writer_finish(pack_writer *w, pack_key key, uint64_t identity, esp_error *err) {
    esp_code code = pad(w, PACK_ORDER_ALIGNMENT, err);
    if (code) return code;
    if (w->at % PACK_STRETCH_BYTES) add_hash(w, w->at);
    pack_header h = {.key = key,
                     .identity = identity,
                     .table_at = w->at,
                     .entries = w->count,
                     .stretches = w->hash_count,
                     .table_hash = hash_table(w)};
    memcpy(h.magic, PACK_MAGIC, sizeof h.magic);
    code = put(w, w->entries, (uint64_t)w->count * sizeof *w->entries, false, err);
    if (!code) code = put(w, w->hashes, (uint64_t)w->hash_count * sizeof *w->hashes, false, err);
    if (!code) code = flush(w, err);
    if (code) return code;
    h.file_bytes = w->at;
    return put_header(w, &h, err);
}

void pack_writer_close(pack_writer *w) {
    if (!w) return;
    if (w->fd >= 0) {
        unlink(w->temporary); /* before the lock goes */
        close(w->fd);
    }
    mem_unmap(w->stretch, PACK_STRETCH_BYTES);
    free(w->hashes);
    free(w->entries);
    free(w);
}

/* In place, and only where the file is still the one that was opened. Who reads it meanwhile sees
 * one header, the other, or a damaged one, and then packs for himself. */
esp_code pack_file_renew(const pack_file *pack, const char *path, uint64_t identity,
                         esp_error *err) {
    pack_header h;
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    bool ours = fd >= 0 && pread(fd, &h, sizeof h, 0) == (ssize_t)sizeof h &&
                memcmp(&h, &pack->header, sizeof h) == 0;
    h.identity = identity;
    h.header_hash = XXH3_64bits(&h, PACK_HASHED_HEADER);
    bool written = ours && pwrite(fd, &h, sizeof h, 0) == (ssize_t)sizeof h;
    if (fd >= 0) close(fd);
    return written ? ESP_OK : esp_fail(err, ESP_UNAVAILABLE, "cannot renew the pack's header");
}
