/* test_embed_text.c - texts to embed as tokens: the rule's own at both ends, the cut in front of the
 * last. With the tokenizers of the tiny models in tests/vectors/encoders. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <string.h>

#include <cmocka.h>

#include "engine/embed_text.h"
#include "engine/model/model.h"

#define ENCODERS TEST_SOURCE_DIR "/tests/vectors/encoders/"
enum { CLS = 2, SEP = 3, HELLO = 88, CAT = 84, END_OF_TEXT = 256 };

static tokenizer *open_tokenizer(const char *path) {
    model_file *file;
    tokenizer *tok;
    esp_error err = {0};
    if (model_file_open(&file, path, &err)) fail_msg("%s", err.message);
    assert_int_equal(model_file_tokenizer(file, &tok, &err), ESP_OK);
    model_file_close(file);
    return tok;
}

static esp_code encode(const tokenizer *tok, const char *text, uint32_t most, bool truncate,
                       tok_ids *out, esp_error *err) {
    const embed_text_options options = {
        .tokens_max = most, .truncate = truncate, .field = "--text", .remedy = "--truncate"};
    return embed_text_encode(tok, (tok_text){text, strlen(text)}, &options, out, err);
}

static void expect(const tokenizer *tok, const char *text, uint32_t most, const int32_t *ids,
                   uint32_t count) {
    tok_ids seen = {0};
    esp_error err = {0};
    if (encode(tok, text, most, true, &seen, &err)) fail_msg("%s", err.message);
    assert_int_equal(seen.count, count);
    assert_memory_equal(seen.at, ids, count * sizeof *ids);
    tok_ids_free(&seen);
}

static void a_cut_keeps_the_closing_token(void **state) {
    (void)state;
    tokenizer *bert = open_tokenizer(ENCODERS "bert.gguf");
    expect(bert, "hello cat cat", 5, (int32_t[]){CLS, HELLO, CAT, CAT, SEP}, 5);
    expect(bert, "hello cat cat", 4, (int32_t[]){CLS, HELLO, CAT, SEP}, 4);
    expect(bert, "hello cat cat", 2, (int32_t[]){CLS, SEP}, 2);
    expect(bert, "hello cat cat", 1, (int32_t[]){SEP}, 1);
    tok_close(bert);
    tokenizer *qwen3 = open_tokenizer(ENCODERS "qwen3-folder");
    expect(qwen3, "abc", 4, (int32_t[]){'a', 'b', 'c', END_OF_TEXT}, 4);
    expect(qwen3, "abc", 3, (int32_t[]){'a', 'b', END_OF_TEXT}, 3);
    tok_close(qwen3);
}

/* The text of a special token is text; only the rule writes the token. */
static void special_text_is_plain_text(void **state) {
    (void)state;
    tokenizer *bert = open_tokenizer(ENCODERS "bert.gguf");
    tok_ids ids = {0};
    assert_int_equal(encode(bert, "cat [SEP] cat", 64, false, &ids, NULL), ESP_OK);
    uint32_t ends = 0;
    for (uint32_t i = 0; i < ids.count; i++)
        ends += ids.at[i] == SEP;
    assert_int_equal(ends, 1);
    tok_ids_free(&ids);
    tok_close(bert);
}

static void a_long_text_is_refused_with_its_count(void **state) {
    (void)state;
    tokenizer *bert = open_tokenizer(ENCODERS "bert.gguf");
    tok_ids ids = {0};
    esp_error err = {0};
    assert_int_equal(encode(bert, "hello cat cat", 4, false, &ids, &err), ESP_INVALID);
    assert_string_equal(err.field, "--text");
    assert_non_null(strstr(err.message, "5 tokens; the model takes at most 4"));
    assert_non_null(strstr(err.message, "--truncate"));
    tok_ids_free(&ids);
    tok_close(bert);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cut_keeps_the_closing_token),
        cmocka_unit_test(special_text_is_plain_text),
        cmocka_unit_test(a_long_text_is_refused_with_its_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
