/* new_folder.h - a folder that appears under its name only when it is whole and on the disk.
 *
 * It is made beside its place under another name, filled, synced and renamed; after a failure nothing is left.
 * Errors name the flag --out, by which the commands that make folders are told where.
 *
 * Thread  any; a new_folder belongs to its caller. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_NEW_FOLDER_H
#define ESPALIER_MODEL_NEW_FOLDER_H

#include <limits.h>
#include <stdio.h>

#include "engine/base/status.h"

typedef struct new_folder {
    char path[PATH_MAX];   /* where it will be */
    char around[PATH_MAX]; /* the folder around that */
    char made[PATH_MAX];   /* where it is meanwhile */
} new_folder;

/* ESP_EXISTS when something lies at `out`; a slash at its end is fine. */
ESP_CHECKED esp_code new_folder_begin(new_folder *folder, const char *out, esp_error *err);

/* A file of it. The writer leaves errors of the stream to new_folder_file, which syncs and closes. */
typedef esp_code (*new_folder_writer)(void *arg, FILE *file, esp_error *err);
ESP_CHECKED esp_code new_folder_file(const new_folder *folder, const char *name,
                                     new_folder_writer writer, void *arg, esp_error *err);
ESP_CHECKED esp_code new_folder_bytes(const new_folder *folder, const char *name, const void *bytes,
                                      size_t count, esp_error *err);

/* Opens what was written as a model, so that nothing gets a name which does not load. */
ESP_CHECKED esp_code new_folder_opens_as_model(const new_folder *folder, esp_error *err);

/* Ends it: with ESP_OK so far it is renamed, else removed. Gives `code`, or what failed now. */
ESP_CHECKED esp_code new_folder_end(const new_folder *folder, esp_code code, esp_error *err);

#endif
