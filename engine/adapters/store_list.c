/* store_list.c - all names; what the blobs take; whether a blob is what it was. */
// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/adapters/store_inner.h"
#include "engine/base/mem.h"

/* ---- names ---- */

/* The name that a file of names/ is for, or false: it is none of ours. */
static bool name_of_file(const char *file, char out[STORE_NAME_MAX + 1]) {
    size_t bytes = strlen(file), tail = strlen(".json");
    if (bytes <= tail || strcmp(file + bytes - tail, ".json") != 0) return false;
    bytes -= tail;
    if (store_check_name(file, bytes, NULL) != ESP_OK) return false;
    memcpy(out, file, bytes);
    out[bytes] = 0;
    return true;
}

static esp_code add_name(adapter_store *store, const char *name, store_list *list,
                         uint32_t *capacity, esp_error *err) {
    if (list->count == *capacity) {
        *capacity = *capacity ? 2 * *capacity : 64;
        list->at = mem_resize(list->at, *capacity, sizeof *list->at);
    }
    esp_code code = store_read_name(store, name, &list->at[list->count], err);
    if (code == ESP_OK) {
        list->count++;
        return ESP_OK;
    }
    store_name_free(&list->at[list->count]);
    return code == ESP_NOT_FOUND ? ESP_OK : code; /* removed since its file was listed */
}

static int compare_names(const void *a, const void *b) {
    return strcmp(((const store_name *)a)->name, ((const store_name *)b)->name);
}

esp_code store_read_list(adapter_store *store, store_list *out, esp_error *err) {
    *out = (store_list){0};
    uint32_t capacity = 0;
    esp_code code = ESP_OK;
    store_walk *walk = store_walk_open(store, store->folders[FOLDER_NAMES]);
    if (!walk) return store_fail(err, "the adapter store", "list it");
    for (const char *file; code == ESP_OK && (file = store_walk_next(walk));) {
        char name[STORE_NAME_MAX + 1];
        if (name_of_file(file, name)) code = add_name(store, name, out, &capacity, err);
    }
    store_walk_close(walk);
    if (out->count) qsort(out->at, out->count, sizeof *out->at, compare_names);
    if (code != ESP_OK) store_list_free(out);
    return code;
}

void store_list_free(store_list *list) {
    for (uint32_t i = 0; i < list->count; i++)
        store_name_free(&list->at[i]);
    free(list->at);
    *list = (store_list){0};
}

/* ---- sizes ---- */

static uint64_t blob_bytes(const adapter_store *store, const char *hex) {
    const char *const files[] = {ADAPTER_CONFIG_FILE,   ADAPTER_TENSORS_FILE, ADAPTER_LABELS_FILE,
                                 ADAPTER_GGUF_FILE,     STORE_MANIFEST_FILE,  ADAPTER_TOKEN_FILE[0],
                                 ADAPTER_TOKEN_FILE[1], ADAPTER_TOKEN_FILE[2]};
    uint64_t sum = 0;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[STORE_BLOB_PATH_CHARS];
        struct stat status;
        snprintf(path, sizeof path, "%.64s/%s", hex, files[i]);
        if (fstatat(store->folders[FOLDER_BLOBS], path, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISREG(status.st_mode))
            sum += (uint64_t)status.st_size;
    }
    return sum;
}

uint64_t store_bytes(const adapter_store *store) {
    uint64_t sum = 0;
    store_walk *walk = store_walk_open(store, store->folders[FOLDER_BLOBS]);
    for (const char *hex; walk && (hex = store_walk_next(walk));)
        sum += blob_bytes(store, hex);
    store_walk_close(walk);
    return sum;
}

/* ---- content ---- */

/* Of a regular file of exactly that many bytes; otherwise false with errno 0, or why not. */
static bool hash_open(int fd, uint64_t bytes, uint8_t out[SHA256_BYTES]) {
    enum { STEP = 1 << 20 };
    struct stat status;
    errno = 0;
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) || (uint64_t)status.st_size != bytes)
        return false;
    uint8_t *step = mem_new(STEP, 1);
    sha256_sum *sum = sha256_open();
    uint64_t seen = 0;
    ssize_t got;
    while ((got = read(fd, step, STEP)) > 0 || (got < 0 && errno == EINTR)) {
        if (got < 0) continue;
        sha256_add(sum, step, (size_t)got);
        seen += (uint64_t)got;
    }
    sha256_end(sum, out);
    sha256_close(sum);
    free(step);
    return got == 0 && seen == bytes;
}

static esp_code verify_file(const adapter_store *store, const char *hex, const store_file *file,
                            esp_error *err) {
    char path[STORE_BLOB_PATH_CHARS];
    uint8_t wanted[SHA256_BYTES], seen[SHA256_BYTES];
    snprintf(path, sizeof path, "%s/%s", hex, file->name);
    int fd =
        store_open_at(store, store->folders[FOLDER_BLOBS], path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return store_fail(err, file->name, "open it");
    bool same = hash_open(fd, file->bytes, seen);
    same = same && sha256_read_hex(file->sha256, wanted) && !memcmp(seen, wanted, sizeof seen);
    close(fd);
    if (same) return ESP_OK;
    return esp_fail(err, ESP_DATA_LOSS,
                    "sha256:%.12s: %s is not what was imported; import it again to mend it", hex,
                    file->name);
}

esp_code store_verify(adapter_store *store, const char *digest, esp_error *err) {
    store_manifest manifest;
    esp_code code = store_read_manifest(store, digest, &manifest, err);
    for (uint32_t i = 0; code == ESP_OK && i < manifest.file_count; i++)
        code = verify_file(store, store_hex_of(digest), &manifest.files[i], err);
    return code;
}
