/* fuzz_shard_index.c - any bytes as model.safetensors.index.json: refused with a sentence, or the
 * files it names are plain names, each once and in order. Held against two shards that are there,
 * it never fails but with a sentence. Seeds: corpus/shard_index, made by
 * make_safetensors_corpus.py. */
// SPDX-License-Identifier: Apache-2.0
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/model/format/folder_files.h"
#include "engine/model/format/shard_index.h"
#include "tests/unit/safetensors_builder.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static safetensors_file *open_shard(const char *header) {
    size_t bytes;
    char *file = st_build(header, 4, &bytes); /* lives as long as the process */
    safetensors_file *opened;
    ESP_ASSERT(safetensors_open_memory(&opened, file, bytes, "shard", NULL) == ESP_OK);
    return opened;
}

/* Every second file is the shard of tensor a, the others that of b. */
static void check_shards(const shard_index *index) {
    static safetensors_file *two[2];
    if (!two[0]) {
        two[0] = open_shard("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}");
        two[1] = open_shard("{\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}");
    }
    safetensors_file **shards = mem_new(index->file_count, sizeof *shards);
    esp_error err = {0};
    for (uint32_t i = 0; i < index->file_count; i++)
        shards[i] = two[i % 2];
    if (shard_index_check(index, shards, &err)) ESP_ASSERT(err.message[0]);
    free(shards);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    shard_index index;
    esp_error err = {0};
    if (shard_index_read(&index, data, size, "fuzz", &err)) {
        ESP_ASSERT(err.message[0]);
    } else {
        ESP_ASSERT(index.file_count > 0);
        for (uint32_t i = 0; i < index.file_count; i++) {
            ESP_ASSERT(folder_name_is_plain(index.files[i]) && !strstr(index.files[i], "/"));
            ESP_ASSERT(i == 0 || strcmp(index.files[i - 1], index.files[i]) < 0);
        }
        check_shards(&index);
    }
    shard_index_free(&index);
    return 0;
}
