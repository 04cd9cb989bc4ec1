/* family_keys.c - metadata keys within bounds. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <string.h>

#include "engine/model/family/family_keys.h"

static esp_code fail_missing(const gguf_file *file, const char *key, esp_error *err) {
    return esp_fail(err, ESP_INVALID, "%s: the metadata key %s is missing; convert the model again",
                    gguf_name(file), key);
}

static esp_code check_range(const gguf_file *file, const char *key, family_range range,
                            uint32_t value, esp_error *err) {
    if (value < range.min || value > range.max)
        return esp_fail(err, ESP_INVALID, "%s: metadata key %s is %u; wanted %u to %u",
                        gguf_name(file), key, value, range.min, range.max);
    if (range.multiple && value % range.multiple != 0)
        return esp_fail(err, ESP_INVALID, "%s: metadata key %s is %u; wanted a multiple of %u",
                        gguf_name(file), key, value, range.multiple);
    return ESP_OK;
}

esp_code family_may_u32(const gguf_file *file, const char *key, family_range range, uint32_t *out,
                        esp_error *err) {
    bool found;
    esp_code code = gguf_get_u32(file, key, &found, out, err);
    return code ? code : check_range(file, key, range, *out, err);
}

esp_code family_need_u32(const gguf_file *file, const char *key, family_range range, uint32_t *out,
                         esp_error *err) {
    bool found;
    esp_code code = gguf_get_u32(file, key, &found, out, err);
    if (code) return code;
    if (!found) return fail_missing(file, key, err);
    return check_range(file, key, range, *out, err);
}

static esp_code check_real(const gguf_file *file, const char *key, float min, float max,
                           float value, esp_error *err) {
    if (isfinite(value) && value >= min && value <= max) return ESP_OK;
    return esp_fail(err, ESP_INVALID, "%s: metadata key %s is %g; wanted %g to %g", gguf_name(file),
                    key, (double)value, (double)min, (double)max);
}

esp_code family_may_f32(const gguf_file *file, const char *key, float min, float max, float *out,
                        esp_error *err) {
    bool found;
    esp_code code = gguf_get_f32(file, key, &found, out, err);
    return code ? code : check_real(file, key, min, max, *out, err);
}

esp_code family_need_f32(const gguf_file *file, const char *key, float min, float max, float *out,
                         esp_error *err) {
    bool found;
    esp_code code = gguf_get_f32(file, key, &found, out, err);
    if (code) return code;
    if (!found) return fail_missing(file, key, err);
    return check_real(file, key, min, max, *out, err);
}

static bool is_known(model_text key, size_t skip, const char *const *known) {
    size_t bytes = key.bytes - skip;
    for (; known && *known; known++)
        if (strlen(*known) == bytes && memcmp(*known, key.at + skip, bytes) == 0) return true;
    return false;
}

esp_code family_refuse_unknown(const gguf_file *file, const char *prefix, const char *const *known,
                               const char *const *more, esp_error *err) {
    size_t prefix_bytes = strlen(prefix);
    for (uint64_t i = 0; i < gguf_kv_count(file); i++) {
        model_text key;
        char value[32];
        gguf_kv_print(file, i, &key, value, sizeof value);
        if (key.bytes < prefix_bytes || memcmp(key.at, prefix, prefix_bytes) != 0) continue;
        if (!is_known(key, prefix_bytes, known) && !is_known(key, prefix_bytes, more))
            return esp_fail(err, ESP_INVALID,
                            "%s: metadata key %.*s (%s) is not known here; a model that needs it "
                            "would be computed wrongly",
                            gguf_name(file), (int)(key.bytes < 96 ? key.bytes : 96), key.at, value);
    }
    return ESP_OK;
}
