/* chat_source.c - chat_template.jinja, additional_chat_templates/, tokenizer_config.json. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/tokens/chat_source.h"

#include <jansson.h>
#include <linux/limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/model/format/json_bytes.h"

void chat_source_free(chat_source *source) {
    free(source->text);
    free(source->tool_use);
    *source = (chat_source){0};
}

static esp_code take_template(char **text, size_t *bytes, const char *at, size_t count,
                              const char *where, esp_error *err) {
    if (count > CHAT_SOURCE_TEMPLATE_MAX)
        return esp_fail(err, ESP_INVALID, "%s: a chat template of %zu bytes; at most %d are taken",
                        where, count, CHAT_SOURCE_TEMPLATE_MAX);
    *text = mem_new(count + 1, 1);
    memcpy(*text, at, count);
    *bytes = count;
    return ESP_OK;
}

/* ---- tokenizer_config.json ---- */

static bool is_named(const json_t *entry, const char *name) {
    const char *own = json_string_value(json_object_get(entry, "name"));
    return own && !strcmp(own, name);
}

/* The template of that name, or NULL; ESP_INVALID when there are two. */
static esp_code find_named(const json_t *list, const char *name, const char *file,
                           const json_t **out, esp_error *err) {
    *out = NULL;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *entry = json_array_get(list, i);
        if (!is_named(entry, name)) continue;
        if (*out)
            return esp_fail(err, ESP_INVALID, "%s: chat_template: two templates are named \"%s\"",
                            file, name);
        *out = json_object_get(entry, "template");
    }
    return ESP_OK;
}

static esp_code check_list(const json_t *list, const char *file, esp_error *err) {
    size_t count = json_array_size(list);
    if (count > CHAT_SOURCE_NAMES_MAX)
        return esp_fail(err, ESP_INVALID, "%s: chat_template: %zu templates; at most %d are taken",
                        file, count, CHAT_SOURCE_NAMES_MAX);
    for (size_t i = 0; i < count; i++) {
        const json_t *entry = json_array_get(list, i);
        if (!json_is_string(json_object_get(entry, "name")) ||
            !json_is_string(json_object_get(entry, "template")))
            return esp_fail(err, ESP_INVALID,
                            "%s: chat_template[%zu] is not {\"name\": text, \"template\": text}",
                            file, i);
    }
    return ESP_OK;
}

static esp_code take_json(char **text, size_t *bytes, const json_t *value, const char *file,
                          esp_error *err) {
    if (!value) return ESP_OK;
    return take_template(text, bytes, json_string_value(value), json_string_length(value), file,
                         err);
}

static esp_code take_list(chat_source *out, const json_t *list, const char *file, esp_error *err) {
    const json_t *usual, *tool_use;
    esp_code code = check_list(list, file, err);
    if (code == ESP_OK) code = find_named(list, "default", file, &usual, err);
    if (code == ESP_OK) code = find_named(list, "tool_use", file, &tool_use, err);
    if (code != ESP_OK || !usual) return code;
    code = take_json(&out->text, &out->bytes, usual, file, err);
    if (code == ESP_OK) code = take_json(&out->tool_use, &out->tool_use_bytes, tool_use, file, err);
    return code;
}

static esp_code take_config(chat_source *out, const json_t *root, const char *file,
                            esp_error *err) {
    const json_t *value = json_object_get(root, "chat_template");
    if (!value || json_is_null(value)) return ESP_OK;
    if (json_is_string(value)) return take_json(&out->text, &out->bytes, value, file, err);
    if (json_is_array(value)) return take_list(out, value, file, err);
    return esp_fail(err, ESP_INVALID,
                    "%s: chat_template is neither text nor a list of {\"name\", \"template\"}",
                    file);
}

esp_code chat_source_read_config(chat_source *out, const void *bytes, size_t count,
                                 const char *name, esp_error *err) {
    ESP_ASSERT(out && bytes && name);
    *out = (chat_source){0};
    if (count > CHAT_SOURCE_CONFIG_MAX)
        return esp_fail(err, ESP_INVALID, "%s: %zu bytes; at most %d are taken", name, count,
                        CHAT_SOURCE_CONFIG_MAX);
    json_t *root;
    esp_code code = json_read_object(&root, bytes, count, name, "the file", err);
    if (!code) code = take_config(out, root, name, err);
    json_decref(root);
    if (code != ESP_OK) chat_source_free(out);
    return code;
}

/* ---- the folder ---- */

/* Maps folder/name; *there is false, and the code ESP_OK, where there is no such file. */
static esp_code open_part(file_view *view, bool *there, const char *folder, const char *name,
                          const char *wanted, esp_error *err) {
    char path[PATH_MAX];
    *there = false;
    if ((size_t)snprintf(path, sizeof path, "%s/%s", folder, name) >= sizeof path)
        return esp_fail(err, ESP_INVALID, "the path of %s is longer than %d bytes", name, PATH_MAX);
    esp_error why = {0};
    esp_code code = file_map(view, path, wanted, &why);
    if (code == ESP_NOT_FOUND) return ESP_OK;
    *there = code == ESP_OK;
    if (code != ESP_OK && err) *err = why;
    return code;
}

static esp_code read_template(char **text, size_t *bytes, const char *folder, const char *name,
                              esp_error *err) {
    file_view view;
    bool there;
    esp_code code = open_part(&view, &there, folder, name, "a chat template", err);
    if (!there) return code;
    code = take_template(text, bytes, (const char *)view.bytes, view.count, view.name, err);
    file_unmap(&view);
    return code;
}

static esp_code read_config(chat_source *out, const char *folder, esp_error *err) {
    file_view view;
    bool there;
    esp_code code = open_part(&view, &there, folder, "tokenizer_config.json", "JSON", err);
    if (!there) return code;
    code = chat_source_read_config(out, view.bytes, view.count, view.name, err);
    file_unmap(&view);
    return code;
}

esp_code chat_source_read_folder(chat_source *out, const char *folder, esp_error *err) {
    ESP_ASSERT(out && folder);
    *out = (chat_source){0};
    esp_code code = read_template(&out->text, &out->bytes, folder, "chat_template.jinja", err);
    if (code == ESP_OK && !out->text) return read_config(out, folder, err);
    if (code == ESP_OK)
        code = read_template(&out->tool_use, &out->tool_use_bytes, folder,
                             "additional_chat_templates/tool_use.jinja", err);
    if (code != ESP_OK) chat_source_free(out);
    return code;
}
