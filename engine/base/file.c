/* file.c - a whole file as read-only memory. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

void file_show_path(char *out, size_t out_bytes, const char *path) {
    esp_show(out, out_bytes, path, strlen(path));
}

void file_show_name(char *out, size_t out_bytes, const char *path) {
    const char *slash = strrchr(path, '/');
    file_show_path(out, out_bytes, slash && slash[1] ? slash + 1 : path);
}

static esp_code fail_errno(const file_view *view, const char *doing, esp_error *err) {
    int number = errno;
    esp_code code = number == ENOENT || number == ENOTDIR ? ESP_NOT_FOUND
                    : number == EACCES || number == EPERM ? ESP_DENIED
                                                          : ESP_INVALID;
    return esp_fail(err, code, "%s: cannot %s: %s", view->name, doing, strerror(number));
}

/* Only a regular file has a size to hold the counts against. */
static esp_code map_descriptor(file_view *view, int fd, const char *wanted, esp_error *err) {
    struct stat status;
    if (fstat(fd, &status) != 0) return fail_errno(view, "stat", err);
    if (!S_ISREG(status.st_mode))
        return esp_fail(err, ESP_INVALID, "%s: is %s; wanted %s", view->name,
                        S_ISDIR(status.st_mode) ? "a folder" : "not a regular file", wanted);
    if (status.st_size == 0)
        return esp_fail(err, ESP_INVALID, "%s: the file is empty; wanted %s", view->name, wanted);
    void *bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED) return fail_errno(view, "map", err);
    view->bytes = bytes;
    view->count = (size_t)status.st_size;
    return ESP_OK;
}

esp_code file_map(file_view *out, const char *path, const char *wanted, esp_error *err) {
    *out = (file_view){0};
    file_show_name(out->name, sizeof out->name, path);
    /* O_NONBLOCK: opening a pipe must not wait for its writer; fstat then refuses it. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return fail_errno(out, "open", err);
    esp_code code = map_descriptor(out, fd, wanted, err);
    close(fd);
    return code;
}

void file_unmap(file_view *view) {
    if (view->bytes) munmap((void *)(uintptr_t)view->bytes, view->count);
    *view = (file_view){0};
}

/* From the page that `at` lies in, which whoever was before has done with, to the last whole one.
 * What the kernel makes of it changes no byte, so a refusal is none of the caller's business. */
static void advise(const void *at, size_t bytes, bool last, int advice) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)at & ~(page - 1);
    uintptr_t end = (uintptr_t)at + bytes;
    if (!last) end &= ~(page - 1);
    if (end > begin) (void)madvise((void *)begin, end - begin, advice);
}

void file_will_need(const void *at, size_t bytes) { advise(at, bytes, true, MADV_WILLNEED); }

void file_done_with(const void *at, size_t bytes) { advise(at, bytes, false, MADV_DONTNEED); }
