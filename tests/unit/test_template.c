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

/* One character changed anywhere makes another template: each such one is refused, except inside
 * the sentence that the template itself supplies and at a newline's spelling. */
static void a_changed_template_is_refused(void **state) {
    (void)state;
    char source[] = PLAIN_CHATML;
    for (size_t i = 0; i < sizeof source - 1; i++) {
        chat_template *t = NULL;
        esp_error err = {0};
        source[i] ^= 1;
        assert_int_equal(template_open(&t, source, sizeof source - 1, &err), ESP_UNIMPLEMENTED);
        assert_null(t);
        assert_non_null(strstr(err.message, "prompt text or token ids"));
        source[i] ^= 1;
    }
    template_close(open_template(text_of(source)));
}

/* A sentence that Jinja would not take as it stands is not read as one. */
static void a_sentence_with_syntax_is_refused(void **state) {
    (void)state;
    static const char *const sentences[] = {"it's", "a' + x + 'b", "tab\\t", "{{ x }}",
                                            "two\nlines"};
    for (size_t i = 0; i < sizeof sentences / sizeof *sentences; i++) {
        char source[1024];
        chat_template *t = NULL;
        snprintf(
            source, sizeof source,
            "{%% for message in messages %%}{%% if loop.first and messages[0]['role'] != 'system' "
            "%%}{{ '<|im_start|>system\n%s<|im_end|>\n' }}{%% endif %%}%s",
            sentences[i], strstr(PLAIN_CHATML, "{{'<|im_start|>'"));
        assert_int_equal(template_open(&t, source, strlen(source), NULL), ESP_UNIMPLEMENTED);
    }
}

static void empty_and_foreign_templates_are_refused(void **state) {
    (void)state;
    chat_template *t = NULL;
    assert_int_equal(template_open(&t, NULL, 0, NULL), ESP_UNIMPLEMENTED);
    assert_int_equal(template_open(&t, "{{ messages }}", 14, NULL), ESP_UNIMPLEMENTED);
    assert_int_equal(template_open(&t, "\\", 1, NULL), ESP_UNIMPLEMENTED);
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
        cmocka_unit_test(a_changed_template_is_refused),
        cmocka_unit_test(a_sentence_with_syntax_is_refused),
        cmocka_unit_test(empty_and_foreign_templates_are_refused),
        cmocka_unit_test(limits_are_exact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
