/* store_sweep.c - takes away what no name needs: after a removal, and after a crash.
 *
 *   import  mark -> blob -> name -> unmark         remove  mark -> name -> (blob) -> unmark
 *
 * Wherever a process ended in between, the mark is there and the names say what is true. */
// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "engine/adapters/store_inner.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"

esp_code store_mark(const adapter_store *store, const char *hex, esp_error *err) {
    int fd = store_open_at(store, store->folders[FOLDER_UNSURE], hex, O_WRONLY | O_CREAT);
    if (fd < 0) return store_fail(err, "the adapter store", "note a change in it");
    close(fd);
    return store_sync(store, store->folders[FOLDER_UNSURE], "the adapter store", err);
}

void store_unmark(const adapter_store *store, const char *hex) {
    (void)!store_unlink(store, FOLDER_UNSURE, hex, NULL);
}

/* Names in a folder of the store; free each and the array. */
static char **read_folder(const adapter_store *store, store_folder folder, size_t *count) {
    char **names = NULL;
    *count = 0;
    store_walk *walk = store_walk_open(store, store->folders[folder]);
    for (const char *name; walk && (name = store_walk_next(walk));) {
        names = mem_resize(names, *count + 1, sizeof *names);
        names[(*count)++] = mem_copy_text(name, strlen(name));
    }
    store_walk_close(walk);
    return names;
}

static void free_names(char **names, size_t count) {
    for (size_t i = 0; i < count; i++)
        free(names[i]);
    free(names);
}

static bool is_named(const store_list *list, const char *hex) {
    for (uint32_t i = 0; i < list->count; i++)
        for (uint32_t v = 0; v < list->at[i].count; v++)
            if (!strcmp(store_hex_of(list->at[i].versions[v].digest), hex)) return true;
    return false;
}

/* Out of sight in one step, then file by file. False: held, or it cannot be moved. */
static bool remove_blob(const adapter_store *store, const char *hex) {
    char id[STORE_ID_CHARS];
    int guard = store_guard(store, hex);
    if (guard < 0) return false;
    store_make_id(id, "removed");
    bool moved = store_step(store, "rename") &&
                 renameat(store->folders[FOLDER_BLOBS], hex, store->folders[FOLDER_STAGE], id) == 0;
    bool gone = moved || errno == ENOENT;
    store_unguard(guard);
    if (moved) store_discard(store, id);
    return gone;
}

static void judge(const adapter_store *store, const store_list *list, const char *hex) {
    bool is_digest = strlen(hex) == SHA256_HEX_CHARS && sha256_read_hex(hex, NULL);
    if (!is_digest || is_named(list, hex) || remove_blob(store, hex)) store_unmark(store, hex);
}

void store_settle(const adapter_store *store) {
    size_t count;
    char **marked = read_folder(store, FOLDER_UNSURE, &count);
    store_list list = {0};
    esp_error err = {0};
    /* Unless all names are read, nobody knows which blobs have none. */
    if (count > 0 && store_read_list((adapter_store *)(uintptr_t)store, &list, &err) != ESP_OK)
        log_event(LOG_WARN, "adapter_store", "unsure=%zu reason=\"%s\"", count, err.message);
    else
        for (size_t i = 0; i < count; i++)
            judge(store, &list, marked[i]);
    store_list_free(&list);
    free_names(marked, count);
}

/* A folder that its maker holds locked is at work; all else there is made under the store's lock,
 * which is ours. */
static void sweep_stage(const adapter_store *store, const char *id) {
    int fd = store_open_at(store, store->folders[FOLDER_STAGE], id, O_RDONLY | O_DIRECTORY);
    bool stale = fd < 0 || flock(fd, LOCK_EX | LOCK_NB) == 0;
    if (stale) store_discard(store, id);
    if (fd >= 0) close(fd);
}

void store_sweep(const adapter_store *store) {
    int lock;
    if (store_lock(store, &lock, NULL) != ESP_OK)
        return; /* who may not write leaves it to others */
    size_t count;
    char **ids = read_folder(store, FOLDER_STAGE, &count);
    for (size_t i = 0; i < count; i++)
        sweep_stage(store, ids[i]);
    free_names(ids, count);
    store_settle(store);
    store_unlock(lock);
}
