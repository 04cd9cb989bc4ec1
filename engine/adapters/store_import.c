/* store_import.c - a PEFT folder or a GGUF file of the operator's into a stage, and that into the
 * store. */
// SPDX-License-Identifier: Apache-2.0
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
#include "engine/model/lora/lora_file.h"

enum { COPY_BYTES = 1 << 20 };

typedef struct copy {
    store_stage *stage;
    const char *name; /* in the store */
    char shown[96];   /* where it comes from */
    int fd;
} copy;

static esp_code copy_bytes(const copy *c, uint64_t bytes, esp_error *err) {
    uint8_t *piece = mem_new(COPY_BYTES, 1);
    esp_code code = ESP_OK;
    while (code == ESP_OK && bytes > 0) {
        size_t wanted = bytes < COPY_BYTES ? (size_t)bytes : COPY_BYTES;
        ssize_t got = read(c->fd, piece, wanted);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            code = store_fail(err, c->shown, "read it");
        else if (got == 0)
            code = esp_fail(err, ESP_INVALID, "%s: became shorter while it was read", c->shown);
        else
            code = store_stage_write(c->stage, piece, (size_t)got, err);
        if (got > 0) bytes -= (uint64_t)got;
    }
    free(piece);
    return code;
}

static esp_code copy_open(const copy *c, esp_error *err) {
    struct stat status;
    if (fstat(c->fd, &status) != 0) return store_fail(err, c->shown, "stat it");
    if (!S_ISREG(status.st_mode))
        return esp_fail(err, ESP_INVALID, "%s: is %s; wanted a regular file", c->shown,
                        S_ISDIR(status.st_mode) ? "a folder" : "a device or pipe");
    esp_code code = store_stage_file(c->stage, c->name, (uint64_t)status.st_size, err);
    return code == ESP_OK ? copy_bytes(c, (uint64_t)status.st_size, err) : code;
}

/* O_NONBLOCK: a pipe in the file's place must not hold us up. */
static int open_source(int folder, const char *path) {
    return openat(folder, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
}

static esp_code copy_file(store_stage *stage, int folder, const char *path, const char *name,
                          esp_error *err) {
    copy c = {.stage = stage, .name = name, .fd = open_source(folder, path)};
    file_show_name(c.shown, sizeof c.shown, path);
    if (c.fd < 0) return store_fail(err, c.shown, "open it");
    esp_code code = copy_open(&c, err);
    close(c.fd);
    return code;
}

/* What stands in the place of what was looked for. */
static esp_code fail_absent(int folder, const char *shown, const char *name, esp_error *err) {
    const char *hint = "";
    if (faccessat(folder, "adapter_model.bin", F_OK, 0) == 0)
        hint = "; adapter_model.bin is a pickle, which can run code and is not read: save the "
               "adapter with safe_serialization";
    return esp_fail(err, ESP_NOT_FOUND,
                    "%s: has no %s; wanted a PEFT folder with " ADAPTER_CONFIG_FILE
                    " and " ADAPTER_TENSORS_FILE "%s",
                    shown, name, hint);
}

static esp_code copy_folder(store_stage *stage, int folder, const char *path, const char *shown,
                            esp_error *err) {
    static const char *const names[] = {ADAPTER_CONFIG_FILE, ADAPTER_TENSORS_FILE};
    esp_code code = ESP_OK;
    for (int i = 0; code == ESP_OK && i < 2; i++)
        code = faccessat(folder, names[i], F_OK, 0) == 0
                   ? copy_file(stage, folder, names[i], names[i], err)
                   : fail_absent(folder, shown, names[i], err);
    bool labels = faccessat(folder, ADAPTER_LABELS_FILE, F_OK, 0) == 0;
    if (code == ESP_OK && labels)
        code = copy_file(stage, folder, ADAPTER_LABELS_FILE, ADAPTER_LABELS_FILE, err);
    bool tables = code == ESP_OK && lora_folder_has_tables(path);
    for (int i = 0; code == ESP_OK && tables && i < ADAPTER_TOKEN_FILES; i++)
        if (faccessat(folder, ADAPTER_TOKEN_FILE[i], F_OK, 0) == 0)
            code = copy_file(stage, folder, ADAPTER_TOKEN_FILE[i], ADAPTER_TOKEN_FILE[i], err);
    return code;
}

static esp_code copy_path(store_stage *stage, const char *path, esp_error *err) {
    char shown[96];
    struct stat status;
    file_show_name(shown, sizeof shown, path);
    int fd = open_source(AT_FDCWD, path);
    if (fd < 0 || fstat(fd, &status) != 0) {
        esp_code code = store_fail(err, shown, "open it");
        if (fd >= 0) close(fd);
        return code;
    }
    esp_code code = S_ISDIR(status.st_mode)
                        ? copy_folder(stage, fd, path, shown, err)
                        : copy_file(stage, AT_FDCWD, path, ADAPTER_GGUF_FILE, err);
    close(fd);
    return code;
}

esp_code store_import(adapter_store *store, const char *path, const store_import_options *options,
                      store_ref *out, esp_error *err) {
    store_stage *stage;
    esp_code code = store_stage_begin(store, options, &stage, err);
    if (code != ESP_OK) return code;
    code = copy_path(stage, path, err);
    if (code == ESP_OK) code = store_stage_commit(stage, out, err);
    store_stage_close(stage);
    return code;
}
