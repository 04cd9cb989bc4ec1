/* test_added_tokens.c - the tokens that an adapter's folder adds to its base's tokenizer: found in text, shown, told
 * apart from a client's text, and refused where they are not those that the base's tables go on with. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/model/model.h"
#include "engine/model/tokens/added_tokens.h"
#include "tests/unit/tiny_vocab.h"

enum {
    FIRST = 258,
    ROWS = 264
}; /* 256 bytes and two special tokens; rows of the adapter's tables */

static tokenizer *base;
static char folder[] = "/tmp/espalier-added-XXXXXX";

static int open_base(void **state) {
    (void)state;
    tiny_vocab *tiny = tiny_new("gpt-2");
    tiny_special(tiny, "<|end|>", TOK_CONTROL);
    tiny_special(tiny, "<user>", TOK_USER_DEFINED);
    tiny->source.eos = 256;
    esp_code code = tok_open(&base, &tiny->source, NULL);
    free(tiny);
    return code == ESP_OK && mkdtemp(folder) ? 0 : -1;
}

static int close_base(void **state) {
    (void)state;
    tok_close(base);
    return rmdir(folder);
}

static void put_file(const char *name, const char *text) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
    fclose(file);
}

static void drop_files(void) {
    static const char *const names[] = {"tokenizer.json", "added_tokens.json",
                                        "tokenizer_config.json"};
    char path[128];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
}

/* Of a folder with this list of added_tokens in its tokenizer.json. */
static esp_code open_list(const char *list, tokenizer **out, esp_error *err) {
    char text[4096];
    bool says = false;
    snprintf(text, sizeof text, "{\"added_tokens\":[%s]}", list);
    put_file("tokenizer.json", text);
    esp_code code = added_tokens_open(out, folder, base, ROWS, true, &says, err);
    assert_true(says);
    return code;
}

static tokenizer *open_good(const char *list) {
    tokenizer *tok = NULL;
    esp_error err = {0};
    if (open_list(list, &tok, &err) != ESP_OK) fail_msg("%s", err.message);
    return tok;
}

#define MARK "{\"id\":258,\"content\":\"<|mark|>\",\"special\":true}"
#define WORD "{\"id\":259,\"content\":\"IBAN\",\"lstrip\":true}"
#define END "{\"id\":260,\"content\":\"<|im_end|>\",\"special\":true}"
#define KNOWN "{\"id\":256,\"content\":\"<|end|>\",\"special\":true}"

static void assert_ids(const tokenizer *tok, const char *text, bool special, const int32_t *wanted,
                       uint32_t count) {
    tok_ids ids = {0};
    tok_encode_options how = {.parse_special = special};
    assert_int_equal(tok_encode(tok, text, strlen(text), &how, &ids, NULL), ESP_OK);
    assert_int_equal(ids.count, count);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(ids.at[i], wanted[i]);
    tok_ids_free(&ids);
}

static void tokens_are_found_in_text_and_shown(void **state) {
    (void)state;
    tokenizer *tok = open_good(KNOWN "," MARK "," WORD);
    assert_int_equal(tok_count(tok), FIRST + 2);
    assert_int_equal(tok_find(tok, "<|mark|>"), FIRST);
    assert_ids(tok, "a<|mark|>b", true, (int32_t[]){'a', FIRST, 'b'}, 3);
    assert_ids(tok, "a<|end|>b", true, (int32_t[]){'a', 256, 'b'}, 3);
    /* no client writes a control token; a word is the model's own, with the space before it */
    assert_ids(tok, "<|m", false, (int32_t[]){'<', '|', 'm'}, 3);
    assert_ids(tok, "x IBAN.", false, (int32_t[]){'x', FIRST + 1, '.'}, 3);
    assert_ids(tok, "<user>IBAN", false, (int32_t[]){257, FIRST + 1}, 2);
    char out[TOK_PIECE_MAX];
    tok_stream stream = {0};
    assert_int_equal(tok_stream_next(tok, &stream, FIRST + 1, false, out), 4);
    assert_memory_equal(out, "IBAN", 4);
    assert_int_equal(tok_stream_next(tok, &stream, FIRST, false, out), 0);
    assert_int_equal(tok_stream_next(tok, &stream, FIRST, true, out), 8);
    assert_int_equal(tok_stream_next(tok, &stream, FIRST + 2, true, out),
                     0); /* a row without a token */
    assert_true(tok_is_control(tok, FIRST) && !tok_is_control(tok, FIRST + 1));
    tok_close(tok);
    drop_files();
}

