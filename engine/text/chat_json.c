/* chat_json.c - bounded JSON, and which names a template's variables may have. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/chat_json.h"

#include <stdbool.h>
#include <string.h>

static bool is_kind(const json_t *value, chat_json_kind kind) {
    return kind == CHAT_JSON_ANY || (kind == CHAT_JSON_ARRAY && json_is_array(value)) ||
           (kind == CHAT_JSON_OBJECT && json_is_object(value));
}

static const char *kind_name(chat_json_kind kind) {
    return kind == CHAT_JSON_ARRAY    ? "a JSON array"
           : kind == CHAT_JSON_OBJECT ? "a JSON object"
                                      : "JSON, where texts stand in double quotes";
}

esp_code chat_json_read(json_t **out, const char *field, const char *text, size_t bytes,
                        chat_json_kind kind, esp_error *err) {
    ESP_ASSERT(out && field && (text || bytes == 0));
    *out = NULL;
    if (bytes > CHAT_JSON_BYTES_MAX)
        return esp_fail_field(err, ESP_INVALID, field,
                              "%s: %zu bytes of JSON; at most %d are taken", field, bytes,
                              CHAT_JSON_BYTES_MAX);
    json_error_t why;
    json_t *value = json_loadb(text ? text : "", bytes,
                               JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);
    /* The parser's own sentence may quote half a character; its place says enough. */
    if (!value)
        return esp_fail_field(err, ESP_INVALID, field,
                              "%s: no JSON at line %d, column %d; wanted %s", field, why.line,
                              why.column, kind_name(kind));
    if (!is_kind(value, kind)) {
        json_decref(value);
        return esp_fail_field(err, ESP_INVALID, field, "%s: wanted %s", field, kind_name(kind));
    }
    *out = value;
    return ESP_OK;
}

static bool is_name(const char *key) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";
    size_t first = strspn(key, letters);
    if (first == 0) return false;
    for (const char *at = key + first; *at; at++)
        if (!strchr(letters, *at) && !strchr("0123456789", *at)) return false;
    return true;
}

esp_code chat_variable_check(const char *key, const char *field, esp_error *err) {
    static const char *const taken[] = {"messages", "tools", "add_generation_prompt", "bos_token",
                                        "eos_token"};
    if (!is_name(key))
        return esp_fail_field(err, ESP_INVALID, field,
                              "%s: \"%.40s\" is no name; wanted letters, digits and _", field, key);
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
        if (!strcmp(key, taken[i]))
            return esp_fail_field(err, ESP_INVALID, field,
                                  "%s: \"%s\" can't be given; a template gets it from the request "
                                  "or the model",
                                  field, key);
    return ESP_OK;
}

esp_code chat_variables_check(const json_t *variables, const char *field, esp_error *err) {
    esp_code code = ESP_OK;
    void *object = (void *)(uintptr_t)variables; /* iterators take no const */
    for (void *at = json_object_iter(object); at && code == ESP_OK;
         at = json_object_iter_next(object, at))
        code = chat_variable_check(json_object_iter_key(at), field, err);
    return code;
}
