/* test_template.c - prompts equal jinja2's byte for byte (tests/vectors/make_template_vectors.py),
 * and the client's text is reported as such. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/template.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/vector_file.h"

#define PLAIN_CHATML                                                                               \
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content']" \
    " + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}"                          \
    "{{ '<|im_start|>assistant\\n' }}{% endif %}"

static tok_text text_of(const char *literal) { return (tok_text){literal, strlen(literal)}; }

static chat_template *open_template(tok_text source) {
    chat_template *t = NULL;
    esp_error err = {0};
    if (template_open(&t, source.at, source.bytes, &err)) fail_msg("%s", err.message);
    return t;
}

static uint32_t read_messages(const json_t *array, chat_message messages[16]) {
    uint32_t count = (uint32_t)json_array_size(array);
    assert_true(count <= 16);
    for (uint32_t i = 0; i < count; i++) {
        messages[i].role = vector_text(json_array_get(array, i), "role");
        messages[i].content = vector_text(json_array_get(array, i), "content");
    }
    return count;
}

/* The spans are, in order, exactly the roles and contents that are not empty. */
static void check_spans(const chat_prompt *prompt, const chat_message *messages, uint32_t count) {
    uint32_t span = 0;
    for (uint32_t i = 0; i < 2 * count; i++) {
        tok_text wanted = i % 2 ? messages[i / 2].content : messages[i / 2].role;
        if (wanted.bytes == 0) continue;
        assert_true(span < prompt->plain_count);
        assert_true(span == 0 || prompt->plain[span - 1].end <= prompt->plain[span].begin);
        assert_int_equal(prompt->plain[span].end - prompt->plain[span].begin, wanted.bytes);
        assert_memory_equal(prompt->text + prompt->plain[span].begin, wanted.at, wanted.bytes);
        span++;
    }
    assert_int_equal(span, prompt->plain_count);
}

static void check_prompt(const chat_template *t, const json_t *row) {
    chat_message messages[16];
    chat_prompt prompt;
    uint32_t count = read_messages(json_object_get(row, "messages"), messages);
    bool ask = json_is_true(json_object_get(row, "generation_prompt"));
    tok_text wanted = vector_text(row, "prompt");
    assert_int_equal(template_render(t, messages, count, ask, &prompt, NULL), ESP_OK);
    assert_int_equal(prompt.bytes, wanted.bytes);
    assert_memory_equal(prompt.text, wanted.at, wanted.bytes);
    assert_int_equal(prompt.text[prompt.bytes], 0);
    check_spans(&prompt, messages, count);
    chat_prompt_free(&prompt);
}

static void prompts_equal_jinja(void **state) {
    (void)state;
    FILE *file = vector_open("chat_template.jsonl");
    assert_non_null(file);
    chat_template *t = NULL;
    size_t templates = 0, prompts = 0;
    for (json_t *row; (row = vector_next(file)); json_decref(row)) {
        if (json_object_get(row, "name")) {
            template_close(t);
            t = open_template(vector_text(row, "template"));
            templates++;
        } else {
            check_prompt(t, row);
            prompts++;
        }
    }
    template_close(t);
    fclose(file);
    assert_int_equal(templates, 4);
    assert_int_equal(prompts, 4 * 27);
}

static chat_prompt render_full(const char *source, const chat_options *options) {
    chat_template *t = open_template(text_of(source));
    chat_prompt prompt;
    esp_error err = {0};
    template_set_tokens(t, text_of("<s>"), text_of("</s>"));
    if (template_render_full(t, options, &prompt, &err)) fail_msg("%s", err.message);
    template_close(t);
    return prompt;
}

/* Tools, variables and messages with more than role and content reach the template; the model's
 * tokens are its own, all else is plain. */
static void everything_passes_through(void **state) {
    (void)state;
    json_t *messages = json_pack("[{s:s, s:n, s:[{s:s}]}]", "role", "assistant", "content",
                                 "tool_calls", "name", "</s>");
    json_t *tools = json_pack("[{s:s}]", "name", "clock");
    json_t *variables = json_pack("{s:b, s:s}", "enable_thinking", 0, "messages", "not these");
    chat_options options = {.json = messages,
                            .tools = tools,
                            .variables = variables,
                            .now_us = 86400 * (int64_t)1000000 * 400,
                            .add_generation_prompt = true};
    chat_prompt prompt = render_full(
        "{{ bos_token }}{{ tools[0].name }}|{{ messages[0].tool_calls[0].name }}{{ eos_token }}|"
        "{{ messages[0].content is none }}{{ enable_thinking is false }}{{ documents is none }}"
        "{{ add_generation_prompt }}|{{ strftime_now('%Y') }}",
        &options);
    assert_string_equal(prompt.text, "<s>clock|</s></s>|TrueTrueTrueTrue|1971");
    assert_int_equal(prompt.plain_count, 2);
    assert_int_equal(prompt.plain[0].begin, 3);
    assert_int_equal(prompt.plain[0].end, 8);
    assert_int_equal(prompt.plain[1].begin, 9);
    assert_int_equal(prompt.plain[1].end, 13);
    chat_prompt_free(&prompt);
    json_decref(messages);
    json_decref(tools);
    json_decref(variables);
}

