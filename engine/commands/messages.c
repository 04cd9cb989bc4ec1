/* messages.c - --messages FILE, --tools FILE, --arg KEY=JSON: a conversation in full. */
// SPDX-License-Identifier: Apache-2.0
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "engine/commands/commands.h"
#include "engine/text/chat_json.h"

static const flag own_flags[] = {
    {.name = "tools",
     .kind = FLAG_TEXT,
     .offset = offsetof(chat_config, tools),
     .placeholder = "FILE",
     .help = "the tools that the model may call, as JSON: [{\"type\": \"function\", \"function\": "
             "{...}}, ...]"},
    {.name = "arg",
     .kind = FLAG_LIST,
     .offset = offsetof(chat_config, args),
     .placeholder = "KEY=JSON",
     .help = "a further variable of the chat template, as in enable_thinking=false or "
             "date_string='\"1 May 2025\"'; may be repeated"},
};
const flag_table chat_flags = {
    .title = "Chat template", .flags = own_flags, .count = sizeof own_flags / sizeof *own_flags};

/* ---- files ---- */

static esp_code read_json_file(json_t **out, const char *option, const char *path, esp_error *err) {
    json_error_t why;
    *out = json_load_file(path, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &why);
    if (*out) return ESP_OK;
    if (why.line < 0) return esp_fail_field(err, ESP_NOT_FOUND, option, "%s: %s", option, why.text);
    return esp_fail_field(err, ESP_INVALID, option, "%s %s, line %d: %s", option, path, why.line,
                          why.text);
}

/* A message without content is one that calls tools. */
static bool is_message(const json_t *message) {
    return json_is_string(json_object_get(message, "role")) &&
           (json_object_get(message, "content") || json_object_get(message, "tool_calls"));
}

static esp_code read_messages(const char *path, json_t **out, esp_error *err) {
    esp_code code = read_json_file(out, "--messages", path, err);
    if (code != ESP_OK) return code;
    size_t count = json_array_size(*out);
    if (!json_is_array(*out) || count == 0 || count > CHAT_MESSAGES_MAX)
        return esp_fail_field(err, ESP_INVALID, "--messages",
                              "--messages %s: wanted a JSON array of 1 to %d messages", path,
                              CHAT_MESSAGES_MAX);
    for (size_t i = 0; i < count; i++)
        if (!is_message(json_array_get(*out, i)))
            return esp_fail_field(err, ESP_INVALID, "--messages",
                                  "--messages %s: message %zu is not {\"role\": text, \"content\": "
                                  "...} nor one with \"tool_calls\"",
                                  path, i);
    return ESP_OK;
}

static esp_code read_tools(const char *path, json_t **out, esp_error *err) {
    esp_code code = read_json_file(out, "--tools", path, err);
    if (code != ESP_OK || json_is_array(*out)) return code;
    return esp_fail_field(err, ESP_INVALID, "--tools",
                          "--tools %s: wanted a JSON array of function schemas", path);
}

/* ---- --arg ---- */

static esp_code usage(esp_error *err, const esp_error *why) {
    return esp_fail_field(err, ESP_OUT_OF_RANGE, "--arg", "%s", why->message);
}

/* "KEY=JSON" -> a member of variables. */
static esp_code take_arg(const char *arg, json_t *variables, esp_error *err) {
    char key[64], field[80];
    size_t bytes = strcspn(arg, "=");
    esp_error why = {0};
    json_t *value;
    if (!arg[bytes] || bytes >= sizeof key)
        return esp_fail_field(err, ESP_OUT_OF_RANGE, "--arg",
                              "--arg \"%.40s\": wanted KEY=JSON, as in enable_thinking=false", arg);
    snprintf(key, sizeof key, "%.*s", (int)bytes, arg);
    snprintf(field, sizeof field, "--arg %s", key);
    if (chat_variable_check(key, "--arg", &why) != ESP_OK) return usage(err, &why);
    const char *text = arg + bytes + 1;
    if (chat_json_read(&value, field, text, strlen(text), CHAT_JSON_ANY, &why) != ESP_OK)
        return usage(err, &why);
    json_object_set_new(variables, key, value);
    return ESP_OK;
}

static esp_code read_args(const flag_list *args, json_t **out, esp_error *err) {
    esp_code code = ESP_OK;
    if (args->count) *out = json_object();
    for (uint32_t i = 0; i < args->count && code == ESP_OK; i++)
        code = take_arg(args->at[i], *out, err);
    return code;
}

esp_code conversation_read(const char *messages, const chat_config *config, conversation *out,
                           esp_error *err) {
    *out = (conversation){0};
    esp_code code = read_args(&config->args, &out->variables, err);
    if (code == ESP_OK) code = read_messages(messages, &out->messages, err);
    if (code == ESP_OK && config->tools) code = read_tools(config->tools, &out->tools, err);
    return code;
}

esp_code conversation_render(const chat_template *t, const conversation *c,
                             bool add_generation_prompt, chat_prompt *out, esp_error *err) {
    chat_options options = {.json = c->messages,
                            .tools = c->tools,
                            .variables = c->variables,
                            .add_generation_prompt = add_generation_prompt};
    return template_render_full(t, &options, out, err);
}

void conversation_free(conversation *c) {
    json_decref(c->messages);
    json_decref(c->tools);
    json_decref(c->variables);
    *c = (conversation){0};
}
