/* store.c - opens the store; says what a reference means; moves an alias. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/adapters/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/adapters/store_inner.h"
#include "engine/base/file.h"
#include "engine/base/mem.h"

/* ---- opening ---- */

static esp_code fail_root(const char *root, const char *doing, esp_error *err) {
    char shown[200];
    file_show_path(shown, sizeof shown, root);
    return store_fail(err, shown, doing);
}

/* The folder and those above it. */
static bool make_path(const char *path) {
    char part[PATH_MAX];
    size_t bytes = strlen(path);
    if (bytes >= sizeof part) return errno = ENAMETOOLONG, false;
    for (size_t i = 1; i <= bytes; i++) {
        if (path[i] && path[i] != '/') continue;
        memcpy(part, path, i);
        part[i] = 0;
        if (mkdir(part, 0700) != 0 && errno != EEXIST) return false;
    }
    return true;
}

static esp_code open_root(adapter_store *store, esp_error *err) {
    const char *root = store->options.root;
    int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
    store->root_fd = open(root, flags);
    if (store->root_fd < 0 && errno == ENOENT && store->options.create) {
        if (!make_path(root)) return fail_root(root, "make the adapter store", err);
        store->root_fd = open(root, flags);
    }
    if (store->root_fd < 0 && errno == ENOENT) {
        char shown[200];
        file_show_path(shown, sizeof shown, root);
        return esp_fail_field(err, ESP_NOT_FOUND, "--store",
                              "%s: no adapter store is there; espalier adapter import makes one",
                              shown);
    }
    if (store->root_fd < 0 || !realpath(root, store->root))
        return fail_root(root, "open the adapter store", err);
    return ESP_OK;
}

/* A folder that holds other things is no place to begin a store in. */
static bool is_ours(const adapter_store *store) {
    static const char *const ours[] = {"blobs", "names", "stage", "unsure", "lock", "held"};
    store_walk *walk = store_walk_open(store, store->root_fd);
    bool all = walk;
    for (const char *name; all && (name = store_walk_next(walk));) {
        all = false;
        for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
            if (!strcmp(name, ours[i])) all = true;
    }
    store_walk_close(walk);
    return all;
}

/* Opens a folder in another, making it where the options say so. */
static int open_folder(const adapter_store *store, int above, const char *name) {
    if (store->options.create && store_step(store, "mkdir") && mkdirat(above, name, 0700) != 0 &&
        errno != EEXIST)
        return -1;
    return store_open_at(store, above, name, O_RDONLY | O_DIRECTORY);
}

static esp_code open_folders(adapter_store *store, esp_error *err) {
    int blobs = open_folder(store, store->root_fd, "blobs");
    int *at = store->folders;
    if (blobs >= 0) at[FOLDER_BLOBS] = open_folder(store, blobs, "sha256");
    if (blobs >= 0) close(blobs);
    if (at[FOLDER_BLOBS] >= 0) at[FOLDER_STAGE] = open_folder(store, store->root_fd, "stage");
    if (at[FOLDER_STAGE] >= 0) at[FOLDER_UNSURE] = open_folder(store, store->root_fd, "unsure");
    /* The last: a root without it is no store yet. */
    if (at[FOLDER_UNSURE] >= 0) at[FOLDER_NAMES] = open_folder(store, store->root_fd, "names");
    if (at[FOLDER_NAMES] >= 0) return ESP_OK;
    if (errno != ENOENT && errno != ELOOP && errno != ENOTDIR)
        return fail_root(store->root, "open the adapter store", err);
    char shown[200];
    file_show_path(shown, sizeof shown, store->root);
    return esp_fail_field(err, ESP_INVALID, "--store",
                          "%s: is not an adapter store: blobs/, stage/, unsure/ and names/ are not "
                          "all there as folders",
                          shown);
}

static esp_code open_store(adapter_store *store, esp_error *err) {
    esp_code code = open_root(store, err);
    if (code != ESP_OK) return code;
    if (store->options.create && !is_ours(store)) {
        char shown[200];
        file_show_path(shown, sizeof shown, store->root);
        return esp_fail_field(err, ESP_INVALID, "--store",
                              "%s: holds other things; wanted an adapter store or an empty folder",
                              shown);
    }
    code = open_folders(store, err);
    if (code != ESP_OK) return code;
    store->holds = store_holds_open(store);
    store_sweep(store);
    return ESP_OK;
}

