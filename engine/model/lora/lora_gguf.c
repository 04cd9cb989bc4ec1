/* lora_gguf.c - the metadata of a GGUF adapter. Keys: convert_lora_to_gguf.py of the reference
 * implementation; its adapters have one alpha, and their ranks lie in the tensors. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/model/lora/lora_inner.h"

static bool is(model_text text, const char *wanted) {
    return text.bytes == strlen(wanted) && memcmp(text.at, wanted, text.bytes) == 0;
}

static esp_code need_text(const gguf_file *gguf, const char *key, const char *wanted,
                          esp_error *err) {
    bool found;
    model_text seen = {"", 0};
    char shown[48];
    esp_code code = gguf_get_text(gguf, key, &found, &seen, err);
    if (code || is(seen, wanted)) return code;
    esp_show(shown, sizeof shown, seen.at, seen.bytes);
    return esp_fail(err, ESP_INVALID, "%s: metadata key %s is %s%s; wanted \"%s\"", gguf_name(gguf),
                    key, found ? "" : "missing", shown, wanted);
}

/* Keys of adapters that are not known here may change the arithmetic. */
static esp_code refuse_unknown(const gguf_file *gguf, esp_error *err) {
    static const char prefix[] = "adapter.";
    static const char *const known[] = {"adapter.type", "adapter.lora.alpha",
                                        "adapter.lora.task_name", "adapter.lora.prompt_prefix",
                                        NULL};
    for (uint64_t i = 0; i < gguf_kv_count(gguf); i++) {
        model_text key;
        char value[8], shown[64];
        gguf_kv_print(gguf, i, &key, value, sizeof value);
        bool fits = key.bytes < sizeof prefix - 1 || memcmp(key.at, prefix, sizeof prefix - 1) != 0;
        for (size_t k = 0; known[k] && !fits; k++)
            fits = is(key, known[k]);
        if (fits) continue;
        esp_show(shown, sizeof shown, key.at, key.bytes);
        return esp_fail(err, ESP_INVALID,
                        "%s: metadata key %s asks for arithmetic that is not computed here; an "
                        "adapter that needs it would answer wrongly",
                        gguf_name(gguf), shown);
    }
    return ESP_OK;
}

static esp_code read_alpha(lora_file *file, esp_error *err) {
    static const char key[] = "adapter.lora.alpha";
    bool found;
    esp_code code = gguf_get_f32(file->gguf, key, &found, &file->alpha, err);
    if (code) return code;
    if (found && isfinite(file->alpha) && file->alpha > 0 && file->alpha <= 1e6f) return ESP_OK;
    char seen[32] = "missing";
    if (found) snprintf(seen, sizeof seen, "%g", (double)file->alpha);
    return esp_fail(err, ESP_INVALID, "%s: metadata key %s is %s; wanted more than 0, 1e6 at most",
                    gguf_name(file->gguf), key, seen);
}

static esp_code read_text(const gguf_file *gguf, const char *key, char *out, size_t bytes,
                          esp_error *err) {
    bool found;
    model_text text = {"", 0};
    esp_code code = gguf_get_text(gguf, key, &found, &text, err);
    if (!code) esp_show(out, bytes, text.at, text.bytes);
    return code;
}

esp_code lora_read_gguf(lora_file *file, esp_error *err) {
    const gguf_file *gguf = file->gguf;
    bool found;
    esp_code code = need_text(gguf, "general.type", "adapter", err);
    if (!code) code = need_text(gguf, "adapter.type", "lora", err);
    if (!code) code = refuse_unknown(gguf, err);
    if (!code) code = read_alpha(file, err);
    if (!code) code = gguf_get_text(gguf, "general.architecture", &found, &file->architecture, err);
    if (!code)
        code = read_text(gguf, "general.base_model.0.name", file->base_name, sizeof file->base_name,
                         err);
    if (!code) code = read_text(gguf, "adapter.lora.task_name", file->task, sizeof file->task, err);
    if (!code && !found)
        code = esp_fail(err, ESP_INVALID,
                        "%s: the metadata key general.architecture is missing; wanted that of the "
                        "adapter's base",
                        gguf_name(gguf));
    if (!code && gguf_part_count(gguf) > 1)
        code = esp_fail(err, ESP_INVALID, "%s: is the first of %u parts; wanted an adapter in one",
                        gguf_name(gguf), gguf_part_count(gguf));
    return code;
}
