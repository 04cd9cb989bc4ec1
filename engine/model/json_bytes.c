/* json_bytes.c - a file's bytes as one JSON object. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/json_bytes.h"

#include <string.h>

json_label json_show(const char *text) {
    json_label label = {{0}};
    size_t room = sizeof label.text - 1, length = strnlen(text, room + 1);
    for (size_t i = 0; i < length && i < room; i++)
        label.text[i] = text[i] < 0x20 || text[i] > 0x7e ? '?' : text[i];
    if (length > room) memcpy(label.text + room - 3, "...", 3);
    return label;
}

esp_code json_read_object(json_t **out, const void *bytes, size_t count, const char *name,
                          const char *what, esp_error *err) {
    json_error_t error;
    *out = json_loadb(bytes, count, JSON_REJECT_DUPLICATES, &error);
    if (!*out)
        return esp_fail(err, ESP_INVALID, "%s: %s is not valid JSON, at its byte %d: %s", name,
                        what, error.position, json_show(error.text).text);
    if (json_is_object(*out)) return ESP_OK;
    json_decref(*out);
    *out = NULL;
    return esp_fail(err, ESP_INVALID, "%s: %s is a JSON array; wanted an object", name, what);
}
