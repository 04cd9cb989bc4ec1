/* shard_index.c - which tensor lies in which file. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/format/shard_index.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/model/format/folder_files.h"
#include "engine/model/format/json_bytes.h"

static int compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static esp_code check_file_name(const shard_index *index, const char *tensor, const char *file,
                                esp_error *err) {
    if (!file)
        return esp_fail(err, ESP_INVALID, "%s: weight_map of %s is no text; wanted a file's name",
                        index->name, json_show(tensor).text);
    if (folder_name_is_plain(file)) return ESP_OK;
    return esp_fail(err, ESP_INVALID,
                    "%s: weight_map of %s is \"%s\"; wanted the name of a file in this folder, "
                    "without a path",
                    index->name, json_show(tensor).text, json_show(file).text);
}

/* The files of all tensors, one for each, then each once. */
static esp_code collect_files(shard_index *index, esp_error *err) {
    size_t count = 0, kept = 0;
    const char *tensor;
    json_t *file;
    index->files = mem_new(json_object_size(index->map), sizeof *index->files);
    json_object_foreach((json_t *)(uintptr_t)index->map, tensor, file) {
        esp_code code = check_file_name(index, tensor, json_string_value(file), err);
        if (code) return code;
        index->files[count++] = json_string_value(file);
    }
    qsort(index->files, count, sizeof *index->files, compare_names);
    for (size_t i = 0; i < count; i++)
        if (kept == 0 || strcmp(index->files[kept - 1], index->files[i]) != 0)
            index->files[kept++] = index->files[i];
    if (kept > SHARDS_MAX)
        return esp_fail(err, ESP_INVALID, "%s: weight_map names %zu files; wanted %d at most",
                        index->name, kept, SHARDS_MAX);
    index->file_count = (uint32_t)kept;
    return ESP_OK;
}

esp_code shard_index_read(shard_index *out, const void *bytes, size_t count, const char *name,
                          esp_error *err) {
    *out = (shard_index){.name = name};
    if (count > SHARD_INDEX_BYTES_MAX)
        return esp_fail(err, ESP_INVALID, "%s: has %zu bytes; wanted %d at most", name, count,
                        SHARD_INDEX_BYTES_MAX);
    esp_code code = json_read_object(&out->root, bytes, count, name, "the file", err);
    if (code) return code;
    out->map = json_object_get(out->root, "weight_map");
    if (!json_is_object(out->map) || json_object_size(out->map) == 0)
        return esp_fail(err, ESP_INVALID,
                        "%s: weight_map is %s; wanted an object of tensors and their files", name,
                        !out->map                  ? "missing"
                        : json_is_object(out->map) ? "empty"
                                                   : "no object");
    return collect_files(out, err);
}

void shard_index_free(shard_index *index) {
    free(index->files);
    json_decref(index->root);
    *index = (shard_index){0};
}

static esp_code check_shard(const shard_index *index, const char *file,
                            const safetensors_file *shard, esp_error *err) {
    const tensor_set *tensors = safetensors_tensors(shard);
    for (uint32_t i = 0; i < tensors->count; i++) {
        const char *tensor = tensors->at[i].name.at;
        const char *mapped = json_string_value(json_object_get(index->map, tensor));
        if (mapped && !strcmp(mapped, file)) continue;
        return esp_fail(err, ESP_INVALID, "%s: holds the tensor %s, which %s says is in %s", file,
                        json_show(tensor).text, index->name, mapped ? mapped : "no file");
    }
    return ESP_OK;
}

esp_code shard_index_check(const shard_index *index, safetensors_file *const *shards,
                           esp_error *err) {
    const char *tensor;
    json_t *file;
    for (uint32_t i = 0; i < index->file_count; i++) {
        esp_code code = check_shard(index, index->files[i], shards[i], err);
        if (code) return code;
    }
    json_object_foreach((json_t *)(uintptr_t)index->map, tensor, file) {
        const char *name = json_string_value(file);
        const char **at =
            bsearch(&name, index->files, index->file_count, sizeof *index->files, compare_names);
        ESP_ASSERT(at);
        if (!tensor_set_find(safetensors_tensors(shards[at - index->files]), tensor))
            return esp_fail(err, ESP_INVALID,
                            "%s: the tensor %s is missing, which %s says is there; download the "
                            "file again",
                            name, json_show(tensor).text, index->name);
    }
    return ESP_OK;
}
