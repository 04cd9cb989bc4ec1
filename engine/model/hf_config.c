/* hf_config.c - opens config.json and generation_config.json, finds the text model's keys. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/hf_config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/model/hf_keys.h"
#include "engine/model/json_bytes.h"

static const char CONFIG[] = "config.json", GENERATION[] = "generation_config.json";

struct hf_config {
    json_t *root, *generation; /* generation NULL: there is no such file */
    hf_section text;
    bool nested;
};

static esp_code parse(json_t **out, const void *bytes, size_t count, const char *name,
                      esp_error *err) {
    if (count > HF_CONFIG_BYTES_MAX)
        return esp_fail(err, ESP_INVALID, "%s: the file has %zu bytes; wanted %d at most", name,
                        count, HF_CONFIG_BYTES_MAX);
    return json_read_object(out, bytes, count, name, "the file", err);
}

static esp_code find_text(hf_config *config, esp_error *err) {
    hf_section root = hf_config_root(config);
    esp_code code = hf_may_section(&root, "text_config", &config->text, err);
    if (code) return code;
    config->nested = config->text.object != NULL;
    if (!config->nested) config->text = root;
    return ESP_OK;
}

esp_code hf_config_open_memory(hf_config **out, const void *config, size_t config_bytes,
                               const void *generation, size_t generation_bytes, esp_error *err) {
    ESP_ASSERT(out && config);
    hf_config *opened = mem_new(1, sizeof *opened);
    *out = NULL;
    esp_code code = parse(&opened->root, config, config_bytes, CONFIG, err);
    if (!code && generation)
        code = parse(&opened->generation, generation, generation_bytes, GENERATION, err);
    if (!code) code = find_text(opened, err);
    if (code) {
        hf_config_close(opened);
        return code;
    }
    *out = opened;
    return ESP_OK;
}

static esp_code map_in(file_view *out, const char *folder, const char *name, esp_error *err) {
    size_t bytes = strlen(folder) + strlen(name) + 2;
    char *path = mem_new(bytes, 1);
    snprintf(path, bytes, "%s/%s", folder, name);
    esp_code code = file_map(out, path, "JSON", err);
    free(path);
    return code;
}

esp_code hf_config_open(hf_config **out, const char *folder, esp_error *err) {
    ESP_ASSERT(out && folder);
    file_view config = {0}, generation = {0};
    *out = NULL;
    esp_code code = map_in(&config, folder, CONFIG, err);
    if (code) return code;
    esp_error absent = {0};
    code = map_in(&generation, folder, GENERATION, &absent);
    if (code == ESP_NOT_FOUND) code = ESP_OK;
    if (code)
        code = esp_fail(err, code, "%s", absent.message);
    else
        code = hf_config_open_memory(out, config.bytes, config.count, generation.bytes,
                                     generation.count, err);
    file_unmap(&config);
    file_unmap(&generation);
    return code;
}

void hf_config_close(hf_config *config) {
    if (!config) return;
    json_decref(config->root);
    json_decref(config->generation);
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

/* The section that has the key: what a generation uses wins over what the model was trained with. */
static bool find_ids(const hf_config *config, const char *key, hf_section *out) {
    const hf_section sections[] = {
        {.object = config->generation, .file = GENERATION}, config->text, hf_config_root(config)};
    for (size_t i = 0; i < sizeof sections / sizeof *sections; i++) {
        *out = sections[i];
        if (hf_has(out, key)) return true;
    }
    return false;
}

static bool is_id(const json_t *value) {
    json_int_t id = json_integer_value(value);
    return json_is_integer(value) && id >= 0 && id <= INT32_MAX;
}

static esp_code fail_id(const hf_section *section, const char *key, const char *wanted,
                        esp_error *err) {
    return esp_fail(err, ESP_INVALID, "%s: %s%s is %s; wanted %s", section->file, section->path,
                    key, hf_show(section, key).text, wanted);
}

esp_code hf_config_eos(const hf_config *config, int32_t *out, uint32_t max, uint32_t *count,
                       esp_error *err) {
    static const char key[] = "eos_token_id";
    hf_section section;
    *count = 0;
    if (!find_ids(config, key, &section)) return ESP_OK;
    const json_t *value = json_object_get(section.object, key);
    bool list = json_is_array(value);
    size_t ids = list ? json_array_size(value) : 1;
    if (ids > max) return fail_id(&section, key, "a shorter list", err);
    for (size_t i = 0; i < ids; i++) {
        const json_t *id = list ? json_array_get(value, i) : value;
        if (!is_id(id)) return fail_id(&section, key, "a token id or a list of such", err);
        out[i] = (int32_t)json_integer_value(id);
    }
    *count = (uint32_t)ids;
    return ESP_OK;
}

esp_code hf_config_bos(const hf_config *config, bool *found, int32_t *out, esp_error *err) {
    static const char key[] = "bos_token_id";
    hf_section section;
    *found = find_ids(config, key, &section);
    if (!*found) return ESP_OK;
    const json_t *value = json_object_get(section.object, key);
    if (!is_id(value)) return fail_id(&section, key, "a token id", err);
    *out = (int32_t)json_integer_value(value);
    return ESP_OK;
}

esp_code hf_config_quantization(const hf_config *config, hf_section *out, esp_error *err) {
    static const char key[] = "quantization_config";
    hf_section root = hf_config_root(config);
    esp_code code = hf_may_section(&root, key, out, err);
    if (code || out->object || !config->nested) return code;
    return hf_may_section(&config->text, key, out, err);
}
