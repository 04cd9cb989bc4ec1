/* test_tokenizer.c - the rules of encoding and opening, on a vocabulary made by hand. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/tiny_vocab.h"

/* Ids of sample()'s tokens beyond the bytes. */
enum { HE = 256, LLO, LL, SP_H, SP_HE, START = 300, END, USER, UNK };

/* Merges "h e", "ll o", "l l" (so that llo has a better rank than its own part), "_ h", "_h e";
 * then control tokens, one user-defined token and an unknown token. */
static tiny_vocab *sample(const char *pre) {
    tiny_vocab *tiny = tiny_new(pre);
    int32_t ll = 0;
    tiny_merge(tiny, "h e");
    tiny_special(tiny, "llo", TOK_NORMAL);
    ll = tiny_merge(tiny, "l l");
    assert_int_equal(ll, LL);
    tiny->merges[tiny->source.merge_count++] = (tok_text){"ll o", 4};
    tiny_merge(tiny, "\xc4\xa0 h");
    tiny_merge(tiny, "\xc4\xa0h e");
    while (tiny->source.token_count < START)
        tiny_special(tiny, "", TOK_UNUSED);
    tiny_special(tiny, "<|start|>", TOK_CONTROL);
    tiny_special(tiny, "<|start|>x", TOK_CONTROL);
    tiny_special(tiny, "\n\n", TOK_USER_DEFINED);
    tiny_special(tiny, "<unk>", TOK_UNKNOWN);
    return tiny;
}

static tokenizer *open_tiny(const tiny_vocab *tiny) {
    tokenizer *tok = NULL;
    esp_error err = {0};
    if (tok_open(&tok, &tiny->source, &err)) fail_msg("%s", err.message);
    return tok;
}

static tokenizer *open_sample(const char *pre) {
    tiny_vocab *tiny = sample(pre);
    tokenizer *tok = open_tiny(tiny);
    free(tiny); /* tok_open copies what it needs */
    return tok;
}

static void expect_bytes(const tokenizer *tok, tok_text text, const tok_encode_options *options,
                         const int32_t *wanted, uint32_t count) {
    tok_ids ids = {0};
    /* exact-size copy: a sanitizer sees a read one byte too far */
    char *copy = malloc(text.bytes + 1);
    char *exact = realloc(copy, text.bytes ? text.bytes : 1);
    memcpy(exact, text.at, text.bytes);
    assert_int_equal(tok_encode(tok, exact, text.bytes, options, &ids, NULL), ESP_OK);
    assert_int_equal(ids.count, count);
    if (count) assert_memory_equal(ids.at, wanted, count * sizeof *wanted);
    free(exact);
    tok_ids_free(&ids);
}

#define EXPECT(tok, literal, options, ...)                                                         \
    expect_bytes(tok, (tok_text){literal, sizeof literal - 1}, options, (int32_t[]){__VA_ARGS__},  \
                 sizeof((int32_t[]){__VA_ARGS__}) / sizeof(int32_t))

static const tok_encode_options plain_text = {0};
static const tok_encode_options with_special = {.parse_special = true};

static void merges_follow_their_ranks(void **state) {
    (void)state;
    tokenizer *tok = open_sample("gpt-2");
    EXPECT(tok, "hello", &plain_text, HE, LLO);
    EXPECT(tok, "he he", &plain_text, HE, ' ', HE); /* "h e" (0) comes before "_ h" (3) */
    EXPECT(tok, " h", &plain_text, SP_H);
    EXPECT(tok, "ll", &plain_text, LL);
    EXPECT(tok, "lll", &plain_text, LL, 'l'); /* leftmost of equal ranks */
    expect_bytes(tok, (tok_text){"", 0}, &plain_text, NULL, 0);
    expect_bytes(tok, (tok_text){"", 0}, &with_special, NULL, 0);
    tok_close(tok);
}

/* Llama 3's rule: "_he" is a token, so it is taken although the merges would give "_", "he". */
static void a_whole_piece_is_taken_where_the_model_says_so(void **state) {
    (void)state;
    tokenizer *gpt2 = open_sample("gpt-2"), *llama3 = open_sample("llama-bpe");
    EXPECT(gpt2, " he", &plain_text, ' ', HE);
    EXPECT(llama3, " he", &plain_text, SP_HE);
    tok_close(gpt2);
    tok_close(llama3);
}

