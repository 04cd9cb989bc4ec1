/* checkpoint_folder.c - the weights of a Hugging Face folder. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/checkpoint_folder.h"

#include <limits.h>
#include <stdio.h>

#include "engine/base/file.h"
#include "engine/model/json_bytes.h"

/* By their bare names, without those that say nothing. */
static void add_tensors(checkpoint *out, const safetensors_file *shard) {
    const tensor_set *tensors = safetensors_tensors(shard);
    for (uint32_t i = 0; i < tensors->count; i++) {
        model_tensor tensor = tensors->at[i];
        tensor.name = family_bare_name(tensor.name);
        if (!family_ignores_tensor(&out->spec, tensor.name)) tensor_set_add(&out->tensors, &tensor);
    }
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
    code = json_read_object(&object, view.bytes, view.count, name, "the file", err);
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

esp_code checkpoint_read_folder(checkpoint *out, const model_folder *folder,
                                const hf_config *config, esp_error *err) {
    out->name = model_folder_name(folder);
    out->mapped = true;
    esp_code code = family_find_config(config, &out->family, err);
    if (code) return code;
    out->tensor_names = out->family->config_tensor_names;
    out->centred_norms = out->family->config_centred_norms;
    if ((code = out->family->read_config(config, &out->spec, err))) return code;
    if ((code = read_quantization(&out->quant, folder, config, err))) return code;
    for (uint32_t i = 0; i < model_folder_shard_count(folder); i++)
        add_tensors(out, model_folder_shard(folder, i));
    if ((code = tensor_set_seal(&out->tensors, err))) return code;
    return checkpoint_check(out, err);
}
