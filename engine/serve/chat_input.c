/* chat_input.c - messages, tools and arguments as the JSON values that a template sees. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/serve/chat_input.h"

#include <stdio.h>
#include <string.h>

#include "engine/text/chat_json.h"

#define HAS_CONTENT ESPALIER__V1__CHAT_MESSAGE___CONTENT_CONTENT

/* ---- limits, before anything is parsed ---- */

/* Counted together, because values take many times the bytes of their text. */
static esp_code check_json_bytes(const Espalier__V1__ChatInput *in, esp_error *err) {
    size_t bytes = strlen(in->tools_json) + strlen(in->template_arguments_json);
    for (size_t i = 0; i < in->n_messages; i++)
        bytes += strlen(in->messages[i]->tool_calls_json);
    if (bytes <= CHAT_JSON_BYTES_MAX) return ESP_OK;
    return esp_fail_field(err, ESP_INVALID, "chat",
                          "chat: %zu bytes in its JSON fields; at most %d are taken in all", bytes,
                          CHAT_JSON_BYTES_MAX);
}

static esp_code check_messages(const Espalier__V1__ChatInput *in, esp_error *err) {
    if (in->n_messages == 0)
        return esp_fail_field(err, ESP_INVALID, "chat.messages",
                              "chat.messages: empty; wanted at least 1 message");
    if (in->n_messages > CHAT_MESSAGES_MAX)
        return esp_fail_field(err, ESP_INVALID, "chat.messages",
                              "chat.messages: %zu messages; at most %d are taken", in->n_messages,
                              CHAT_MESSAGES_MAX);
    for (size_t i = 0; i < in->n_messages; i++)
        if (!in->messages[i]->role[0])
            return esp_fail_field(err, ESP_INVALID, "chat.messages.role",
                                  "chat.messages[%zu].role: empty; wanted \"user\" or the like", i);
    return ESP_OK;
}

/* ---- JSON fields ---- */

/* An array of at most `most` objects. */
static esp_code read_objects(json_t **out, const char *field, const char *text, size_t most,
                             esp_error *err) {
    esp_code code = chat_json_read(out, field, text, strlen(text), CHAT_JSON_ARRAY, err);
    if (code != ESP_OK) return code;
    size_t count = json_array_size(*out);
    if (count > most)
        return esp_fail_field(err, ESP_INVALID, field, "%s: %zu objects; at most %zu are taken",
                              field, count, most);
    for (size_t i = 0; i < count; i++)
        if (!json_is_object(json_array_get(*out, i)))
            return esp_fail_field(err, ESP_INVALID, field, "%s[%zu]: no JSON object", field, i);
    return ESP_OK;
}

static esp_code read_tools(const char *text, json_t **out, esp_error *err) {
    if (!*text) return ESP_OK;
    return read_objects(out, "chat.tools_json", text, CHAT_TOOLS_MAX, err);
}

static esp_code read_arguments(const char *text, json_t **out, esp_error *err) {
    static const char field[] = "chat.template_arguments_json";
    if (!*text) return ESP_OK;
    esp_code code = chat_json_read(out, field, text, strlen(text), CHAT_JSON_OBJECT, err);
    if (code != ESP_OK) return code;
    if (json_object_size(*out) > CHAT_ARGUMENTS_MAX)
        return esp_fail_field(err, ESP_INVALID, field, "%s: %zu variables; at most %d are taken",
                              field, json_object_size(*out), CHAT_ARGUMENTS_MAX);
    return chat_variables_check(*out, field, err);
}

/* ---- messages ---- */

/* The wire has checked that strings are UTF-8. */
static json_t *text_json(const char *text) { return json_stringn_nocheck(text, strlen(text)); }

static void set_text(json_t *message, const char *key, const char *text) {
    if (*text) json_object_set_new(message, key, text_json(text));
}

static json_t *content_json(const Espalier__V1__ChatMessage *m) {
    if (m->_content_case == HAS_CONTENT) return text_json(m->content);
    return *m->tool_calls_json ? json_null() : json_string("");
}

static esp_code append_message(json_t *list, const Espalier__V1__ChatMessage *m, esp_error *err) {
    json_t *message = json_object(), *calls = NULL;
    json_array_append_new(list, message);
    json_object_set_new(message, "role", text_json(m->role));
    json_object_set_new(message, "content", content_json(m));
    set_text(message, "tool_call_id", m->tool_call_id);
    set_text(message, "name", m->name);
    set_text(message, "reasoning_content", m->reasoning_content);
    set_text(message, "tools", m->tools_text);
    if (!*m->tool_calls_json) return ESP_OK;
    char field[64];
    snprintf(field, sizeof field, "chat.messages[%zu].tool_calls_json", json_array_size(list) - 1);
    esp_code code = read_objects(&calls, field, m->tool_calls_json, CHAT_TOOL_CALLS_MAX, err);
    if (calls) json_object_set_new(message, "tool_calls", calls);
    if (code != ESP_OK && err)
        snprintf(err->field, sizeof err->field, "chat.messages.tool_calls_json");
    return code;
}

static esp_code read_messages(const Espalier__V1__ChatInput *in, json_t *list, esp_error *err) {
    esp_code code = ESP_OK;
    for (size_t i = 0; i < in->n_messages && code == ESP_OK; i++)
        code = append_message(list, in->messages[i], err);
    return code;
}

esp_code chat_input_render(const chat_template *t, const Espalier__V1__ChatInput *in,
                           chat_prompt *out, esp_error *err) {
    *out = (chat_prompt){0};
    esp_code code = check_messages(in, err);
    if (code == ESP_OK) code = check_json_bytes(in, err);
    if (code != ESP_OK) return code;
    json_t *messages = json_array(), *tools = NULL, *arguments = NULL;
    code = read_messages(in, messages, err);
    if (code == ESP_OK) code = read_tools(in->tools_json, &tools, err);
    if (code == ESP_OK) code = read_arguments(in->template_arguments_json, &arguments, err);
    if (code == ESP_OK) {
        chat_options options = {.json = messages,
                                .tools = tools,
                                .variables = arguments,
                                .add_generation_prompt = true};
        code = template_render_full(t, &options, out, err);
    }
    json_decref(messages);
    json_decref(tools);
    json_decref(arguments);
    return code;
}
