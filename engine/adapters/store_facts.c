/* store_facts.c - what an adapter's files say that they are, for its manifest. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <string.h>

#include "engine/adapters/store_inner.h"
#include "engine/base/file.h"
#include "engine/model/format/json_bytes.h"
#include "engine/model/format/safetensors.h"

static void take_tensor(const model_tensor *tensor, store_manifest *out) {
    static const char tail[] = ".lora_A.weight";
    size_t bytes = sizeof tail - 1;
    out->parameters += tensor_element_count(tensor);
    if (tensor->name.bytes <= bytes) return;
    size_t module = tensor->name.bytes - bytes, begin = module;
    if (memcmp(tensor->name.at + module, tail, bytes) != 0 || tensor->dim_count != 2) return;
    while (begin > 0 && tensor->name.at[begin - 1] != '.')
        begin--;
    uint32_t rank = (uint32_t)tensor->dims[1];
    if (!out->rank_min || rank < out->rank_min) out->rank_min = rank;
    if (rank > out->rank_max) out->rank_max = rank;
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)(module - begin), tensor->name.at + begin);
    size_t used = strlen(out->targets);
    if (!strstr(out->targets, name))
        snprintf(out->targets + used, sizeof out->targets - used, "%s%s", used ? ", " : "", name);
}

static esp_code read_config(const char *path, store_manifest *out, esp_error *err) {
    char file[PATH_MAX + 32];
    file_view view;
    json_t *root;
    snprintf(file, sizeof file, "%s/" ADAPTER_CONFIG_FILE, path);
    esp_code code = file_map(&view, file, ADAPTER_CONFIG_FILE, err);
    if (code != ESP_OK) return code;
    code = json_read_object(&root, view.bytes, view.count, view.name, "the configuration", err);
    file_unmap(&view);
    if (code != ESP_OK) return code;
    const char *base = json_string_value(json_object_get(root, "base_model_name_or_path"));
    if (base) esp_show(out->base, sizeof out->base, base, strlen(base));
    json_decref(root);
    return ESP_OK;
}

esp_code store_read_facts(const char *path, store_manifest *out, esp_error *err) {
    char file[PATH_MAX + 32];
    safetensors_file *tensors = NULL;
    esp_code code = read_config(path, out, err);
    snprintf(file, sizeof file, "%s/" ADAPTER_TENSORS_FILE, path);
    if (code == ESP_OK) code = safetensors_open(&tensors, file, err);
    if (code != ESP_OK) return code;
    const tensor_set *set = safetensors_tensors(tensors);
    for (uint32_t i = 0; i < set->count; i++)
        take_tensor(&set->at[i], out);
    safetensors_close(tensors);
    return ESP_OK;
}
