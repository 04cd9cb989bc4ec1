/* folder_files.h - the files of a Hugging Face folder by name: which are read, and where a link may
 * lead. Shared by the parts of model_folder.h; nobody else includes it. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_FOLDER_FILES_H
#define ESPALIER_MODEL_FOLDER_FILES_H

#include <limits.h>
#include <stdbool.h>

#include "engine/base/status.h"

enum { FOLDER_NAME_MAX = 255 }; /* bytes of a file's name */

typedef struct folder_place {
    char name[96];        /* last component, printable */
    char real[PATH_MAX];  /* of the folder */
    char blobs[PATH_MAX]; /* of the download cache it lies in; "" when it lies in none */
} folder_place;

/* Files besides the weights that may be read. */
enum { FOLDER_FILE_COUNT = 19 };
extern const char *const FOLDER_FILES[FOLDER_FILE_COUNT];

ESP_CHECKED esp_code folder_place_find(folder_place *out, const char *path, esp_error *err);
/* A name and not a path: no slash, not hidden, printable. */
bool folder_name_is_plain(const char *name);
/* The path of one of the folder's own files. ESP_NOT_FOUND when it is not there, also when a link
 * leads to nothing; ESP_INVALID when a link leads out of the folder. `name` is plain, or one of
 * FOLDER_FILES. */
ESP_CHECKED esp_code folder_file_find(const folder_place *folder, const char *name,
                                      char out[PATH_MAX], esp_error *err);
bool folder_has(const folder_place *folder, const char *name);

#endif