/* Qwen 2's rule: e + U+0301 is U+00E9 before it is cut. */
static void text_is_composed_where_the_model_says_so(void **state) {
    (void)state;
    tokenizer *gpt2 = open_sample("gpt-2"), *qwen2 = open_sample("qwen2");
    EXPECT(gpt2, "e\xcc\x81", &plain_text, 'e', 0xcc, 0x81);
    EXPECT(qwen2, "e\xcc\x81", &plain_text, 0xc3, 0xa9);
    EXPECT(qwen2,
           "\xff"
           "e\xcc\x81",
           &plain_text, 0xff, 0xc3, 0xa9);
    tok_close(gpt2);
    tok_close(qwen2);
}

static void control_tokens_need_parse_special(void **state) {
    (void)state;
    tokenizer *tok = open_sample("gpt-2");
    EXPECT(tok, "h<|start|>he", &with_special, 'h', START, HE);
    EXPECT(tok, "<|start|>", &plain_text, '<', '|', 's', 't', 'a', 'r', 't', '|', '>');
    EXPECT(tok, "<unk>", &plain_text, '<', 'u', 'n', 'k', '>');
    EXPECT(tok, "<unk>", &with_special, UNK);
    tok_close(tok);
}

static void the_longest_special_token_wins(void **state) {
    (void)state;
    tokenizer *tok = open_sample("gpt-2");
    EXPECT(tok, "<|start|>x", &with_special, END);
    EXPECT(tok, "<|start|>y", &with_special, START, 'y');
    EXPECT(tok, "<<|start|>", &with_special, '<', START);
    EXPECT(tok, "<|start|", &with_special, '<', '|', 's', 't', 'a', 'r', 't', '|');
    tok_close(tok);
}

/* User-defined tokens are the model's ordinary text, in plain spans too. */
static void user_defined_tokens_are_always_matched(void **state) {
    (void)state;
    tokenizer *tok = open_sample("gpt-2");
    tok_span all = {0, 4};
    tok_encode_options spans = {.parse_special = true, .plain = &all, .plain_count = 1};
    EXPECT(tok, "a\n\n\n", &plain_text, 'a', USER, '\n');
    EXPECT(tok, "a\n\n\n", &with_special, 'a', USER, '\n');
    EXPECT(tok, "a\n\n\n", &spans, 'a', USER, '\n');
    tok_close(tok);
}

/* "<|start|>" is 9 bytes. Every span that shares a byte with it keeps it text; others, empty ones
 * among them, do not. */
static void no_control_token_overlaps_a_plain_span(void **state) {
    (void)state;
    tokenizer *tok = open_sample("gpt-2");
    for (size_t begin = 0; begin <= 11; begin++) {
        for (size_t end = begin; end <= 11; end++) {
            tok_span span = {begin, end};
            tok_encode_options options = {.parse_special = true, .plain = &span, .plain_count = 1};
            bool touches = end > begin && begin < 10 && end > 1;
            if (touches)
                EXPECT(tok, "y<|start|>z", &options, 'y', '<', '|', 's', 't', 'a', 'r', 't', '|',
                       '>', 'z');
            else
                EXPECT(tok, "y<|start|>z", &options, 'y', START, 'z');
        }
    }
    tok_close(tok);
}

/* Where the longest token would reach into a span, a shorter one may still fit before it. */
static void spans_shorten_matches(void **state) {
    (void)state;
    tokenizer *tok = open_sample("gpt-2");
    tok_span spans[] = {{9, 10}, {19, 20}, {21, 30}};
    tok_encode_options options = {.parse_special = true, .plain = spans, .plain_count = 3};
    EXPECT(tok, "<|start|>x<|start|>x <|start|>", &options, START, 'x', START, 'x', ' ', '<', '|',
           's', 't', 'a', 'r', 't', '|', '>');
    tok_close(tok);
}

