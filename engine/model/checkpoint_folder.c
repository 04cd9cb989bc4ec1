/* checkpoint_folder.c - the weights of a Hugging Face folder. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/checkpoint_folder.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/file.h"
#include "engine/model/family/hf_keys.h"
#include "engine/model/family/sentence_files.h"
#include "engine/model/format/json_bytes.h"

/* By their bare names, without those that say nothing. */
static void add_tensors(checkpoint *out, const safetensors_file *shard) {
    const tensor_set *tensors = safetensors_tensors(shard);
    for (uint32_t i = 0; i < tensors->count; i++) {
        model_tensor tensor = tensors->at[i];
        tensor.name = family_bare_name(tensor.name);
        if (!family_ignores_tensor(&out->spec, tensor.name)) tensor_set_add(&out->tensors, &tensor);
    }
}

/* Tied embeddings may be written twice, but not as two matrices: of those some versions of the
 * reference use one, some the other. */
static esp_code check_copy(const checkpoint *c, const model_tensor *copy, esp_error *err) {
    const model_tensor *embedding = tensor_set_find(&c->tensors, c->tensor_names[TENSOR_EMBEDDING]);
    bool equal = embedding && copy->bytes == embedding->bytes && copy->raw == embedding->raw &&
                 (copy->raw != RAW_NONE || copy->dtype == embedding->dtype) &&
                 memcmp(copy->data, embedding->data, (size_t)copy->bytes) == 0;
    file_done_with(copy->data, (size_t)copy->bytes);
    if (embedding) file_done_with(embedding->data, (size_t)embedding->bytes);
    if (equal) return ESP_OK;
    return esp_fail(err, ESP_INVALID,
                    "%s: tensor %.*s is no copy of the embedding, and config.json ties the two; "
                    "wanted tie_word_embeddings false, or no such tensor",
                    copy->file, (int)copy->name.bytes, copy->name.at);
}

static esp_code check_copies(const checkpoint *c, const safetensors_file *shard, esp_error *err) {
    const tensor_set *tensors = safetensors_tensors(shard);
    const char *output = c->tensor_names[TENSOR_OUTPUT];
    bool tied = output && c->spec.tied_embeddings && c->spec.pooling == POOLING_NONE;
    esp_code code = ESP_OK;
    for (uint32_t i = 0; tied && i < tensors->count && !code; i++) {
        model_text name = family_bare_name(tensors->at[i].name);
        if (name.bytes == strlen(output) && memcmp(name.at, output, name.bytes) == 0)
            code = check_copy(c, &tensors->at[i], err);
    }
    return code;
}

/* Older GPTQ folders say how they are packed in a file of its own; in others it repeats the config. */
static esp_code read_own_file(quant_config *out, const model_folder *folder, esp_error *err) {
    static const char name[] = "quantize_config.json";
    char path[PATH_MAX + sizeof name];
    file_view view;
    json_t *object = NULL;
    snprintf(path, sizeof path, "%s/%s", model_folder_path(folder), name);
    esp_code code = file_map(&view, path, "a JSON file", err);
    if (code == ESP_NOT_FOUND) return ESP_OK;
    if (code) return code;
    if (view.count > HF_CONFIG_BYTES_MAX)
        code = esp_fail(err, ESP_INVALID, "%s: the file has %zu bytes; wanted %d at most", name,
                        view.count, HF_CONFIG_BYTES_MAX);
    if (!code) code = json_read_object(&object, view.bytes, view.count, name, "the file", err);
    if (!code) code = quant_config_read(out, object, true, name, err);
    json_decref(object);
    file_unmap(&view);
    return code;
}

static esp_code read_quantization(quant_config *out, const model_folder *folder,
                                  const hf_config *config, esp_error *err) {
    hf_section section;
    esp_code code = hf_config_quantization(config, &section, err);
    if (code) return code;
    return section.object ? quant_config_read(out, section.object, false, section.file, err)
                          : read_own_file(out, folder, err);
}

static const char *recorded_name(const hf_config *config) {
    const char *name = "";
    hf_section root = hf_config_root(config);
    return hf_may_text(&root, "_name_or_path", &name, NULL) == ESP_OK ? name : "";
}

esp_code checkpoint_read_folder(checkpoint *out, const model_folder *folder,
                                const hf_config *config, esp_error *err) {
    const char *recorded = recorded_name(config);
    out->name = model_folder_name(folder);
    esp_show(out->recorded, sizeof out->recorded, recorded, strlen(recorded));
    out->mapped = true;
    esp_code code = family_find_config(config, &out->family, err);
    if (code) return code;
    out->tensor_names = out->family->config_tensor_names;
    out->centred_norms = out->family->config_centred_norms;
    if ((code = out->family->read_config(config, &out->spec, err))) return code;
    if ((code = read_quantization(&out->quant, folder, config, err))) return code;
    if ((code = sentence_read_files(model_folder_path(folder), &out->spec, err))) return code;
    if (out->spec.pooling != POOLING_NONE)
        out->spec.tied_embeddings = true; /* no logits are made */
    for (uint32_t i = 0; i < model_folder_shard_count(folder); i++)
        add_tensors(out, model_folder_shard(folder, i));
    if ((code = tensor_set_seal(&out->tensors, err))) return code;
    code = checkpoint_check(out, err);
    for (uint32_t i = 0; i < model_folder_shard_count(folder) && !code; i++)
        code = check_copies(out, model_folder_shard(folder, i), err);
    return code;
}
