/* gguf_parts.c - a model split over several GGUF files.
 *
 *   name     <prefix>-00001-of-00003.gguf, the number of the part and that of all
 *   split.no, split.count     in every part: its number from 0 on, and how many there are
 *   split.tensors.count       tensors of all parts together
 *
 * The model's metadata are the first part's. Written by gguf-split of the reference
 * implementation. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/model/format/gguf_inner.h"

enum { SUFFIX_CHARS = sizeof "-00001-of-00003.gguf" - 1, SUFFIX_ROOM = 32 };

typedef struct split {
    uint32_t number, count, tensors;
} split;

static void print_suffix(char out[SUFFIX_ROOM], uint32_t number, uint32_t count) {
    ESP_ASSERT(number < count && count <= GGUF_PARTS_MAX);
    snprintf(out, SUFFIX_ROOM, "-%05u-of-%05u.gguf", number + 1, count);
}

/* Count 0: the file is no part of more. */
static esp_code read_split(const gguf_file *file, split *out, esp_error *err) {
    bool found;
    *out = (split){0};
    esp_code code = gguf_get_u32(file, "split.count", &found, &out->count, err);
    if (code || out->count <= 1) return code;
    code = gguf_get_u32(file, "split.no", &found, &out->number, err);
    if (code) return code;
    if (!found || out->count > GGUF_PARTS_MAX || out->number >= out->count)
        return gguf_fail(file, err,
                         "split.no is %u and split.count %u; wanted a number below the count, and "
                         "%d parts at most",
                         out->number, out->count, GGUF_PARTS_MAX);
    code = gguf_get_u32(file, "split.tensors.count", &found, &out->tensors, err);
    if (!code && !found)
        return gguf_fail(file, err, "split.count is %u, but split.tensors.count is missing",
                         out->count);
    return code;
}

/* Cuts the first part's suffix off; fails when the file is another part or is called otherwise. */
static esp_code find_prefix(const gguf_file *file, const char *path, const split *own,
                            size_t *prefix, esp_error *err) {
    char suffix[SUFFIX_ROOM], first[SUFFIX_ROOM];
    size_t length = strlen(path);
    print_suffix(suffix, own->number, own->count);
    print_suffix(first, 0, own->count);
    *prefix = length - SUFFIX_CHARS;
    if (length <= SUFFIX_CHARS || strcmp(path + *prefix, suffix) != 0)
        return gguf_fail(file, err,
                         "is part %u of %u of a model, so its name must end in %s; give the parts "
                         "the names that they were written with",
                         own->number + 1, own->count, suffix);
    if (own->number > 0)
        return gguf_fail(file, err, "is part %u of a model; give part 1, whose name ends in %s",
                         own->number + 1, first);
    return ESP_OK;
}

static esp_code check_part(const gguf_file *part, const split *first, uint32_t number,
                           esp_error *err) {
    split own;
    esp_code code = read_split(part, &own, err);
    if (code) return code;
    if (own.number == number && own.count == first->count && own.tensors == first->tensors)
        return ESP_OK;
    return gguf_fail(
        part, err,
        "split.no, .count and .tensors.count are %u, %u, %u; wanted %u, %u, %u, as the "
        "first part says: it is of another model",
        own.number, own.count, own.tensors, number, first->count, first->tensors);
}

static esp_code take_tensors(gguf_file *file, const gguf_file *part, esp_error *err) {
    uint32_t count = file->tensor_count + part->tensor_count; /* each below 2^20 */
    if (count > GGUF_TENSORS_MAX)
        return gguf_fail(part, err, "with it the model has %u tensors; wanted %d at most", count,
                         GGUF_TENSORS_MAX);
    if (part->tensor_count == 0) return ESP_OK;
    file->tensors = mem_resize(file->tensors, count, sizeof *file->tensors);
    memcpy(file->tensors + file->tensor_count, part->tensors,
           part->tensor_count * sizeof *part->tensors);
    file->tensor_count = count;
    return ESP_OK;
}

static esp_code open_part(gguf_file *file, const char *path, size_t prefix, const split *first,
                          uint32_t number, esp_error *err) {
    char *name = mem_new(prefix + SUFFIX_ROOM, 1);
    memcpy(name, path, prefix);
    print_suffix(name + prefix, number, first->count);
    gguf_file *part;
    esp_code code = gguf_open_one(&part, name, err);
    free(name);
    if (code) return code;
    file->parts[file->part_count++] = part;
    code = check_part(part, first, number, err);
    return code ? code : take_tensors(file, part, err);
}

esp_code gguf_open_parts(gguf_file *file, const char *path, esp_error *err) {
    split first;
    size_t prefix = 0;
    esp_code code = read_split(file, &first, err);
    if (code || first.count <= 1) return code;
    if ((code = find_prefix(file, path, &first, &prefix, err))) return code;
    file->parts = mem_new(first.count, sizeof(gguf_file *));
    for (uint32_t number = 1; number < first.count; number++)
        if ((code = open_part(file, path, prefix, &first, number, err))) return code;
    if (file->tensor_count != first.tensors)
        return gguf_fail(file, err,
                         "split.tensors.count is %u, but the parts hold %u tensors: download them "
                         "again",
                         first.tensors, file->tensor_count);
    return gguf_index_tensors(file, err);
}
