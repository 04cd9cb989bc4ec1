/* file.h - a whole file as read-only memory. Model files are read this way only: their size is
 * known before the first count in them is believed.
 *
 * Thread  a view is read-only: any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_BASE_FILE_H
#define ESPALIER_BASE_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

/* All-zero is a view of nothing. */
typedef struct file_view {
    const uint8_t *bytes;
    size_t count;  /* > 0 */
    char name[96]; /* last component of the path, printable, for error sentences */
} file_view;

/* Maps a regular file that is not empty. `wanted` says what it should be ("a GGUF file").
 * ESP_NOT_FOUND, ESP_DENIED or ESP_INVALID with a sentence. */
ESP_CHECKED esp_code file_map(file_view *out, const char *path, const char *wanted, esp_error *err);
void file_unmap(file_view *view);

/* Says that bytes of a mapped file are wanted soon: they are read in the background, as far as the
 * disk's queue takes them. */
void file_will_need(const void *at, size_t bytes);
/* Says that they have been used: their pages are the process's no longer. Looking again is allowed,
 * and maps them again. Never of other memory, which would lose its content. */
void file_done_with(const void *at, size_t bytes);

/* The last component of a path, printable and cut to fit; for what a client may read, too. */
void file_show_name(char *out, size_t out_bytes, const char *path);
/* All of a path, the same way; for the operator alone. */
void file_show_path(char *out, size_t out_bytes, const char *path);

#endif
