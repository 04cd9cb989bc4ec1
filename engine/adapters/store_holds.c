/* store_holds.c - which blobs are in use: one byte of ROOT/held for each, locked for reading by who
 * holds it and for writing by who removes it. The byte's place comes of the digest; two digests with
 * one place would only wait for each other. The locks belong to an open file (F_OFD_SETLK), so they
 * count between threads as between processes, and go with the process. */
// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/adapters/store_inner.h"
#include "engine/base/mem.h"

typedef struct hold {
    uint64_t place;
    uint32_t count; /* > 0 */
} hold;

struct store_holds {
    pthread_mutex_t mutex; /* the innermost lock */
    int fd;
    hold *at;
    uint32_t count, capacity;
};

static uint64_t place_of(const char *hex) {
    char head[16] = {0};
    for (int i = 0; i < 15; i++)
        head[i] = hex[i];
    return strtoull(head, NULL, 16); /* 60 bits: an offset in a file */
}

static int lock_byte(int fd, uint64_t place, short type, bool wait) {
    struct flock lock = {.l_type = type, .l_start = (off_t)place, .l_len = 1};
    int result;
    do
        result = fcntl(fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &lock);
    while (result != 0 && errno == EINTR);
    return result;
}

static int open_held(const adapter_store *store) {
    int fd = store_open_at(store, store->root_fd, "held", O_RDWR | O_CREAT);
    return fd >= 0 ? fd : store_open_at(store, store->root_fd, "held", O_RDONLY);
}

store_holds *store_holds_open(const adapter_store *store) {
    store_holds *holds = mem_new(1, sizeof *holds);
    ESP_ASSERT(pthread_mutex_init(&holds->mutex, NULL) == 0);
    holds->fd = open_held(store);
    return holds;
}

void store_holds_close(store_holds *holds) {
    if (!holds) return;
    if (holds->fd >= 0) close(holds->fd);
    pthread_mutex_destroy(&holds->mutex);
    free(holds->at);
    free(holds);
}

static hold *find(store_holds *holds, uint64_t place) {
    for (uint32_t i = 0; i < holds->count; i++)
        if (holds->at[i].place == place) return &holds->at[i];
    return NULL;
}

static void add(store_holds *holds, uint64_t place) {
    if (holds->count == holds->capacity) {
        holds->capacity = holds->capacity ? 2 * holds->capacity : 64;
        holds->at = mem_resize(holds->at, holds->capacity, sizeof *holds->at);
    }
    holds->at[holds->count++] = (hold){place, 1};
}

static void drop(store_holds *holds, uint64_t place) {
    hold *h = find(holds, place);
    ESP_ASSERT(h);
    if (--h->count > 0) return;
    (void)!lock_byte(holds->fd, place, F_UNLCK, false);
    *h = holds->at[--holds->count];
}

static bool take(store_holds *holds, uint64_t place) {
    hold *h = find(holds, place);
    if (h) return ++h->count, true;
    if (lock_byte(holds->fd, place, F_RDLCK, true) != 0) return false;
    add(holds, place);
    return true;
}

esp_code store_hold(adapter_store *store, const char *digest, esp_error *err) {
    const char *hex = store_hex_of(digest);
    if (!hex) return esp_fail(err, ESP_INVALID, "a digest is \"sha256:\" and 64 digits");
    store_holds *holds = store->holds;
    struct stat status;
    esp_code code = ESP_OK;
    pthread_mutex_lock(&holds->mutex);
    if (!take(holds, place_of(hex))) {
        code = store_fail(err, "the adapter store", "lock an adapter in it");
    } else if (fstatat(store->folders[FOLDER_BLOBS], hex, &status, AT_SYMLINK_NOFOLLOW) != 0) {
        /* It went before it was held. */
        drop(holds, place_of(hex));
        code = esp_fail(err, ESP_NOT_FOUND, "%s is not in the store any more", digest);
    }
    pthread_mutex_unlock(&holds->mutex);
    return code;
}

void store_let_go(adapter_store *store, const char *digest) {
    const char *hex = store_hex_of(digest);
    ESP_ASSERT(hex);
    pthread_mutex_lock(&store->holds->mutex);
    drop(store->holds, place_of(hex));
    pthread_mutex_unlock(&store->holds->mutex);
}

int store_guard(const adapter_store *store, const char *hex) {
    int fd = store_open_at(store, store->root_fd, "held", O_RDWR | O_CREAT);
    if (fd >= 0 && lock_byte(fd, place_of(hex), F_WRLCK, false) == 0) return fd;
    if (fd >= 0) close(fd);
    return -1;
}

void store_unguard(int guard) { close(guard); }