/* The base goes on as before, whoever has added to it. */
static void the_base_knows_nothing_of_them(void **state) {
    (void)state;
    tokenizer *tok = open_good(MARK);
    assert_int_equal(tok_find(base, "<|mark|>"), -1);
    assert_int_equal(tok_count(base), FIRST);
    assert_ids(base, "<|m", true, (int32_t[]){'<', '|', 'm'}, 3);
    tok_close(tok);
    assert_ids(base, "<|end|>", true, (int32_t[]){256}, 1);
    drop_files();
}

static void an_end_may_be_among_them(void **state) {
    (void)state;
    put_file("tokenizer_config.json", "{\"eos_token\":{\"content\":\"<|mark|>\"}}");
    tokenizer *tok = open_good(MARK "," WORD "," END);
    assert_true(tok_ends_generation(tok, FIRST));     /* the config's */
    assert_true(tok_ends_generation(tok, FIRST + 2)); /* a chat format's */
    assert_true(tok_ends_generation(tok, 256));       /* the base's */
    assert_false(tok_ends_generation(tok, FIRST + 1));
    assert_false(tok_ends_generation(base, FIRST));
    tok_close(tok);
    drop_files();
}

static void a_map_of_tokens_is_read_with_the_rules_of_the_config(void **state) {
    (void)state;
    tokenizer *tok = NULL;
    bool says;
    put_file("added_tokens.json", "{\"IBAN\": 259, \"[mark]\": 258}");
    put_file("tokenizer_config.json",
             "{\"added_tokens_decoder\":{\"258\":{\"content\":\"[mark]\",\"special\":true},"
             "\"259\":{\"content\":\"IBAN\",\"special\":false}}}");
    assert_int_equal(added_tokens_open(&tok, folder, base, ROWS, true, &says, NULL), ESP_OK);
    assert_true(says);
    assert_true(tok_is_control(tok, 258) && !tok_is_control(tok, 259));
    assert_ids(tok, "[mark]IBAN", false, (int32_t[]){'[', 'm', 'a', 'r', 'k', ']', 259}, 7);
    tok_close(tok);
    drop_files();
}

static void a_folder_that_adds_none_leaves_the_base_as_it_is(void **state) {
    (void)state;
    tokenizer *tok = NULL;
    bool says = true;
    assert_int_equal(added_tokens_open(&tok, folder, base, ROWS, true, &says, NULL), ESP_OK);
    assert_false(says);
    assert_null(tok);
    assert_null(open_good(KNOWN));
    put_file("tokenizer.json", "{\"model\":{}}");
    put_file("added_tokens.json", "no JSON, and not looked at beside the other");
    assert_int_equal(added_tokens_open(&tok, folder, base, ROWS, true, &says, NULL), ESP_OK);
    assert_true(says);
    assert_null(tok);
    drop_files();
}

/* A tokenizer may list more than was trained: tables that have not grown have no row for them. */
static void a_token_without_a_row_is_left_out_where_tables_have_not_grown(void **state) {
    (void)state;
    tokenizer *tok = NULL;
    bool says;
    put_file("tokenizer.json", "{\"added_tokens\":[" MARK "," WORD "]}");
    assert_int_equal(added_tokens_open(&tok, folder, base, FIRST + 1, false, &says, NULL), ESP_OK);
    assert_int_equal(tok_count(tok), FIRST + 1);
    assert_int_equal(tok_find(tok, "IBAN"), -1);
    tok_close(tok);
    tok = NULL;
    assert_int_equal(added_tokens_open(&tok, folder, base, FIRST, false, &says, NULL), ESP_OK);
    assert_null(tok);
    assert_int_equal(added_tokens_open(&tok, folder, base, FIRST + 1, true, &says, NULL),
                     ESP_INVALID);
    assert_null(tok);
    drop_files();
}