/* Borders of spans are no borders of pieces: "he" merges across one. */
static void spans_do_not_cut_words(void **state) {
    (void)state;
    tokenizer *tok = open_sample("gpt-2");
    tok_span span = {1, 3};
    tok_encode_options options = {.parse_special = true, .plain = &span, .plain_count = 1};
    EXPECT(tok, "hello", &options, HE, LLO);
    tok_close(tok);
}

/* Overlong forms, surrogates, stray and missing continuations: each byte its own token, and the
 * words around them are cut as if they stood alone. */
static void invalid_utf8_goes_byte_by_byte(void **state) {
    (void)state;
    tokenizer *tok = open_sample("gpt-2");
    EXPECT(tok, "\xff", &plain_text, 0xff);
    EXPECT(tok, "he\x80he", &plain_text, HE, 0x80, HE);
    EXPECT(tok, "\xc0\xaf", &plain_text, 0xc0, 0xaf);
    EXPECT(tok, "\xed\xa0\x80", &plain_text, 0xed, 0xa0, 0x80);
    EXPECT(tok, "\xf4\x90\x80\x80", &plain_text, 0xf4, 0x90, 0x80, 0x80);
    EXPECT(tok, "he\xe2\x82", &plain_text, HE, 0xe2, 0x82);
    EXPECT(tok, "\xe2\x82he", &plain_text, 0xe2, 0x82, HE);
    EXPECT(tok, "\xe2\x82<|start|>\xac", &with_special, 0xe2, 0x82, START, 0xac);
    tok_close(tok);
}

static void nul_bytes_are_text(void **state) {
    (void)state;
    tokenizer *tok = open_sample("smollm");
    EXPECT(tok, "he\0he", &plain_text, HE, 0, HE);
    tok_close(tok);
}

/* A byte without a token leaves no id and its neighbours meet, as in the reference. */
static void bytes_without_a_token_are_passed_over(void **state) {
    (void)state;
    tiny_vocab *tiny = tiny_new("gpt-2");
    tiny_merge(tiny, "! !");
    tiny->tokens[4] = (tok_text){"no such byte", 12};
    tokenizer *tok = open_tiny(tiny);
    EXPECT(tok, "!\x04!", &plain_text, 256);
    expect_bytes(tok, (tok_text){"\x04", 1}, &plain_text, NULL, 0);
    tok_close(tok);
    free(tiny);
}

static void bos_and_eos_follow_the_model(void **state) {
    (void)state;
    tiny_vocab *tiny = sample("gpt-2");
    tok_encode_options add = {.add_special = true};
    tiny->source.bos = START, tiny->source.eos = END, tiny->source.add_bos = true;
    tokenizer *tok = open_tiny(tiny);
    EXPECT(tok, "h", &add, START, 'h');
    EXPECT(tok, "h", &plain_text, 'h');
    tok_close(tok);
    tiny->source.add_eos = true;
    tok = open_tiny(tiny);
    EXPECT(tok, "", &add, START, END);
    assert_int_equal(tok_bos(tok), START);
    assert_int_equal(tok_eos(tok), END);
    tok_close(tok);
    free(tiny);
}

/* ids_max counts what this call adds, BOS and special tokens included; a refused call adds nothing.
 */
static void ids_max_is_exact_and_leaves_out_alone(void **state) {
    (void)state;
    tiny_vocab *tiny = sample("gpt-2");
    tiny->source.bos = START, tiny->source.add_bos = true;
    tokenizer *tok = open_tiny(tiny);
    tok_ids ids = {0};
    esp_error err = {0};
    for (uint32_t max = 1; max <= 8; max++) {
        tok_encode_options options = {.add_special = true, .parse_special = true, .ids_max = max};
        uint32_t before = ids.count;
        esp_code code = tok_encode(tok, "hello<|start|>a b", 17, &options, &ids, &err); /* 6 ids */
        assert_int_equal(code, max < 7 ? ESP_INVALID : ESP_OK);
        assert_int_equal(ids.count, before + (max < 7 ? 0 : 7));
    }
    assert_non_null(strstr(err.message, "more than 6 tokens"));
    tok_ids_free(&ids);
    tok_close(tok);
    free(tiny);
}

/* One long piece: its least possible number of tokens is seen beforehand, its true one afterwards;
 * both bounds refuse at the same count. 100 times "llo" is one piece of 100 ids. */