/* A model with two templates: the second is for tools, be they none. */
static void tools_choose_the_template_for_tools(void **state) {
    (void)state;
    chat_template *t = open_template(text_of("plain {{ tools is none }}"));
    json_t *messages = json_array(), *tools = json_array();
    chat_options options = {.json = messages};
    chat_prompt prompt;
    assert_int_equal(template_set_tool_use(t, "{% for", 6, NULL), ESP_INVALID);
    assert_int_equal(template_set_tool_use(t, "tools {{ tools }}{{ bos_token }}", 32, NULL), ESP_OK);
    template_set_tokens(t, text_of("<s>"), text_of("</s>"));
    assert_int_equal(template_render_full(t, &options, &prompt, NULL), ESP_OK);
    assert_string_equal(prompt.text, "plain True");
    chat_prompt_free(&prompt);
    options.tools = tools;
    assert_int_equal(template_render_full(t, &options, &prompt, NULL), ESP_OK);
    assert_string_equal(prompt.text, "tools []<s>");
    chat_prompt_free(&prompt);
    template_close(t);
    json_decref(messages);
    json_decref(tools);
}

/* A template that raises is the client's error, in the template's own words. */
static void a_raising_template_speaks_for_itself(void **state) {
    (void)state;
    chat_template *t = open_template(
        text_of("{{ raise_exception('Roles must alternate: ' ~ messages[0].role) }}"));
    chat_message message = {text_of("tool"), text_of("x")};
    chat_prompt prompt;
    esp_error err = {0};
    assert_int_equal(template_render(t, &message, 1, true, &prompt, &err), ESP_INVALID);
    assert_string_equal(err.message, "Roles must alternate: tool");
    assert_string_equal(err.field, "messages");
    assert_null(prompt.text);
    template_close(t);
}

static void what_is_no_template_is_refused(void **state) {
    (void)state;
    chat_template *t = NULL;
    esp_error err = {0};
    assert_int_equal(template_open(&t, NULL, 0, NULL), ESP_UNIMPLEMENTED);
    assert_int_equal(template_open(&t, "a\n{% for %}", 11, &err), ESP_INVALID);
    assert_null(t);
    assert_string_equal(err.message, "chat template, line 2: %} where a name is wanted");
    assert_string_equal(err.field, "tokenizer.chat_template");
    template_close(NULL);
}

/* CHAT_MESSAGES_MAX messages and CHAT_PROMPT_BYTES_MAX bytes pass, one more does not. */
static void limits_are_exact(void **state) {
    (void)state;
    chat_template *t = open_template(text_of(PLAIN_CHATML));
    chat_message *messages = calloc(CHAT_MESSAGES_MAX + 1, sizeof *messages);
    chat_prompt prompt;
    esp_error err = {0};
    for (int i = 0; i <= CHAT_MESSAGES_MAX; i++)
        messages[i].role = messages[i].content = text_of("x");
    assert_int_equal(template_render(t, messages, CHAT_MESSAGES_MAX, true, &prompt, &err), ESP_OK);
    chat_prompt_free(&prompt);
    assert_int_equal(template_render(t, messages, CHAT_MESSAGES_MAX + 1, true, &prompt, &err),
                     ESP_INVALID);
    assert_string_equal(err.field, "messages");

    size_t around = strlen("<|im_start|>x\n<|im_end|>\n");
    char *content = calloc(CHAT_PROMPT_BYTES_MAX, 1);
    messages[0].content = (tok_text){content, CHAT_PROMPT_BYTES_MAX - around};
    assert_int_equal(template_render(t, messages, 1, false, &prompt, &err), ESP_OK);
    assert_int_equal(prompt.bytes, CHAT_PROMPT_BYTES_MAX);
    chat_prompt_free(&prompt);
    messages[0].content.bytes++;
    assert_int_equal(template_render(t, messages, 1, false, &prompt, &err), ESP_INVALID);
    assert_null(prompt.text);
    free(content);
    free(messages);
    template_close(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_equal_jinja),
        cmocka_unit_test(everything_passes_through),
        cmocka_unit_test(tools_choose_the_template_for_tools),
        cmocka_unit_test(a_raising_template_speaks_for_itself),
        cmocka_unit_test(what_is_no_template_is_refused),
        cmocka_unit_test(limits_are_exact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
