/* shard_index.h - model.safetensors.index.json: which tensor lies in which file.
 *
 *   {"metadata": {...}, "weight_map": {"norm.weight": "model-00002-of-00002.safetensors", ...}}
 *
 * The files' names are names, never paths. What stands beside weight_map is not looked at.
 *
 * Thread  read-only after it is read: any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_SHARD_INDEX_H
#define ESPALIER_MODEL_SHARD_INDEX_H

#include <jansson.h>

#include "engine/model/format/safetensors.h"

enum { SHARD_INDEX_BYTES_MAX = 100000000, SHARDS_MAX = 4096 };

typedef struct shard_index {
    const char *name; /* the index file's, for error sentences; the caller's */
    json_t *root;
    const json_t *map;  /* weight_map, of root */
    const char **files; /* each once, sorted; texts of root */
    uint32_t file_count;
} shard_index;

/* *out is freed by the caller, also on failure. */
ESP_CHECKED esp_code shard_index_read(shard_index *out, const void *bytes, size_t count,
                                      const char *name, esp_error *err);
void shard_index_free(shard_index *index);

/* Holds the opened files, in the order of `files`, against the index: each tensor of a file is
 * mapped to it, and each mapped tensor is in its file. The first fault is named. */
ESP_CHECKED esp_code shard_index_check(const shard_index *index, safetensors_file *const *shards,
                                       esp_error *err);

#endif
