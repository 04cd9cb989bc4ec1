/* npy.c - float32 rows into a .npy file. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/commands/npy.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/mem.h"

enum { HEADER_BYTES = 128 };
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "descr '<f4' is this machine's float");

struct npy_file {
    FILE *file;
    char *path, *unfinished; /* unfinished: the temporary name, NULL once renamed */
    uint32_t rows, columns, written;
};

static esp_code failed(const npy_file *npy, esp_error *err) {
    return esp_fail_field(err, ESP_DATA_LOSS, "--out", "--out %s cannot be written: %s", npy->path,
                          strerror(errno));
}

static esp_code write_header(npy_file *npy, esp_error *err) {
    char header[HEADER_BYTES];
    memset(header, ' ', sizeof header);
    memcpy(header, "\x93NUMPY\x01\x00", 8);
    header[8] = HEADER_BYTES - 10;
    header[9] = 0;
    int printed = snprintf(header + 10, sizeof header - 10,
                           "{'descr': '<f4', 'fortran_order': False, 'shape': (%u, %u), }",
                           npy->rows, npy->columns);
    ESP_ASSERT(printed > 0 && printed < HEADER_BYTES - 11);
    header[10 + printed] = ' ';
    header[HEADER_BYTES - 1] = '\n';
    return fwrite(header, sizeof header, 1, npy->file) == 1 ? ESP_OK : failed(npy, err);
}

/* A rename would replace a device or a pipe, not write into it. */
static esp_code check_target(const char *path, esp_error *err) {
    struct stat st;
    if (stat(path, &st) || S_ISREG(st.st_mode)) return ESP_OK;
    return esp_fail_field(err, ESP_INVALID, "--out", "--out %s is not a regular file", path);
}

esp_code npy_open(npy_file **out, const char *path, uint32_t rows, uint32_t columns,
                  esp_error *err) {
    esp_code code = check_target(path, err);
    if (code != ESP_OK) return code;
    npy_file *npy = mem_new(1, sizeof *npy);
    npy->path = mem_copy_text(path, strlen(path));
    npy->rows = rows;
    npy->columns = columns;
    size_t bytes = strlen(path) + 32;
    npy->unfinished = mem_new(bytes, 1);
    snprintf(npy->unfinished, bytes, "%s.%ld.part", path, (long)getpid());
    npy->file = fopen(npy->unfinished, "wbx");
    code = npy->file ? write_header(npy, err) : failed(npy, err);
    if (code != ESP_OK) {
        npy_close(npy);
        return code;
    }
    *out = npy;
    return ESP_OK;
}

esp_code npy_row(npy_file *npy, const float *row, esp_error *err) {
    ESP_ASSERT(npy->written < npy->rows);
    npy->written++;
    return fwrite(row, sizeof *row, npy->columns, npy->file) == npy->columns ? ESP_OK
                                                                             : failed(npy, err);
}

esp_code npy_finish(npy_file *npy, esp_error *err) {
    ESP_ASSERT(npy->written == npy->rows);
    FILE *file = npy->file;
    bool whole = fflush(file) == 0 && fsync(fileno(file)) == 0;
    npy->file = NULL;
    if (fclose(file) || !whole || rename(npy->unfinished, npy->path)) return failed(npy, err);
    free(npy->unfinished);
    npy->unfinished = NULL;
    return ESP_OK;
}

void npy_close(npy_file *npy) {
    if (!npy) return;
    if (npy->file) fclose(npy->file);
    if (npy->unfinished) unlink(npy->unfinished);
    free(npy->unfinished);
    free(npy->path);
    free(npy);
}
