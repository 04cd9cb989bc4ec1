/* hf_json.c - reading members of the folder's JSON files, with sentences that name them. */
// SPDX-License-Identifier: Apache-2.0
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/model/format/json_bytes.h"
#include "engine/model/format/json_member.h"
#include "engine/model/tokens/hf_inner.h"

esp_code hf_fail(const hf_reader *r, esp_code code, const char *path, const char *format, ...) {
    char what[ESP_MESSAGE_MAX - HF_PATH_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return esp_fail(r->err, code, "%s: %s %s", r->file, path, what);
}

/* No bytes: the folder has no such file. */
static esp_code map_json(file_view *out, const folder_place *folder, const char *name,
                         esp_error *err) {
    char path[PATH_MAX];
    esp_error missing = {0};
    *out = (file_view){0};
    esp_code code = folder_file_find(folder, name, path, &missing);
    if (code == ESP_NOT_FOUND) return ESP_OK;
    if (code) return esp_fail(err, code, "%s", missing.message);
    if ((code = file_map(out, path, "a JSON file", err))) return code;
    if (out->count <= HF_FILE_BYTES_MAX) return ESP_OK;
    code = esp_fail(err, ESP_INVALID, "%s has %zu bytes; wanted %d at most", name, out->count,
                    HF_FILE_BYTES_MAX);
    file_unmap(out);
    return code;
}

esp_code hf_load_json(json_t **out, const folder_place *folder, const char *name, esp_error *err) {
    file_view view;
    *out = NULL;
    esp_code code = map_json(&view, folder, name, err);
    if (code || !view.bytes) return code;
    code = json_read_tokens(out, view.bytes, view.count, name, err);
    file_unmap(&view);
    return code;
}

esp_code hf_load_member(json_t **out, bool *there, const folder_place *folder, const char *name,
                        const char *key, esp_error *err) {
    file_view view;
    *out = NULL;
    esp_code code = map_json(&view, folder, name, err);
    *there = view.bytes != NULL;
    if (code || !view.bytes) return code;
    code = json_read_member(out, view.bytes, view.count, key, name, err);
    file_unmap(&view);
    return code;
}

esp_code hf_get_bool(const hf_reader *r, const json_t *object, const char *path, const char *key,
                     bool *out) {
    const json_t *member = json_object_get(object, key);
    if (!member || json_is_null(member)) return ESP_OK;
    if (!json_is_boolean(member))
        return hf_fail(r, ESP_INVALID, path, "has a \"%s\" that is neither true nor false", key);
    *out = json_is_true(member);
    return ESP_OK;
}

esp_code hf_get_text(const hf_reader *r, const json_t *object, const char *path, const char *key,
                     tok_text *out) {
    const json_t *member = json_object_get(object, key);
    if (!member || json_is_null(member)) return ESP_OK;
    if (!json_is_string(member))
        return hf_fail(r, ESP_INVALID, path, "has a \"%s\" that is no string", key);
    *out = (tok_text){json_string_value(member), json_string_length(member)};
    return ESP_OK;
}

static int digit_of(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    if (c == '+') return 62;
    return c == '/' ? 63 : -1;
}

bool hf_decode_base64(tok_text text, uint8_t *out, size_t *count) {
    size_t bytes = text.bytes, made = 0;
    if (bytes % 4 != 0) return false;
    size_t padding = 0;
    while (padding < 2 && padding < bytes && text.at[bytes - 1 - padding] == '=')
        padding++;
    for (size_t i = 0; i < bytes; i += 4) {
        uint32_t group = 0;
        for (size_t k = 0; k < 4; k++) {
            bool pad = i + k >= bytes - padding;
            int digit = pad ? 0 : digit_of(text.at[i + k]);
            if (digit < 0) return false;
            group = group << 6 | (uint32_t)digit;
        }
        size_t keeps = i + 4 == bytes ? 3 - padding : 3;
        for (size_t k = 0; k < keeps; k++)
            out[made++] = (uint8_t)(group >> (16 - 8 * k));
    }
    *count = made;
    return true;
}
