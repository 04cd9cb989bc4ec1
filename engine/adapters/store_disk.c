/* store_disk.c - the store's system calls: nothing is opened through a link, nothing is left open to
 * another process, and each step can be made to fail. */
// SPDX-License-Identifier: Apache-2.0
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/adapters/store_inner.h"
#include "engine/base/mem.h"

bool store_step(const adapter_store *store, const char *step) {
    int number = store->options.hook ? store->options.hook(store->options.hook_arg, step) : 0;
    if (number) errno = number;
    return number == 0;
}

static esp_code code_of(int number) {
    switch (number) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return ESP_EXHAUSTED;
    case ENOENT:
        return ESP_NOT_FOUND;
    case EACCES:
    case EPERM:
    case EROFS:
        return ESP_DENIED;
    case ELOOP:
    case EXDEV:
    case ENOTDIR:
    case EISDIR:
        return ESP_INVALID;
    case EMFILE:
    case ENFILE:
        return ESP_EXHAUSTED;
    default:
        return ESP_UNAVAILABLE;
    }
}

esp_code store_fail(esp_error *err, const char *name, const char *doing) {
    int number = errno;
    bool full = number == ENOSPC || number == EDQUOT;
    return esp_fail(err, code_of(number), "%s: cannot %s: %s%s", name, doing, strerror(number),
                    full ? "; make room where the adapter store lies" : "");
}

/* ---- opening ---- */

