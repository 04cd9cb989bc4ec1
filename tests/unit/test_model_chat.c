/* test_model_chat.c - the templates of a GGUF file: one, two by name, or none. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/text/template.h"
#include "tests/unit/gguf_builder.h"

typedef struct opened {
    char *bytes;
    model_file *file;
    tokenizer *tok;
} opened;

/* The tiny model, with its own template and the given one for tools, if any. */
static opened open_tiny(const char *tool_use) {
    gb_tiny t = {.o = gb_tiny_defaults(NULL)};
    opened o;
    size_t bytes;
    esp_error err = {0};
    gb_tiny_metadata(&t.b, &t.o, NULL);
    gb_tiny_tokenizer(&t.b);
    gb_text(&t.b, "tokenizer.chat_template.rag", "never used");
    if (tool_use) gb_text(&t.b, "tokenizer.chat_template.tool_use", tool_use);
    gb_tiny_tensors(&t);
    o.bytes = gb_finish(&t.b, &bytes);
    if (model_file_open_memory(&o.file, o.bytes, bytes, "m.gguf", &err))
        fail_msg("%s", err.message);
    assert_int_equal(model_file_tokenizer(o.file, &o.tok, NULL), ESP_OK);
    return o;
}

static void close_tiny(opened *o) {
    tok_close(o->tok);
    model_file_close(o->file);
    free(o->bytes);
}

static void check_with_tools(const char *tool_use, const char *wanted) {
    opened o = open_tiny(tool_use);
    chat_template *t = NULL;
    esp_error err = {0};
    if (model_file_chat(o.file, o.tok, &t, &err)) fail_msg("%s", err.message);
    json_t *messages = json_pack("[{s:s,s:s}]", "role", "system", "content", "x");
    json_t *tools = json_array();
    chat_options options = {.json = messages, .tools = tools};
    chat_prompt prompt;
    assert_int_equal(template_render_full(t, &options, &prompt, NULL), ESP_OK);
    assert_string_equal(prompt.text, wanted);
    chat_prompt_free(&prompt);
    json_decref(messages);
    json_decref(tools);
    template_close(t);
    close_tiny(&o);
}

static void a_template_named_tool_use_is_for_tools(void **state) {
    (void)state;
    check_with_tools("with tools", "with tools");
    check_with_tools("{{ eos_token }}", "<|im_end|>");
    check_with_tools(NULL, "<|im_start|>system\nx<|im_end|>\n");
}

/* The model still opens: all but chat works. */
static void a_template_for_tools_that_is_none_is_told(void **state) {
    (void)state;
    opened o = open_tiny("{% for %}");
    chat_template *t = NULL;
    esp_error err = {0};
    assert_int_equal(model_file_chat(o.file, o.tok, &t, &err), ESP_INVALID);
    assert_null(t);
    assert_non_null(strstr(err.message, "line 1"));
    close_tiny(&o);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_template_named_tool_use_is_for_tools),
        cmocka_unit_test(a_template_for_tools_that_is_none_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
