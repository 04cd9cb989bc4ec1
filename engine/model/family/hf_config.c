/* hf_config.c - opens config.json, finds the text model's keys. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/family/hf_config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/model/family/hf_keys.h"
#include "engine/model/format/json_bytes.h"

static const char CONFIG[] = "config.json";

struct hf_config {
    json_t *root;
    hf_section text;
    bool nested;
};

static esp_code find_text(hf_config *config, esp_error *err) {
    hf_section root = hf_config_root(config);
    esp_code code = hf_may_section(&root, "text_config", &config->text, err);
    if (code) return code;
    config->nested = config->text.object != NULL;
    if (!config->nested) config->text = root;
    return ESP_OK;
}

esp_code hf_config_open_memory(hf_config **out, const void *bytes, size_t count, esp_error *err) {
    ESP_ASSERT(out && bytes);
    *out = NULL;
    if (count > HF_CONFIG_BYTES_MAX)
        return esp_fail(err, ESP_INVALID, "%s: the file has %zu bytes; wanted %d at most", CONFIG,
                        count, HF_CONFIG_BYTES_MAX);
    hf_config *opened = mem_new(1, sizeof *opened);
    esp_code code = json_read_object(&opened->root, bytes, count, CONFIG, "the file", err);
    if (!code) code = find_text(opened, err);
    if (code) {
        hf_config_close(opened);
        return code;
    }
    *out = opened;
    return ESP_OK;
}

esp_code hf_config_open(hf_config **out, const char *folder, esp_error *err) {
    ESP_ASSERT(out && folder);
    size_t bytes = strlen(folder) + sizeof CONFIG + 1;
    char *path = mem_new(bytes, 1);
    file_view view;
    *out = NULL;
    snprintf(path, bytes, "%s/%s", folder, CONFIG);
    esp_code code = file_map(&view, path, "JSON", err);
    if (!code) code = hf_config_open_memory(out, view.bytes, view.count, err);
    file_unmap(&view);
    free(path);
    return code;
}

void hf_config_close(hf_config *config) {
    if (!config) return;
    json_decref(config->root);
    free(config);
}

hf_section hf_config_root(const hf_config *config) {
    return (hf_section){.object = config->root, .file = CONFIG};
}

hf_section hf_config_text(const hf_config *config) { return config->text; }

bool hf_config_is_nested(const hf_config *config) { return config->nested; }

const char *hf_config_class(const hf_config *config) {
    return json_string_value(json_array_get(json_object_get(config->root, "architectures"), 0));
}

esp_code hf_config_quantization(const hf_config *config, hf_section *out, esp_error *err) {
    static const char key[] = "quantization_config";
    hf_section root = hf_config_root(config);
    esp_code code = hf_may_section(&root, key, out, err);
    if (code || out->object || !config->nested) return code;
    return hf_may_section(&config->text, key, out, err);
}
