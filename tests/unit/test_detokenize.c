/* test_detokenize.c - streamed text is whole characters, wherever tokens end. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/text/utf8.h"
#include "tests/unit/tiny_vocab.h"

#define FFFD "\xef\xbf\xbd"

static tokenizer *bytes_and_specials;

static int open_bytes(void **state) {
    (void)state;
    tiny_vocab *tiny = tiny_new("gpt-2");
    tiny_merge(tiny, "\xc3\xa2 \xc4\xa4"); /* 256: e2 82 */
    tiny_special(tiny, "<|end|>", TOK_CONTROL);
    esp_code code = tok_open(&bytes_and_specials, &tiny->source, NULL);
    free(tiny);
    return code;
}

static int close_bytes(void **state) {
    (void)state;
    tok_close(bytes_and_specials);
    return 0;
}

/* Streams one token per byte; each piece must be well-formed by itself. */
static size_t stream_bytes(const char *text, size_t bytes, char *out) {
    tok_stream stream = {0};
    char piece[TOK_PIECE_MAX];
    size_t made = 0;
    for (size_t i = 0; i <= bytes; i++) {
        size_t count =
            i < bytes ? tok_stream_next(bytes_and_specials, &stream, (uint8_t)text[i], false, piece)
                      : tok_stream_end(&stream, piece);
        assert_true(count <= TOK_PIECE_MAX);
        assert_int_equal(utf8_whole_prefix(piece, count), count);
        memcpy(out + made, piece, count);
        made += count;
    }
    assert_int_equal(stream.held_count, 0);
    return made;
}

static void expect_stream(const char *text, size_t bytes, const char *wanted) {
    char out[256];
    size_t made = stream_bytes(text, bytes, out);
    assert_int_equal(made, strlen(wanted));
    assert_memory_equal(out, wanted, made);
}

/* Characters of one to four bytes come through unchanged, one byte a token. */
static void whole_characters_come_through(void **state) {
    (void)state;
    static const char text[] =
        "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80z\x7f\xed\x9f\xbf\xf4\x8f\xbf\xbf";
    expect_stream(text, sizeof text - 1, text);
}

/* The Unicode standard, section 3.9, table 3-8, and 5.22's practice: one U+FFFD for each maximal
 * subpart. */
static void broken_bytes_become_one_replacement_a_subpart(void **state) {
    (void)state;
    expect_stream("\x61\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64", 13,
                  "a" FFFD FFFD FFFD "b" FFFD "c" FFFD FFFD "d");
    expect_stream("\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", 9,
                  FFFD FFFD FFFD FFFD FFFD FFFD FFFD FFFD "A");
    expect_stream("\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", 9,
                  FFFD FFFD FFFD FFFD FFFD FFFD FFFD FFFD "A");
    expect_stream("\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", 9,
                  FFFD FFFD FFFD FFFD FFFD "A" FFFD FFFD "B");
    expect_stream("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", 9, FFFD FFFD FFFD FFFD "A");
}

/* A text that ends inside a character: what is held becomes one U+FFFD at the end. */
static void an_unfinished_end_is_one_replacement(void **state) {
    (void)state;
    expect_stream("x\xe2\x82", 3, "x" FFFD);
    expect_stream("\xf0\x9f\x98", 3, FFFD);
    expect_stream("", 0, "");
}

/* The character is held back until its last byte, and comes with it. */
static void nothing_is_sent_of_half_a_character(void **state) {
    (void)state;
    tok_stream stream = {0};
    char piece[TOK_PIECE_MAX];
    assert_int_equal(tok_stream_next(bytes_and_specials, &stream, 256, false, piece),
                     0); /* e2 82 */
    assert_int_equal(stream.held_count, 2);
    assert_int_equal(tok_stream_next(bytes_and_specials, &stream, 0xac, false, piece), 3);
    assert_memory_equal(piece, "\xe2\x82\xac", 3);
    assert_int_equal(stream.held_count, 0);
}