/* The same as openat2 below, step by step, for kernels and containers without that call. */
static int open_each(int folder, const char *path, int flags, mode_t mode) {
    char part[NAME_MAX + 1];
    const char *slash = strchr(path, '/');
    size_t bytes = slash ? (size_t)(slash - path) : strlen(path);
    if (bytes == 0 || bytes > NAME_MAX || path[0] == '.') return errno = EXDEV, -1;
    if (!slash) return openat(folder, path, flags | O_NOFOLLOW, mode);
    memcpy(part, path, bytes);
    part[bytes] = 0;
    int next = openat(folder, part, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (next < 0) return -1;
    int fd = open_each(next, slash + 1, flags, mode);
    int number = errno;
    close(next);
    errno = number;
    return fd;
}

int store_open_at(const adapter_store *store, int folder, const char *path, int flags) {
    mode_t mode = flags & O_CREAT ? 0600 : 0;
    flags |= O_CLOEXEC;
    struct open_how how = {
        .flags = (uint64_t)flags, .mode = mode, .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
    if (!store_step(store, flags & O_CREAT ? "create" : "open")) return -1;
    long fd = -1;
    if (store_step(store, "openat2")) do
            fd = syscall(SYS_openat2, folder, path, &how, sizeof how);
        while (fd < 0 && errno == EINTR);
    /* A container's filter says EPERM of calls that it does not know. */
    if (fd >= 0 || (errno != ENOSYS && errno != EPERM)) return (int)fd;
    return open_each(folder, path, flags, mode);
}

/* ---- small files ---- */

static esp_code read_all(int fd, size_t count, char *out, const char *name, esp_error *err) {
    for (size_t at = 0; at < count;) {
        ssize_t got = read(fd, out + at, count - at);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return store_fail(err, name, "read it");
        if (got == 0) return esp_fail(err, ESP_DATA_LOSS, "%s: became shorter", name);
        at += (size_t)got;
    }
    return ESP_OK;
}

static esp_code read_open(int fd, const char *name, char **out, size_t *count, esp_error *err) {
    struct stat status;
    if (fstat(fd, &status) != 0) return store_fail(err, name, "stat it");
    if (!S_ISREG(status.st_mode) || status.st_size > STORE_JSON_BYTES_MAX)
        return esp_fail(err, ESP_INVALID,
                        "%s: wanted a regular file of at most %d bytes; the adapter store was "
                        "changed by other hands",
                        name, STORE_JSON_BYTES_MAX);
    *count = (size_t)status.st_size;
    *out = mem_new(*count + 1, 1);
    return read_all(fd, *count, *out, name, err);
}

esp_code store_read(const adapter_store *store, store_folder folder, const char *path, char **out,
                    size_t *count, esp_error *err) {
    *out = NULL;
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    /* O_NONBLOCK: a pipe in the file's place must not hold us up. */
    int fd = store_open_at(store, store->folders[folder], path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return store_fail(err, name, "open it");
    esp_code code = read_open(fd, name, out, count, err);
    close(fd);
    if (code != ESP_OK) {
        free(*out);
        *out = NULL;
    }
    return code;
}

esp_code store_write_all(const adapter_store *store, int fd, const void *bytes, size_t count,
                         const char *name, esp_error *err) {
    const char *from = bytes;
    for (size_t at = 0; at < count;) {
        ssize_t wrote = store_step(store, "write") ? write(fd, from + at, count - at) : -1;
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0) return store_fail(err, name, "write it");
        at += (size_t)wrote;
    }
    return ESP_OK;
}

esp_code store_sync(const adapter_store *store, int fd, const char *name, esp_error *err) {
    if (store_step(store, "sync") && (store->options.flush_late || fsync(fd) == 0)) return ESP_OK;
    return store_fail(err, name, "flush it to the disk");
}

esp_code store_write(const adapter_store *store, int folder, const char *name, const void *bytes,
                     size_t count, esp_error *err) {
    int fd = store_open_at(store, folder, name, O_WRONLY | O_CREAT | O_EXCL);
    if (fd < 0) return store_fail(err, name, "create it");
    esp_code code = store_write_all(store, fd, bytes, count, name, err);
    if (code == ESP_OK) code = store_sync(store, fd, name, err);
    close(fd);
    return code;
}

/* ---- moving and removing ---- */

esp_code store_publish(const adapter_store *store, const char *id, store_folder folder,
                       const char *name, bool exchange, esp_error *err) {
    int from = store->folders[FOLDER_STAGE], to = store->folders[folder];
    unsigned flags = exchange ? RENAME_EXCHANGE : 0;
    if (!store_step(store, "rename") || renameat2(from, id, to, name, flags) != 0)
        return store_fail(err, name, "rename it");
    return store_sync(store, to, name, err);
}

esp_code store_unlink(const adapter_store *store, store_folder folder, const char *name,
                      esp_error *err) {
    if (!store_step(store, "unlink") || unlinkat(store->folders[folder], name, 0) != 0)
        return store_fail(err, name, "remove it");
    return ESP_OK;
}

void store_discard(const adapter_store *store, const char *id) {
    int stage = store->folders[FOLDER_STAGE];
    int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    int fd = store_step(store, "unlink") ? openat(stage, id, flags) : -1;
    store_walk *walk = fd >= 0 ? store_walk_open(store, fd) : NULL;
    for (const char *name; walk && (name = store_walk_next(walk));)
        if (store_step(store, "unlink")) (void)!unlinkat(fd, name, 0);
    store_walk_close(walk);
    if (fd >= 0) close(fd);
    if (store_step(store, "unlink")) (void)!unlinkat(stage, id, fd >= 0 ? AT_REMOVEDIR : 0);
}

void store_make_id(char out[STORE_ID_CHARS], const char *name) {
    uint64_t id;
    ESP_ASSERT(getrandom(&id, sizeof id, 0) == sizeof id);
    snprintf(out, STORE_ID_CHARS, "%.*s.%016llx", STORE_NAME_MAX, name, (unsigned long long)id);
}

/* ---- folders ---- */

/* A descriptor of its own: the folder's has one place that all its readers would share. */
store_walk *store_walk_open(const adapter_store *store, int folder) {
    int fd =
        store_step(store, "list") ? openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (fd >= 0 && !dir) close(fd);
    return (store_walk *)dir;
}

const char *store_walk_next(store_walk *walk) {
    for (struct dirent *entry; (entry = readdir((DIR *)walk));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            return entry->d_name;
    return NULL;
}

void store_walk_close(store_walk *walk) {
    if (walk) closedir((DIR *)walk);
}

/* ---- the lock ---- */

esp_code store_lock(const adapter_store *store, int *lock, esp_error *err) {
    *lock = store_open_at(store, store->root_fd, "lock", O_RDWR | O_CREAT);
    if (*lock < 0) return store_fail(err, "the adapter store", "change it");
    while (flock(*lock, LOCK_EX) != 0) {
        if (errno == EINTR) continue;
        esp_code code = store_fail(err, "the adapter store", "lock it");
        store_unlock(*lock);
        return code;
    }
    return ESP_OK;
}

void store_unlock(int lock) {
    if (lock >= 0) close(lock);
}