static void ids_max_is_exact_within_a_piece(void **state) {
    (void)state;
    tokenizer *tok = open_sample("gpt-2");
    char text[300];
    for (int i = 0; i < 100; i++)
        memcpy(text + 3 * i, "llo", 3);
    for (uint32_t max = 1; max <= 101; max++) {
        tok_ids ids = {0};
        tok_encode_options options = {.ids_max = max};
        esp_code code = tok_encode(tok, text, sizeof text, &options, &ids, NULL);
        assert_int_equal(code, max < 100 ? ESP_INVALID : ESP_OK);
        assert_int_equal(ids.count, max < 100 ? 0 : 100);
        tok_ids_free(&ids);
    }
    tok_close(tok);
}

static void a_text_beyond_the_limit_is_refused(void **state) {
    (void)state;
    tokenizer *tok = open_sample("gpt-2");
    tok_ids ids = {0};
    esp_error err = {0};
    char *text = calloc(TOK_TEXT_BYTES_MAX + 1, 1);
    assert_int_equal(tok_encode(tok, text, TOK_TEXT_BYTES_MAX + 1, &plain_text, &ids, &err),
                     ESP_INVALID);
    assert_non_null(strstr(err.message, "16777217 bytes"));
    assert_int_equal(ids.count, 0);
    free(text);
    tok_close(tok);
}

static void tokens_are_found_and_described(void **state) {
    (void)state;
    tiny_vocab *tiny = sample("gpt-2");
    int32_t also[] = {END};
    tiny->source.eos = START, tiny->source.eog = also, tiny->source.eog_count = 1;
    tokenizer *tok = open_tiny(tiny);
    assert_int_equal(tok_count(tok), 304);
    assert_int_equal(tok_find(tok, "<|start|>"), START);
    assert_int_equal(tok_find(tok, " h"), SP_H);
    assert_int_equal(tok_find(tok, "nowhere"), -1);
    assert_int_equal(tok_find(tok, ""), -1);
    assert_true(tok_is_control(tok, START) && tok_is_control(tok, UNK));
    assert_false(tok_is_control(tok, USER) || tok_is_control(tok, -1) || tok_is_control(tok, 304));
    assert_true(tok_ends_generation(tok, START) && tok_ends_generation(tok, END));
    assert_false(tok_ends_generation(tok, HE) || tok_ends_generation(tok, -1));
    assert_int_equal(tok_bytes(tok, SP_H).bytes, 2);
    assert_memory_equal(tok_bytes(tok, SP_H).at, " h", 2);
    assert_memory_equal(tok_bytes(tok, START).at, "<|start|>", 9);
    assert_int_equal(
        tok_bytes(tok, -1).bytes + tok_bytes(tok, 304).bytes + tok_bytes(tok, INT32_MIN).bytes, 0);
    for (int b = 0; b < 256; b++) {
        assert_int_equal(tok_bytes(tok, b).bytes, 1);
        assert_int_equal((uint8_t)tok_bytes(tok, b).at[0], b);
    }
    tok_close(tok);
    free(tiny);
}

static void expect_refusal(tiny_vocab *tiny, esp_code code, const char *part) {
    tokenizer *tok = NULL;
    esp_error err = {0};
    assert_int_equal(tok_open(&tok, &tiny->source, &err), code);
    assert_null(tok);
    if (!strstr(err.message, part)) fail_msg("\"%s\" lacks \"%s\"", err.message, part);
    free(tiny);
}

static void unknown_kinds_are_refused_by_name(void **state) {
    (void)state;
    tiny_vocab *tiny = sample("gpt-2");
    tiny->source.kind = "rwkv";
    expect_refusal(tiny, ESP_UNIMPLEMENTED, "\"rwkv\"; kinds known here: gpt2, llama, t5, bert");
    tiny = sample("gpt-2");
    tiny->source.kind = NULL;
    expect_refusal(tiny, ESP_UNIMPLEMENTED, "missing");
    expect_refusal(sample("made-up"), ESP_UNIMPLEMENTED, "\"made-up\"");
}

