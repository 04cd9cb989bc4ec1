/* messages.c - --messages FILE: a JSON array of {"role": ..., "content": ...}. */
// SPDX-License-Identifier: Apache-2.0
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/commands/commands.h"

static bool take_text(const json_t *message, const char *key, tok_text *out) {
    const json_t *value = json_object_get(message, key);
    if (!json_is_string(value)) return false;
    *out = (tok_text){.at = json_string_value(value), .bytes = json_string_length(value)};
    return true;
}

static esp_code take_messages(const char *path, message_list *list, esp_error *err) {
    size_t count = json_array_size(list->root);
    if (!json_is_array(list->root) || count == 0 || count > CHAT_MESSAGES_MAX)
        return esp_fail_field(err, ESP_INVALID, "--messages",
                              "--messages %s: wanted a JSON array of 1 to %d messages", path,
                              CHAT_MESSAGES_MAX);
    list->at = mem_new(count, sizeof *list->at);
    list->count = (uint32_t)count;
    for (uint32_t i = 0; i < list->count; i++) {
        const json_t *message = json_array_get(list->root, i);
        if (!take_text(message, "role", &list->at[i].role) ||
            !take_text(message, "content", &list->at[i].content))
            return esp_fail_field(
                err, ESP_INVALID, "--messages",
                "--messages %s: message %u is not {\"role\": text, \"content\": text}", path, i);
    }
    return ESP_OK;
}

esp_code read_messages(const char *path, message_list *out, esp_error *err) {
    json_error_t why;
    out->root = json_load_file(path, JSON_ALLOW_NUL, &why);
    if (!out->root && why.line < 0)
        return esp_fail_field(err, ESP_NOT_FOUND, "--messages", "--messages: %s", why.text);
    if (!out->root)
        return esp_fail_field(err, ESP_INVALID, "--messages", "--messages %s, line %d: %s", path,
                              why.line, why.text);
    return take_messages(path, out, err);
}

void messages_free(message_list *list) {
    json_decref(list->root);
    free(list->at);
    *list = (message_list){0};
}
