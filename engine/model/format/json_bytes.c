/* json_bytes.c - a file's bytes as one JSON object. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/format/json_bytes.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

json_label json_show(const char *text) {
    json_label label;
    esp_show(label.text, sizeof label.text, text, strnlen(text, sizeof label.text));
    return label;
}

/* What the parser will make of the bytes, counted before it takes memory for it: about 40 bytes for
 * any value and 300 for an object or array, even for an empty one of two characters. */
static bool is_modest(const uint8_t *bytes, size_t count) {
    uint32_t values = 0, containers = 0;
    bool quoted = false;
    for (size_t i = 0; i < count; i++) {
        uint8_t c = bytes[i];
        if (quoted && c == '\\') {
            i++;
            continue;
        }
        if (c == '"') quoted = !quoted;
        if (quoted) continue;
        values += c == ',' || c == ':';
        containers += c == '{' || c == '[';
        if (values > JSON_VALUES_MAX || containers > JSON_CONTAINERS_MAX) return false;
    }
    return true;
}

/* A whole number beyond 64 bits turns all numbers into reals: tokenizer_config.json says "no limit"
 * with the 31 digits of 1e30, and who wants a whole number names its key. */
static json_t *load(const void *bytes, size_t count, size_t flags, json_error_t *error) {
    json_t *value = json_loadb(bytes, count, flags, error);
    if (value || json_error_code(error) != json_error_numeric_overflow) return value;
    return json_loadb(bytes, count, flags | JSON_DECODE_INT_AS_REAL, error);
}

static esp_code read_value(json_t **out, const void *bytes, size_t count, size_t flags,
                           const char *name, const char *what, esp_error *err) {
    json_error_t error;
    *out = NULL;
    if (!is_modest(bytes, count))
        return esp_fail(err, ESP_INVALID,
                        "%s: %s holds more than %d JSON values or %d objects and arrays", name,
                        what, JSON_VALUES_MAX, JSON_CONTAINERS_MAX);
    *out = load(bytes, count, flags | JSON_REJECT_DUPLICATES, &error);
    if (!*out)
        return esp_fail(err, ESP_INVALID, "%s: %s is not valid JSON, at its byte %d: %s", name,
                        what, error.position, json_show(error.text).text);
    return ESP_OK;
}

static esp_code read_object(json_t **out, const void *bytes, size_t count, size_t flags,
                            const char *name, const char *what, esp_error *err) {
    esp_code code = read_value(out, bytes, count, flags, name, what, err);
    if (code != ESP_OK || json_is_object(*out)) return code;
    json_decref(*out);
    *out = NULL;
    return esp_fail(err, ESP_INVALID, "%s: %s is a JSON array; wanted an object", name, what);
}

esp_code json_read_object(json_t **out, const void *bytes, size_t count, const char *name,
                          const char *what, esp_error *err) {
    return read_object(out, bytes, count, 0, name, what, err);
}

esp_code json_read_tokens(json_t **out, const void *bytes, size_t count, const char *name,
                          esp_error *err) {
    return read_object(out, bytes, count, JSON_ALLOW_NUL, name, "the file", err);
}

esp_code json_read_value(json_t **out, const void *bytes, size_t count, const char *name,
                         const char *what, esp_error *err) {
    return read_value(out, bytes, count, JSON_ALLOW_NUL | JSON_DECODE_ANY, name, what, err);
}