/* Whoever shares a tokenizer keeps it. */
static void a_shared_one_lives_on(void **state) {
    (void)state;
    tokenizer *tok = open_good(MARK), *shared = tok_share(tok);
    tok_close(tok);
    assert_int_equal(tok_find(shared, "<|mark|>"), FIRST);
    tok_close(shared);
    assert_null(tok_share(NULL));
    drop_files();
}

static void tokens_that_cannot_be_are_refused(void **state) {
    (void)state;
    char longest[400];
    snprintf(longest, sizeof longest, "{\"id\":258,\"content\":\"%0300d\"}", 7);
    const struct {
        const char *list, *wanted;
        esp_code code;
    } cases[] = {
        {"{\"id\":260,\"content\":\"a gap\"}", "\"a gap\" the id 260; wanted 258", ESP_INVALID},
        {WORD "," MARK, "\"IBAN\" the id 259; wanted 258", ESP_INVALID},
        {MARK "," MARK, "the id 258; wanted 259", ESP_INVALID},
        {MARK ",{\"id\":259,\"content\":\"<|mark|>\"}", "is added twice", ESP_INVALID},
        {"{\"id\":258,\"content\":\"<|end|>\"}", "is token 256 of the base already", ESP_INVALID},
        {"{\"id\":258,\"content\":\"a\"}", "is token 97 of the base already", ESP_INVALID},
        {"{\"id\":256,\"content\":\"<|other|>\"}", "another token of the base", ESP_INVALID},
        {"{\"id\":-1,\"content\":\"x y\"}", "no id", ESP_INVALID},
        {"{\"id\":\"258\",\"content\":\"x y\"}", "no id", ESP_INVALID},
        {"{\"id\":258}", "entry 0 has no text", ESP_INVALID},
        {"7", "entry 0 has no text", ESP_INVALID},
        {"{\"id\":258,\"content\":\"x y\",\"special\":7}", "neither true nor false", ESP_INVALID},
        {"{\"id\":258,\"content\":\"x\\u0000y\"}", "tokenizer.json", ESP_INVALID},
        {longest, "has 300 bytes; wanted 1 to 256", ESP_INVALID},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tokenizer *tok = NULL;
        esp_error err = {0};
        esp_code code = open_list(cases[i].list, &tok, &err);
        if (code != cases[i].code || tok || !strstr(err.message, cases[i].wanted))
            fail_msg("%s: wanted \"%s\": %d, %s", cases[i].list, cases[i].wanted, code,
                     err.message);
    }
    drop_files();
}

/* Six rows are left behind the base's tokens. */
static void more_tokens_than_rows_are_refused(void **state) {
    (void)state;
    char list[1024] = "";
    tokenizer *tok = NULL;
    esp_error err = {0};
    for (int id = FIRST; id <= ROWS; id++)
        snprintf(list + strlen(list), sizeof list - strlen(list),
                 "%s{\"id\":%d,\"content\":\"w%d \"}", id > FIRST ? "," : "", id, id);
    assert_int_equal(open_list(list, &tok, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "the id 264, and the adapter's tables have 264 rows"));
    drop_files();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_are_found_in_text_and_shown),
        cmocka_unit_test(the_base_knows_nothing_of_them),
        cmocka_unit_test(an_end_may_be_among_them),
        cmocka_unit_test(a_map_of_tokens_is_read_with_the_rules_of_the_config),
        cmocka_unit_test(a_folder_that_adds_none_leaves_the_base_as_it_is),
        cmocka_unit_test(a_token_without_a_row_is_left_out_where_tables_have_not_grown),
        cmocka_unit_test(a_shared_one_lives_on),
        cmocka_unit_test(tokens_that_cannot_be_are_refused),
        cmocka_unit_test(more_tokens_than_rows_are_refused),
    };
    return cmocka_run_group_tests(tests, open_base, close_base);
}
