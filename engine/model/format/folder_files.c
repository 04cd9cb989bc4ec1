/* folder_files.c - the files of a Hugging Face folder by name. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/format/folder_files.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/file.h"

const char *const FOLDER_FILES[FOLDER_FILE_COUNT] = {
    "1_Pooling/config.json",
    "added_tokens.json",
    "additional_chat_templates/tool_use.jinja",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "config_sentence_transformers.json",
    "generation_config.json",
    "merges.txt",
    "modules.json",
    "quantize_config.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
};

static esp_code fail_errno(const char *name, esp_error *err) {
    int number = errno;
    esp_code code = number == ENOENT || number == ENOTDIR ? ESP_NOT_FOUND
                    : number == EACCES || number == EPERM ? ESP_DENIED
                                                          : ESP_INVALID;
    return esp_fail(err, code, "%s: cannot open: %s", name, strerror(number));
}

/* The download cache: <model>/snapshots/<revision>/ holds links into <model>/blobs/. */
static void find_blobs(folder_place *place) {
    static const char snapshots[] = "/snapshots";
    char *slash = strrchr(place->real, '/');
    size_t parent = slash ? (size_t)(slash - place->real) : 0, tail = sizeof snapshots - 1;
    place->blobs[0] = 0;
    if (parent <= tail || memcmp(slash - tail, snapshots, tail) != 0) return;
    snprintf(place->blobs, sizeof place->blobs, "%.*s/blobs", (int)(parent - tail), place->real);
}

esp_code folder_place_find(folder_place *out, const char *path, esp_error *err) {
    struct stat status;
    file_show_name(out->name, sizeof out->name, path);
    if (!realpath(path, out->real) || stat(out->real, &status) != 0)
        return fail_errno(out->name, err);
    /* "." and "model/" have a name, too */
    file_show_name(out->name, sizeof out->name, out->real);
    if (!S_ISDIR(status.st_mode))
        return esp_fail(err, ESP_INVALID, "%s: is a file; wanted a folder", out->name);
    find_blobs(out);
    return ESP_OK;
}

bool folder_name_is_plain(const char *name) {
    size_t length = strlen(name);
    if (length == 0 || length > FOLDER_NAME_MAX || name[0] == '.') return false;
    for (size_t i = 0; i < length; i++)
        if (name[i] < 0x20 || name[i] > 0x7e || name[i] == '/' || name[i] == '\\') return false;
    return true;
}

static bool join(char out[PATH_MAX], const char *folder, const char *name) {
    int length = snprintf(out, PATH_MAX, "%s/%s", folder, name);
    return length > 0 && length < PATH_MAX;
}

/* Whether a real path lies anywhere below a real folder. */
static bool lies_in(const char *path, const char *folder) {
    size_t length = strlen(folder);
    return length && !strncmp(path, folder, length) && path[length] == '/';
}

/* The path that is opened keeps the file's own name, for error sentences: in a download cache the
 * real one is a hash. Who can swap a link between this look and the opening can write it. */
esp_code folder_file_find(const folder_place *folder, const char *name, char out[PATH_MAX],
                          esp_error *err) {
    char real[PATH_MAX];
    if (!join(out, folder->real, name))
        return esp_fail(err, ESP_INVALID, "%s: the path of the folder is too long", folder->name);
    if (!realpath(out, real)) return fail_errno(name, err);
    if (lies_in(real, folder->real) || lies_in(real, folder->blobs)) return ESP_OK;
    return esp_fail(err, ESP_INVALID,
                    "%s: is a link that leads out of the folder %s; copy the file itself into the "
                    "folder",
                    name, folder->name);
}

bool folder_has(const folder_place *folder, const char *name) {
    char path[PATH_MAX];
    struct stat status;
    return join(path, folder->real, name) && lstat(path, &status) == 0;
}
