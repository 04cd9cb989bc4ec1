/* model_folder.c - a Hugging Face folder: its weight files, opened and held against their index. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/format/model_folder.h"

#include <stdlib.h>
#include <sys/stat.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/model/format/folder_files.h"
#include "engine/model/format/shard_index.h"

static const char SINGLE[] = "model.safetensors";
static const char INDEX[] = "model.safetensors.index.json";

struct model_folder {
    folder_place place;
    file_view index_bytes; /* of nothing: a single file */
    shard_index index;
    safetensors_file **shards;
    uint32_t shard_count;
    file_view others[FOLDER_FILE_COUNT]; /* by FOLDER_FILES; of nothing where there is none */
    uint64_t bytes;                      /* of all files that make the model */
};

bool model_folder_is(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

/* What a folder without a readable model may hold instead, and the way out. */
static esp_code fail_no_weights(const folder_place *place, esp_error *err) {
    static const char convert[] =
        "convert it: transformers' save_pretrained writes model.safetensors";
    static const struct {
        const char *file, *mend;
    } others[] = {
        {"pytorch_model.bin", convert},
        {"pytorch_model.bin.index.json", convert},
        {"tf_model.h5", convert},
        {"flax_model.msgpack", convert},
        {"consolidated.safetensors", "that is Mistral's own layout: take the model's files for "
                                     "transformers"},
        {"consolidated.00.pth", "that is Meta's own layout: take the model's files for "
                                "transformers"},
        {"adapter_model.safetensors", "that is an adapter: give the model it was trained for"},
        {"adapter_config.json", "that is an adapter: give the model it was trained for"},
    };
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (folder_has(place, others[i].file))
            return esp_fail(err, ESP_INVALID, "%s: the folder holds %s and no %s; %s", place->name,
                            others[i].file, SINGLE, others[i].mend);
    return esp_fail(err, ESP_INVALID,
                    "%s: the folder holds neither %s nor %s; give a Hugging Face folder, or a "
                    "GGUF file itself",
                    place->name, SINGLE, INDEX);
}

static esp_code open_shard(model_folder *folder, const char *name, esp_error *err) {
    char path[PATH_MAX];
    esp_code code = folder_file_find(&folder->place, name, path, err);
    if (!code) code = safetensors_open(&folder->shards[folder->shard_count], path, err);
    if (code) return code;
    folder->bytes += safetensors_bytes(folder->shards[folder->shard_count++]);
    return ESP_OK;
}

static esp_code open_single(model_folder *folder, esp_error *err) {
    folder->shards = mem_new(1, sizeof(safetensors_file *));
    return open_shard(folder, SINGLE, err);
}

static esp_code open_sharded(model_folder *folder, esp_error *err) {
    char path[PATH_MAX];
    file_view *view = &folder->index_bytes;
    shard_index *index = &folder->index;
    esp_code code = folder_file_find(&folder->place, INDEX, path, err);
    if (!code) code = file_map(view, path, "an index of tensors", err);
    if (!code) code = shard_index_read(index, view->bytes, view->count, INDEX, err);
    if (code) return code;
    folder->bytes += view->count;
    folder->shards = mem_new(index->file_count, sizeof(safetensors_file *));
    for (uint32_t i = 0; i < index->file_count; i++)
        if ((code = open_shard(folder, index->files[i], err))) return code;
    return shard_index_check(index, folder->shards, err);
}

/* What others will read later: held to the same rule now. */
static esp_code map_other_files(model_folder *folder, esp_error *err) {
    for (uint32_t i = 0; i < FOLDER_FILE_COUNT; i++) {
        char path[PATH_MAX];
        if (!folder_has(&folder->place, FOLDER_FILES[i])) continue;
        esp_code code = folder_file_find(&folder->place, FOLDER_FILES[i], path, err);
        if (!code) code = file_map(&folder->others[i], path, "a model's file", err);
        if (code) return code;
        folder->bytes += folder->others[i].count;
    }
    return ESP_OK;
}

static esp_code open_all(model_folder *folder, esp_error *err) {
    esp_code code = map_other_files(folder, err);
    if (code) return code;
    /* the order in which the reference looks for them */
    if (folder_has(&folder->place, SINGLE)) return open_single(folder, err);
    if (folder_has(&folder->place, INDEX)) return open_sharded(folder, err);
    return fail_no_weights(&folder->place, err);
}

esp_code model_folder_open(model_folder **out, const char *path, esp_error *err) {
    ESP_ASSERT(out && path);
    *out = NULL;
    model_folder *folder = mem_new(1, sizeof *folder);
    esp_code code = folder_place_find(&folder->place, path, err);
    if (!code) code = open_all(folder, err);
    if (code) {
        model_folder_close(folder);
        return code;
    }
    *out = folder;
    return ESP_OK;
}

void model_folder_close(model_folder *folder) {
    if (!folder) return;
    for (uint32_t i = 0; i < folder->shard_count; i++)
        safetensors_close(folder->shards[i]);
    free(folder->shards);
    shard_index_free(&folder->index);
    file_unmap(&folder->index_bytes);
    for (uint32_t i = 0; i < FOLDER_FILE_COUNT; i++)
        file_unmap(&folder->others[i]);
    free(folder);
}

const char *model_folder_name(const model_folder *folder) { return folder->place.name; }

const char *model_folder_path(const model_folder *folder) { return folder->place.real; }

uint32_t model_folder_shard_count(const model_folder *folder) { return folder->shard_count; }

const safetensors_file *model_folder_shard(const model_folder *folder, uint32_t index) {
    ESP_ASSERT(index < folder->shard_count);
    return folder->shards[index];
}

uint64_t model_folder_bytes(const model_folder *folder) { return folder->bytes; }

esp_code model_folder_tensors(const model_folder *folder, tensor_set *out, esp_error *err) {
    for (uint32_t i = 0; i < folder->shard_count; i++) {
        const tensor_set *tensors = safetensors_tensors(folder->shards[i]);
        for (uint32_t t = 0; t < tensors->count; t++)
            tensor_set_add(out, &tensors->at[t]);
    }
    return tensor_set_seal(out, err);
}

void model_folder_digest(const model_folder *folder, char out[MODEL_DIGEST_CHARS]) {
    size_t room = (size_t)FOLDER_FILE_COUNT + 1 + folder->shard_count, count = 0;
    digest_file *files = mem_new(room, sizeof *files);
    for (uint32_t i = 0; i < FOLDER_FILE_COUNT; i++) {
        const file_view *view = &folder->others[i];
        if (view->bytes)
            files[count++] = (digest_file){FOLDER_FILES[i], view->bytes, view->count, true};
    }
    const file_view *index = &folder->index_bytes;
    if (index->bytes) files[count++] = (digest_file){INDEX, index->bytes, index->count, true};
    for (uint32_t i = 0; i < folder->shard_count; i++) {
        const safetensors_file *shard = folder->shards[i];
        const char *name = index->bytes ? folder->index.files[i] : SINGLE;
        files[count++] =
            (digest_file){name, safetensors_data(shard), (size_t)safetensors_bytes(shard), true};
    }
    model_digest(out, files, count);
    free(files);
}
