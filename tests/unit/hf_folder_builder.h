/* hf_folder_builder.h - a folder of small files in the temporary folder, opened as a tokenizer. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TESTS_HF_FOLDER_BUILDER_H
#define ESPALIER_TESTS_HF_FOLDER_BUILDER_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/model/tokens/token_source.h"

enum { HF_FOLDER_FILES_MAX = 8 };

typedef struct hf_folder {
    char path[64];
    char files[HF_FOLDER_FILES_MAX][128];
    size_t count;
} hf_folder;

static inline hf_folder *hf_folder_new(void) {
    hf_folder *folder = calloc(1, sizeof *folder);
    strcpy(folder->path, "/tmp/test_hf_XXXXXX");
    if (!mkdtemp(folder->path)) abort();
    return folder;
}

static inline void hf_folder_add(hf_folder *folder, const char *name, const void *bytes,
                                 size_t count) {
    char path[128];
    snprintf(path, sizeof path, "%.63s/%.60s", folder->path, name);
    memcpy(folder->files[folder->count++], path, sizeof path);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, count, file) != count || fclose(file) != 0) abort();
}

/* NULL and *err when it cannot be. */
static inline tokenizer *hf_folder_open(const hf_folder *folder, esp_error *err) {
    token_source source = {0};
    tokenizer *tok = NULL;
    esp_code code = token_source_read_folder(&source, folder->path, err);
    if (!code) code = tok_open(&tok, &source.source, err);
    token_source_free(&source);
    return code ? NULL : tok;
}

static inline void hf_folder_free(hf_folder *folder) {
    for (size_t i = 0; i < folder->count; i++)
        unlink(folder->files[i]);
    rmdir(folder->path);
    free(folder);
}

#endif