/* A hidden control token between two halves changes nothing; a shown one breaks the character. */
static void control_tokens_are_shown_on_demand(void **state) {
    (void)state;
    tok_stream stream = {0};
    char piece[TOK_PIECE_MAX];
    assert_int_equal(tok_stream_next(bytes_and_specials, &stream, 256, false, piece), 0);
    assert_int_equal(tok_stream_next(bytes_and_specials, &stream, 257, false, piece), 0);
    assert_int_equal(tok_stream_next(bytes_and_specials, &stream, 0xac, false, piece), 3);
    assert_int_equal(tok_stream_next(bytes_and_specials, &stream, 256, true, piece), 0);
    assert_int_equal(tok_stream_next(bytes_and_specials, &stream, 257, true, piece), 10);
    assert_memory_equal(piece, FFFD "<|end|>", 10);
}

static void ids_out_of_range_give_nothing(void **state) {
    (void)state;
    tok_stream stream = {0};
    char piece[TOK_PIECE_MAX];
    assert_int_equal(tok_stream_next(bytes_and_specials, &stream, -1, true, piece), 0);
    assert_int_equal(tok_stream_next(bytes_and_specials, &stream, 258, true, piece), 0);
}

/* The longest tokens that may be opened, of bytes that grow most, behind a held character: fits. */
static void the_longest_token_fits_a_piece(void **state) {
    (void)state;
    tiny_vocab *tiny = tiny_new("gpt-2");
    char broken[2 * 340], piece[TOK_PIECE_MAX];
    tok_stream stream = {0};
    tokenizer *tok;
    for (int i = 0; i < 340; i++)
        memcpy(broken + 2 * i, "\xc3\xbf", 2); /* byte ff, 340 times */
    tiny_add(tiny, broken, sizeof broken, TOK_NORMAL);
    assert_int_equal(tok_open(&tok, &tiny->source, NULL), ESP_OK);
    assert_int_equal(tok_stream_next(tok, &stream, 0xf0, false, piece), 0);
    assert_int_equal(tok_stream_next(tok, &stream, 0x9f, false, piece), 0);
    assert_int_equal(tok_stream_next(tok, &stream, 256, false, piece), 3 + 3 * 340);
    tok_close(tok);
    free(tiny);
}

/* Every split of a text into two tokens gives the same stream as the text in one piece. */
static void splits_do_not_matter(void **state) {
    (void)state;
    static const char text[] = "a\xf0\x9f\x98\x80\xe2\x82\xf0\x9f\x98"
                               "b\xc3\xa9\xff\xe2\x82\xac\xf4\x90";
    enum { BYTES = sizeof text - 1 };
    char whole[256], out[256 + TOK_PIECE_MAX], piece[TOK_PIECE_MAX];
    size_t whole_bytes = stream_bytes(text, BYTES, whole);
    for (size_t cut = 1; cut < BYTES; cut++) {
        tiny_vocab *tiny = tiny_new("gpt-2");
        char parts[2][2 * BYTES];
        size_t bytes[2] = {0, 0}, made = 0;
        for (size_t i = 0; i < BYTES; i++)
            bytes[i >= cut] += byte_alphabet((uint8_t)text[i], parts[i >= cut] + bytes[i >= cut]);
        tiny_add(tiny, parts[0], bytes[0], TOK_NORMAL);
        tiny_add(tiny, parts[1], bytes[1], TOK_NORMAL);
        tokenizer *tok;
        tok_stream stream = {0};
        assert_int_equal(tok_open(&tok, &tiny->source, NULL), ESP_OK);
        for (int part = 0; part < 2; part++) {
            size_t count = tok_stream_next(tok, &stream, 256 + part, false, piece);
            assert_int_equal(utf8_whole_prefix(piece, count), count);
            memcpy(out + made, piece, count);
            made += count;
        }
        made += tok_stream_end(&stream, out + made);
        assert_int_equal(made, whole_bytes);
        assert_memory_equal(out, whole, made);
        tok_close(tok);
        free(tiny);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_characters_come_through),
        cmocka_unit_test(broken_bytes_become_one_replacement_a_subpart),
        cmocka_unit_test(an_unfinished_end_is_one_replacement),
        cmocka_unit_test(nothing_is_sent_of_half_a_character),
        cmocka_unit_test(control_tokens_are_shown_on_demand),
        cmocka_unit_test(ids_out_of_range_give_nothing),
        cmocka_unit_test(the_longest_token_fits_a_piece),
        cmocka_unit_test(splits_do_not_matter),
    };
    return cmocka_run_group_tests(tests, open_bytes, close_bytes);
}