static void bad_merges_are_refused_by_index(void **state) {
    (void)state;
    static const struct {
        const char *merge, *reason;
    } cases[] = {
        {"nospace", "no space"},
        {"", "no space"},
        {"zz h", "begins with"},
        {"h zz", "ends with"},
        {"h ", "ends with"},
        {" h", "begins with"},
        {"h e l", "ends with"},
        {"x y", "makes a token"},
        {"\xe2\x82\xac h", "begins with"}, /* no character of the alphabet */
        {"h \xc4", "ends with"},           /* half a character */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tiny_vocab *tiny = sample("gpt-2");
        tiny->merges[2] = (tok_text){cases[i].merge, strlen(cases[i].merge)};
        tokenizer *tok = NULL;
        esp_error err = {0};
        assert_int_equal(tok_open(&tok, &tiny->source, &err), ESP_INVALID);
        assert_non_null(strstr(err.message, "merges entry 2"));
        if (!strstr(err.message, cases[i].reason)) fail_msg("%zu: %s", i, err.message);
        free(tiny);
    }
}

/* Text must never merge into a control token: such a merge has no result. */
static void a_merge_into_a_control_token_is_refused(void **state) {
    (void)state;
    tiny_vocab *tiny = tiny_new("gpt-2");
    tiny_merge(tiny, "a b");
    tiny->types[256] = TOK_CONTROL;
    expect_refusal(tiny, ESP_INVALID, "makes a token");
}

static void bad_vocabularies_are_refused(void **state) {
    (void)state;
    tiny_vocab *tiny = sample("gpt-2");
    tiny->source.token_count = 0;
    expect_refusal(tiny, ESP_INVALID, "0 entries");
    tiny = sample("gpt-2");
    tiny->types[7] = 9;
    expect_refusal(tiny, ESP_INVALID, "token 7 is 9");
    tiny = sample("gpt-2");
    tiny->source.eos = 304;
    expect_refusal(tiny, ESP_INVALID, "eos_token_id is 304; the vocabulary has 304");
    tiny = sample("gpt-2");
    tiny->source.bos = -2;
    expect_refusal(tiny, ESP_INVALID, "bos_token_id is -2");
    tiny = sample("gpt-2");
    tiny->source.add_bos = true;
    expect_refusal(tiny, ESP_INVALID, "add_bos_token");
    char long_text[2000];
    memset(long_text, 'x', sizeof long_text);
    tiny = sample("gpt-2");
    tiny->tokens[299] = (tok_text){long_text, 1022};
    expect_refusal(tiny, ESP_INVALID, "entry 299 is 1022 bytes long");
    tiny = sample("gpt-2");
    tiny->tokens[299] = (tok_text){long_text, 1021};
    tok_close(open_tiny(tiny));
    free(tiny);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_follow_their_ranks),
        cmocka_unit_test(a_whole_piece_is_taken_where_the_model_says_so),
        cmocka_unit_test(text_is_composed_where_the_model_says_so),
        cmocka_unit_test(control_tokens_need_parse_special),
        cmocka_unit_test(the_longest_special_token_wins),
        cmocka_unit_test(user_defined_tokens_are_always_matched),
        cmocka_unit_test(no_control_token_overlaps_a_plain_span),
        cmocka_unit_test(spans_shorten_matches),
        cmocka_unit_test(spans_do_not_cut_words),
        cmocka_unit_test(invalid_utf8_goes_byte_by_byte),
        cmocka_unit_test(nul_bytes_are_text),
        cmocka_unit_test(bytes_without_a_token_are_passed_over),
        cmocka_unit_test(bos_and_eos_follow_the_model),
        cmocka_unit_test(ids_max_is_exact_and_leaves_out_alone),
        cmocka_unit_test(ids_max_is_exact_within_a_piece),
        cmocka_unit_test(a_text_beyond_the_limit_is_refused),
        cmocka_unit_test(tokens_are_found_and_described),
        cmocka_unit_test(unknown_kinds_are_refused_by_name),
        cmocka_unit_test(bad_merges_are_refused_by_index),
        cmocka_unit_test(a_merge_into_a_control_token_is_refused),
        cmocka_unit_test(bad_vocabularies_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