esp_code store_open(adapter_store **out, const store_options *options, esp_error *err) {
    ESP_ASSERT(out && options && options->root);
    *out = NULL;
    adapter_store *store = mem_new(1, sizeof *store);
    store->options = *options;
    if (!store->options.adapter_bytes_max)
        store->options.adapter_bytes_max = STORE_ADAPTER_BYTES_MAX;
    store->root_fd = -1;
    for (int i = 0; i < STORE_FOLDERS; i++)
        store->folders[i] = -1;
    esp_code code = open_store(store, err);
    store->options.root = store->root;
    if (code == ESP_OK)
        *out = store;
    else
        store_close(store);
    return code;
}

void store_close(adapter_store *store) {
    if (!store) return;
    if (store->options.flush_late && store->root_fd >= 0) (void)!syncfs(store->root_fd);
    store_holds_close(store->holds);
    for (int i = 0; i < STORE_FOLDERS; i++)
        if (store->folders[i] >= 0) close(store->folders[i]);
    if (store->root_fd >= 0) close(store->root_fd);
    free(store);
}

/* ---- references ---- */

static bool is_there(const adapter_store *store, const char *path, mode_t type) {
    struct stat status;
    return fstatat(store->folders[FOLDER_BLOBS], path, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
           (status.st_mode & S_IFMT) == type;
}

esp_code store_fill_ref(const adapter_store *store, const store_name *name,
                        const store_version *version, store_ref *out, esp_error *err) {
    char gguf[STORE_BLOB_PATH_CHARS];
    const char *hex = store_hex_of(version->digest);
    *out = (store_ref){.version = version->version};
    memcpy(out->name, name->name, sizeof out->name);
    memcpy(out->digest, version->digest, sizeof out->digest);
    memcpy(out->imported, version->imported, sizeof out->imported);
    snprintf(gguf, sizeof gguf, "%s/" ADAPTER_GGUF_FILE, hex);
    if (!is_there(store, hex, S_IFDIR))
        return esp_fail(err, ESP_DATA_LOSS,
                        "adapter %s@%u: its files are gone from the store; import them again",
                        name->name, version->version);
    bool one_file = is_there(store, gguf, S_IFREG);
    int bytes = snprintf(out->path, sizeof out->path, "%s/blobs/sha256/%s", store->root,
                         one_file ? gguf : hex);
    if (bytes < (int)sizeof out->path) return ESP_OK;
    return esp_fail(err, ESP_INVALID, "the adapter store's path is too long");
}

esp_code store_resolve(adapter_store *store, const char *reference, store_ref *out,
                       esp_error *err) {
    store_reference wanted;
    store_name name = {0};
    const store_version *version;
    *out = (store_ref){0};
    esp_code code = store_parse_reference(reference, &wanted, err);
    if (code == ESP_OK) code = store_read_name(store, wanted.name, &name, err);
    if (code == ESP_OK) code = store_find_version(&name, &wanted, &version, err);
    if (code == ESP_OK) code = store_fill_ref(store, &name, version, out, err);
    store_name_free(&name);
    return code;
}

/* ---- changes ---- */

static esp_code move_alias(adapter_store *store, const char *of, uint32_t to, esp_error *err) {
    store_name name = {0};
    const store_version *version;
    esp_code code = store_read_name(store, of, &name, err);
    if (code == ESP_OK && to == 0)
        code = esp_fail(err, ESP_NOT_FOUND, "versions are numbered from 1");
    if (code == ESP_OK)
        code = store_find_version(&name, &(store_reference){.version = to}, &version, err);
    if (code == ESP_OK) {
        name.alias = to;
        code = store_write_name(store, &name, err);
    }
    store_name_free(&name);
    return code;
}

esp_code store_set_alias(adapter_store *store, const char *name, uint32_t version, esp_error *err) {
    int lock;
    esp_code code = store_lock(store, &lock, err);
    if (code != ESP_OK) return code;
    code = move_alias(store, name, version, err);
    store_unlock(lock);
    return code;
}
