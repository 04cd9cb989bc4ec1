/* jinja.c - opens and renders templates, and ends those that fail. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/jinja/jinja.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/check.h"
#include "engine/text/jinja/jinja_node.h"
#include "engine/text/utf8.h"

/* ---- failing ---- */

static _Noreturn void fail_with(jrun *run, const char *message, size_t bytes) {
    if (bytes >= ESP_MESSAGE_MAX) bytes = ESP_MESSAGE_MAX - 1;
    bytes = utf8_whole_prefix(message, bytes); /* never half a character */
    esp_fail(run->err, ESP_INVALID, "%.*s", (int)bytes, message);
    longjmp(run->failed, 1);
}

_Noreturn void jinja_fail(jrun *run, const char *format, ...) {
    char message[ESP_MESSAGE_MAX + 8];
    int used = snprintf(message, sizeof message, "chat template, line %u: ", run->line);
    va_list args;
    va_start(args, format);
    vsnprintf(message + used, sizeof message - (size_t)used, format, args);
    va_end(args);
    fail_with(run, message, strlen(message));
}

_Noreturn void jinja_raise(jrun *run, const jtext *message) {
    fail_with(run, message->at, message->bytes);
}

_Noreturn void jinja_fail_output(jrun *run) {
    esp_fail_field(run->err, ESP_INVALID, "messages",
                   "the messages make a prompt of more than %d bytes; send fewer or shorter ones",
                   JINJA_OUTPUT_BYTES_MAX);
    longjmp(run->failed, 1);
}

_Noreturn void jinja_fail_undefined(jrun *run, const jundefined *u) {
    if (u->hint) jinja_fail(run, "%s", u->hint);
    const char *name = jinja_repr_chars(run, u->name);
    if (u->object.kind == J_MISSING) jinja_fail(run, "%s is undefined", name);
    const char *object = jvalue_object(u->object);
    if (u->name.kind != J_STRING) jinja_fail(run, "%s has no element %s", object, name);
    jinja_fail(run, "'%s' has no attribute %s", object, name);
}

/* ---- limits ---- */

void *jinja_take(jrun *run, uint64_t count, size_t size) {
    uint64_t bytes;
    void *memory = check_mul(count, size, &bytes) ? mem_arena_take(run->arena, bytes) : NULL;
    if (!memory) jinja_fail(run, "%s", run->limit_sentence);
    return memory;
}

void jinja_charge(jrun *run, uint64_t steps) {
    if (steps > run->steps_left)
        jinja_fail(run, "the template takes more than %d steps", JINJA_STEPS_MAX);
    run->steps_left -= steps;
}

void jinja_enter(jrun *run) {
    if (++run->depth > JINJA_DEPTH_MAX)
        jinja_fail(run, "more than %d calls or values inside each other", JINJA_DEPTH_MAX);
}

/* ---- open ---- */

/* Apart, so that no local variable lives across the jump. */
static esp_code compile(jrun *run, jinja_template *t, const char *source, size_t bytes) {
    if (setjmp(run->failed)) return ESP_INVALID;
    jtokens tokens = {0};
    jinja_lex(run, source, bytes, &tokens);
    jinja_parse(run, &tokens, &t->body);
    return ESP_OK;
}

esp_code jinja_open(jinja_template **out, const char *source, size_t bytes, esp_error *err) {
    ESP_ASSERT(out && (source || bytes == 0));
    *out = NULL;
    if (bytes > JINJA_SOURCE_BYTES_MAX)
        return esp_fail(err, ESP_INVALID, "the chat template has %zu bytes; at most %d are taken",
                        bytes, JINJA_SOURCE_BYTES_MAX);
    jinja_template *t = mem_new(1, sizeof *t);
    t->arena = mem_arena_open(JINJA_COMPILED_BYTES_MAX);
    jrun run = {.err = err,
                .arena = t->arena,
                .limit_sentence = "the template's parsed form takes more than 64 MiB",
                .steps_left = UINT64_MAX};
    static_assert(JINJA_COMPILED_BYTES_MAX == 64 << 20, "the sentence above says so");
    esp_code code = compile(&run, t, source ? source : "", bytes);
    if (code == ESP_OK)
        *out = t;
    else
        jinja_close(t);
    return code;
}

void jinja_close(jinja_template *t) {
    if (!t) return;
    mem_arena_close(t->arena);
    free(t);
}

/* ---- render ---- */

static void add_variables(jrun *run, const json_t *json, bool plain) {
    if (!json) return;
    jvalue all = jvalue_from_json(run, json, plain);
    if (all.kind != J_DICT) jinja_fail(run, "the data of a template is no JSON object");
    for (uint32_t i = 0; i < all.dict->count; i++)
        jscope_set(run, run->scope, all.dict->at[i].key.text, all.dict->at[i].value);
}

/* Spans that touch become one. */
static uint32_t copy_spans(const jbuffer *from, tok_span *to) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < from->plain_count; i++) {
        jspan span = from->plain[i];
        if (count && to[count - 1].end == span.begin)
            to[count - 1].end = span.end;
        else
            to[count++] = (tok_span){span.begin, span.end};
    }
    return count;
}

static void hand_out(const jbuffer *from, jinja_output *out) {
    out->text = mem_copy_text(from->at, from->bytes);
    out->bytes = from->bytes;
    out->plain = mem_new((size_t)from->plain_count + 1, sizeof *out->plain);
    out->plain_count = copy_spans(from, out->plain);
}

static esp_code run_template(jrun *run, const jinja_template *t, const jinja_input *in,
                             jinja_output *out) {
    if (setjmp(run->failed)) return ESP_INVALID;
    run->scope = jinja_take(run, 1, sizeof *run->scope);
    run->out = jbuffer_new(run);
    add_variables(run, in->data, true);
    add_variables(run, in->own, false);
    jinja_run_body(run, &t->body);
    hand_out(run->out, out);
    return ESP_OK;
}

esp_code jinja_render(const jinja_template *t, const jinja_input *in, jinja_output *out,
                      esp_error *err) {
    ESP_ASSERT(t && in && out);
    *out = (jinja_output){0};
    jrun run = {.err = err,
                .arena = mem_arena_open(JINJA_VALUE_BYTES_MAX),
                .limit_sentence = "the template's values take more than 256 MiB",
                .steps_left = JINJA_STEPS_MAX,
                .now_us = in->now_us};
    static_assert(JINJA_VALUE_BYTES_MAX == 256 << 20, "the sentence above says so");
    esp_code code = run_template(&run, t, in, out);
    mem_arena_close(run.arena);
    return code;
}

void jinja_output_free(jinja_output *out) {
    if (!out) return;
    free(out->text);
    free(out->plain);
    *out = (jinja_output){0};
}
