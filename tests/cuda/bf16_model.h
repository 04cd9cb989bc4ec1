/* bf16_model.h - a GGUF file with its float16 tensors rounded to bf16, in a new file. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_BF16_MODEL_H
#define ESPALIER_BF16_MODEL_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/model/model.h"

enum { GGUF_F16 = 1, GGUF_BF16 = 30 }; /* as tensor infos have it */

/* Where the type of a tensor stands: behind its name (bytes, text), a count of dims, and the dims. */
static inline char *bf16_type_of(char *bytes, size_t count, const model_tensor *t) {
    size_t name = t->name.bytes;
    uint64_t length = name;
    char *want = malloc(sizeof length + name);
    memcpy(want, &length, sizeof length);
    memcpy(want + sizeof length, t->name.at, name);
    char *at = memmem(bytes, count, want, sizeof length + name);
    ESP_ASSERT(at);
    free(want);
    return at + sizeof length + name + sizeof(uint32_t) + t->dim_count * sizeof(uint64_t);
}

static inline void bf16_round(char *bytes, size_t count, const model_tensor *t) {
    const uint32_t type = GGUF_BF16;
    char *values = bytes + ((const char *)t->data - bytes);
    for (uint64_t i = 0; i < t->bytes / 2; i++) {
        uint16_t half;
        memcpy(&half, values + 2 * i, sizeof half);
        half = bf16_of_f32(f32_of_f16(half));
        memcpy(values + 2 * i, &half, sizeof half);
    }
    memcpy(bf16_type_of(bytes, count, t), &type, sizeof type);
}

/* The name of the new file replaces the X's of path; unlink() it. */
static inline void bf16_model_write(char *path, const char *from) {
    file_view view;
    model_file *file = NULL;
    ESP_ASSERT(file_map(&view, from, "a GGUF file", NULL) == ESP_OK);
    size_t count = view.count;
    char *bytes = malloc(count);
    memcpy(bytes, view.bytes, count);
    file_unmap(&view);
    ESP_ASSERT(model_file_open_memory(&file, bytes, count, from, NULL) == ESP_OK);
    const tensor_set *all = &model_file_weights(file)->tensors;
    for (uint32_t i = 0; i < all->count; i++)
        if (all->at[i].raw == RAW_NONE && all->at[i].dtype == DT_F16)
            bf16_round(bytes, count, &all->at[i]);
    model_file_close(file);
    int fd = mkstemp(path);
    ESP_ASSERT(fd >= 0 && write(fd, bytes, count) == (ssize_t)count);
    close(fd);
    free(bytes);
}

#endif
