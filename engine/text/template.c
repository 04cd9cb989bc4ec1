/* template.c - a conversation as the variables that a chat template expects.
 *
 * messages, tools, documents (null when there are none, as the reference passes them),
 * add_generation_prompt, bos_token, eos_token, and whatever variables the caller adds. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/template.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "engine/base/mem.h"
#include "engine/text/jinja/jinja.h"

struct chat_template {
    jinja_template *jinja;
    jinja_template *tool_use; /* instead of jinja where tools are given; NULL: none */
    json_t *own;              /* bos_token, eos_token */
};

static_assert((int)CHAT_PROMPT_BYTES_MAX == (int)JINJA_OUTPUT_BYTES_MAX, "one limit, two doors");

static void name_field(esp_error *err, const char *field) {
    if (err && !err->field[0]) snprintf(err->field, sizeof err->field, "%s", field);
}

static esp_code compile(jinja_template **out, const char *source, size_t bytes, esp_error *err) {
    if (bytes == 0)
        return esp_fail_field(err, ESP_UNIMPLEMENTED, "tokenizer.chat_template",
                              "the model's chat template is empty; send prompt text or token ids");
    esp_code code = jinja_open(out, source, bytes, err);
    if (code != ESP_OK) name_field(err, "tokenizer.chat_template");
    return code;
}

esp_code template_open(chat_template **out, const char *source, size_t bytes, esp_error *err) {
    ESP_ASSERT(out && (source || bytes == 0));
    *out = NULL;
    jinja_template *jinja;
    esp_code code = compile(&jinja, source, bytes, err);
    if (code != ESP_OK) return code;
    *out = mem_new(1, sizeof **out);
    (*out)->jinja = jinja;
    (*out)->own = json_object();
    return ESP_OK;
}

esp_code template_set_tool_use(chat_template *t, const char *source, size_t bytes, esp_error *err) {
    ESP_ASSERT(t && !t->tool_use && (source || bytes == 0));
    return compile(&t->tool_use, source, bytes, err);
}

void template_close(chat_template *t) {
    if (!t) return;
    jinja_close(t->tool_use);
    jinja_close(t->jinja);
    json_decref(t->own);
    free(t);
}

/* Any bytes are text here: the interpreter takes what is no UTF-8 byte by byte. */
static json_t *text_json(tok_text text) {
    return json_stringn_nocheck(text.at ? text.at : "", text.bytes);
}

static void set_token(json_t *own, const char *name, tok_text token) {
    if (token.at)
        json_object_set_new(own, name, text_json(token));
    else
        json_object_del(own, name);
}

void template_set_tokens(chat_template *t, tok_text bos, tok_text eos) {
    ESP_ASSERT(t);
    set_token(t->own, "bos_token", bos);
    set_token(t->own, "eos_token", eos);
}

static tok_text token_text(const tokenizer *tok, int32_t id) {
    return id < 0 ? (tok_text){NULL, 0} : tok_bytes(tok, id);
}

void template_set_tokens_of(chat_template *t, const tokenizer *tok) {
    template_set_tokens(t, token_text(tok, tok_bos(tok)), token_text(tok, tok_eos(tok)));
}

/* ---- rendering ---- */

static json_t *messages_json(const chat_options *options) {
    json_t *array = json_array();
    for (uint32_t i = 0; i < options->count; i++) {
        json_t *message = json_object();
        json_object_set_new(message, "role", text_json(options->messages[i].role));
        json_object_set_new(message, "content", text_json(options->messages[i].content));
        json_array_append_new(array, message);
    }
    return array;
}

/* A further owner of a value that is only read, or null. */
static json_t *shared(const json_t *value) {
    return value ? json_incref((json_t *)(uintptr_t)value) : json_null();
}

static json_t *variables_json(const chat_options *o) {
    json_t *data = json_object();
    json_object_set_new(data, "documents", json_null());
    if (o->variables) json_object_update(data, (json_t *)(uintptr_t)o->variables);
    json_object_set_new(data, "messages", o->json ? shared(o->json) : messages_json(o));
    json_object_set_new(data, "tools", shared(o->tools));
    json_object_set_new(data, "add_generation_prompt", json_boolean(o->add_generation_prompt));
    return data;
}

static int64_t clock_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static esp_code check_options(const chat_options *o, esp_error *err) {
    if (o->json && !json_is_array(o->json))
        return esp_fail_field(err, ESP_INVALID, "messages", "messages: no array of messages");
    if (o->tools && !json_is_array(o->tools))
        return esp_fail_field(err, ESP_INVALID, "tools", "tools: no array of JSON schemas");
    if (o->variables && !json_is_object(o->variables))
        return esp_fail_field(err, ESP_INVALID, "variables", "variables: no JSON object");
    size_t count = o->json ? json_array_size(o->json) : o->count;
    if (count > CHAT_MESSAGES_MAX)
        return esp_fail_field(err, ESP_INVALID, "messages", "%zu messages; at most %d are taken",
                              count, CHAT_MESSAGES_MAX);
    return ESP_OK;
}

esp_code template_render_full(const chat_template *t, const chat_options *o, chat_prompt *out,
                              esp_error *err) {
    ESP_ASSERT(t && o && out && (o->messages || o->count == 0 || o->json));
    *out = (chat_prompt){0};
    esp_code code = check_options(o, err);
    if (code != ESP_OK) return code;
    json_t *data = variables_json(o);
    jinja_output made = {0};
    jinja_input in = {.data = data, .own = t->own, .now_us = o->now_us ? o->now_us : clock_us()};
    code = jinja_render(o->tools && t->tool_use ? t->tool_use : t->jinja, &in, &made, err);
    json_decref(data);
    if (code != ESP_OK) name_field(err, "messages");
    *out = (chat_prompt){made.text, made.bytes, made.plain, made.plain_count};
    return code;
}

esp_code template_render(const chat_template *t, const chat_message *messages, uint32_t count,
                         bool add_generation_prompt, chat_prompt *out, esp_error *err) {
    chat_options options = {
        .messages = messages, .count = count, .add_generation_prompt = add_generation_prompt};
    return template_render_full(t, &options, out, err);
}

void chat_prompt_free(chat_prompt *prompt) {
    free(prompt->text);
    free(prompt->plain);
    *prompt = (chat_prompt){0};
}
