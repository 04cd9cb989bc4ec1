/* test_spm.c - both ways of finding the best pair give what the definition gives; and the rules of
 * texts of the kinds llama, t5 and bert, on vocabularies made by hand. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/spm.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/text/utf8.h"
#include "tests/unit/piece_vocab.h"

#define MARK "\xe2\x96\x81"

enum { HE = PIECE_BYTES + 256, LL, LLO, SPACE_HE, SPACE, H, USER };

/* Merges by score: he before _he's parts, ll before llo. USER swallows the spaces behind it. */
static piece_vocab *sample(void) {
    piece_vocab *p = piece_new("llama", true);
    piece_add(p, "he", TOK_NORMAL, -1);
    piece_add(p, "ll", TOK_NORMAL, -2);
    piece_add(p, "llo", TOK_NORMAL, -3);
    piece_add(p, MARK "he", TOK_NORMAL, -4);
    piece_add(p, MARK, TOK_NORMAL, -5);
    piece_add(p, "h", TOK_NORMAL, -6);
    piece_add(p, "<|user|>", TOK_CONTROL, 0);
    p->strips[USER] = TOK_STRIP_BEFORE | TOK_STRIP_AFTER;
    return p;
}

static tokenizer *open_pieces(piece_vocab *p) {
    tokenizer *tok = NULL;
    esp_error err = {0};
    if (tok_open(&tok, &p->source, &err)) fail_msg("%s", err.message);
    free(p);
    return tok;
}

static void expect_ids(const tokenizer *tok, tok_text text, tok_encode_options options,
                       const int32_t *wanted, uint32_t count) {
    tok_ids ids = {0};
    assert_int_equal(tok_encode(tok, text.at, text.bytes, &options, &ids, NULL), ESP_OK);
    assert_int_equal(ids.count, count);
    if (count) assert_memory_equal(ids.at, wanted, count * sizeof *wanted);
    tok_ids_free(&ids);
}

#define PLAIN ((tok_encode_options){0})
#define SPECIAL ((tok_encode_options){.parse_special = true})
#define EXPECT(tok, literal, options, ...)                                                         \
    expect_ids(tok, (tok_text){literal, sizeof literal - 1}, options, (int32_t[]){__VA_ARGS__},    \
               sizeof((int32_t[]){__VA_ARGS__}) / sizeof(int32_t))

static void pairs_merge_by_score(void **state) {
    (void)state;
    tokenizer *tok = open_pieces(sample());
    EXPECT(tok, "hello", PLAIN, HE, LLO);
    EXPECT(tok, " he", PLAIN, SPACE_HE);
    EXPECT(tok, "lll", PLAIN, LL, PIECE_BYTES + 'l'); /* leftmost of equals; l has no token */
    EXPECT(tok, MARK "he", PLAIN, SPACE_HE);          /* the mark is a space */
    EXPECT(tok, "h", PLAIN, H);
    tok_close(tok);
}

/* What no token covers goes by its bytes, be it a character or no UTF-8 at all. */
static void bytes_stand_in_for_the_rest(void **state) {
    (void)state;
    tokenizer *tok = open_pieces(sample());
    EXPECT(tok, "\xc3\xa9", PLAIN, PIECE_BYTES + 0xc3, PIECE_BYTES + 0xa9);
    EXPECT(tok, "he\xff", PLAIN, HE, PIECE_BYTES + 0xff);
    EXPECT(tok, "\0", PLAIN, PIECE_BYTES);
    EXPECT(tok, "<0x61>", PLAIN, PIECE_BYTES + '<', PIECE_BYTES + '0', PIECE_BYTES + 'x',
           PIECE_BYTES + '6', PIECE_BYTES + '1', PIECE_BYTES + '>'); /* never the byte token */
    tok_close(tok);
}

/* Without byte tokens neighbours share one unknown token, across words too. */
static void unknown_text_is_one_token(void **state) {
    (void)state;
    piece_vocab *p = piece_new("llama", false);
    int32_t he = piece_add(p, "he", TOK_NORMAL, -1);
    tokenizer *tok = open_pieces(p);
    EXPECT(tok, "xyz he \xff q", PLAIN, PIECE_UNK, he, PIECE_UNK);
    EXPECT(tok, "<s>x<s>x", SPECIAL, PIECE_BOS, PIECE_UNK, PIECE_BOS, PIECE_UNK);
    tok_close(tok);
}

/* At the beginning and behind each special token; nothing comes of nothing. */
static void a_space_goes_in_front_where_the_model_says_so(void **state) {
    (void)state;
    piece_vocab *p = sample();
    p->source.add_space_prefix = true;
    tokenizer *tok = open_pieces(p);
    EXPECT(tok, "he", PLAIN, SPACE_HE);
    EXPECT(tok, " he", PLAIN, SPACE, SPACE_HE);
    EXPECT(tok, "<s>he<s>", SPECIAL, PIECE_BOS, SPACE_HE, PIECE_BOS);
    expect_ids(tok, (tok_text){"", 0}, PLAIN, NULL, 0);
    tok_close(tok);
}

static void special_tokens_swallow_space(void **state) {
    (void)state;
    tokenizer *tok = open_pieces(sample());
    EXPECT(tok, "he \n<|user|> \xe3\x80\x80\nhe <s>", SPECIAL, HE, USER, HE, SPACE, PIECE_BOS);
    EXPECT(tok, " <|user|> ", SPECIAL, USER);
    tok_close(tok);
}

static void expect_text(const tokenizer *tok, tok_stream stream, const int32_t *ids, uint32_t count,
                        const char *wanted) {
    char text[256], piece[TOK_PIECE_MAX];
    size_t bytes = 0;
    for (uint32_t i = 0; i <= count; i++) {
        size_t made = i < count ? tok_stream_next(tok, &stream, ids[i], false, piece)
                                : tok_stream_end(&stream, piece);
        assert_int_equal(utf8_whole_prefix(piece, made), made);
        memcpy(text + bytes, piece, made);
        bytes += made;
    }
    assert_int_equal(bytes, strlen(wanted));
    assert_memory_equal(text, wanted, bytes);
}

/* The first space is the one that encoding put there; a stream behind other text keeps it. Bytes
 * come out as whole characters. */
static void streams_undo_what_encoding_did(void **state) {
    (void)state;
    piece_vocab *p = sample();
    p->source.add_space_prefix = true;
    tokenizer *tok = open_pieces(p);
    int32_t ids[] = {PIECE_BOS, SPACE_HE, SPACE_HE, PIECE_BYTES + 0xc3, PIECE_BYTES + 0xa9};
    expect_text(tok, (tok_stream){0}, ids, 5, "he he\xc3\xa9");
    expect_text(tok, (tok_stream){.begun = true}, ids, 5, " he he\xc3\xa9");
    expect_text(tok, (tok_stream){0}, ids, 4, "he he\xef\xbf\xbd");
    tok_close(tok);
    tok = open_pieces(sample());
    expect_text(tok, (tok_stream){0}, ids, 5, " he he\xc3\xa9");
    tok_close(tok);
}

/* WordPiece: words stand apart, pieces of one word do not. */
static void words_are_the_longest_pieces(void **state) {
    (void)state;
    piece_vocab *p = piece_new("bert", false);
    int32_t un = piece_add(p, MARK "un", TOK_NORMAL, 0), aff = piece_add(p, "aff", TOK_NORMAL, 0);
    int32_t able = piece_add(p, "able", TOK_NORMAL, 0),
            stop = piece_add(p, MARK "!", TOK_NORMAL, 0);
    int32_t a = piece_add(p, "a", TOK_NORMAL, 0);
    p->source.uncased = true;
    tokenizer *tok = open_pieces(p);
    EXPECT(tok,
           "  Un\xc3\xa4"
           "ff\tun!!",
           PLAIN, un, aff, un, stop, stop);
    EXPECT(tok, "unaffa unaffx", PLAIN, un, aff, a, PIECE_UNK);
    EXPECT(tok, "u\xffn \xe6\xbc\xa2\xe5\xad\x97", PLAIN, un, PIECE_UNK, PIECE_UNK);
    expect_text(tok, (tok_stream){0}, (int32_t[]){PIECE_BOS, un, aff, able, un, stop}, 6,
                "unaffable un !");
    char word[204] = "un";
    memset(word + 2, 'a', 98); /* 100 characters: as many as a word may have */
    tok_ids ids = {0};
    assert_int_equal(tok_encode(tok, word, 100, &PLAIN, &ids, NULL), ESP_OK);
    assert_int_equal(ids.count, 99);
    word[100] = 'a';
    EXPECT(tok, "un", PLAIN, un);
    expect_ids(tok, (tok_text){word, 101}, PLAIN, (int32_t[]){PIECE_UNK}, 1);
    tok_ids_free(&ids);
    tok_close(tok);
}

/* Unigram: the highest sum, the earlier cut of equals, unknown text at ten below the lowest. */
static void the_likeliest_cut_is_taken(void **state) {
    (void)state;
    piece_vocab *p = piece_new("t5", false);
    int32_t a = piece_add(p, "a", TOK_NORMAL, -1), ab = piece_add(p, "ab", TOK_NORMAL, -3);
    int32_t b = piece_add(p, "b", TOK_NORMAL, -1), bc = piece_add(p, "bc", TOK_NORMAL, -1.5f);
    int32_t space = piece_add(p, MARK, TOK_NORMAL, -2);
    p->source.collapse_spaces = true;
    tokenizer *tok = open_pieces(p);
    EXPECT(tok, "ab", PLAIN, a, b);
    EXPECT(tok, "abc", PLAIN, a, bc);
    EXPECT(tok, "  a   b ", PLAIN, a, space, b);
    EXPECT(tok, "xyb\xff", PLAIN, PIECE_UNK, b, PIECE_UNK);
    assert_int_equal(tok_find(tok, "ab"), ab);
    tok_close(tok);
}

static void refuse(piece_vocab *p, esp_code wanted, const char *part) {
    tokenizer *tok = NULL;
    esp_error err = {0};
    assert_int_equal(tok_open(&tok, &p->source, &err), wanted);
    assert_null(tok);
    if (!strstr(err.message, part)) fail_msg("\"%s\" lacks \"%s\"", err.message, part);
    free(p);
}

static void bad_sources_are_refused_by_field(void **state) {
    (void)state;
    static const char *const kinds[] = {"llama", "t5"};
    for (int i = 0; i < 2; i++) {
        piece_vocab *p = piece_new(kinds[i], true);
        p->source.scores = NULL;
        refuse(p, ESP_INVALID, "tokenizer.ggml.scores is missing");
        p = piece_new(kinds[i], true);
        p->source.types = NULL;
        refuse(p, ESP_INVALID, "tokenizer.ggml.token_type is missing");
        p = piece_new(kinds[i], true);
        p->scores[5] = (float)NAN;
        refuse(p, ESP_INVALID, "scores entry 5 is not a finite number");
        p = piece_new(kinds[i], true);
        p->tokens[7].at = "<0xg0>";
        refuse(p, ESP_INVALID, "entry 7 is of type byte");
        p = piece_new(kinds[i], true);
        p->source.unknown = 259;
        refuse(p, ESP_INVALID, "unknown_token_id is 259");
    }
    piece_vocab *p = piece_new("bert", false);
    p->source.unknown = -1;
    refuse(p, ESP_INVALID, "unknown_token_id is missing");
    p = piece_new("t5", true);
    p->source.charsmap = "\xff\xff\xff\xff";
    p->source.charsmap_bytes = 4;
    refuse(p, ESP_INVALID, "precompiled_charsmap does not begin");
}

/* The definition: the best pair of the whole text, again and again. */
static uint32_t merge_slowly(const vocab *v, const float *scores, tok_text text, int32_t *out) {
    size_t begins[600], count = 0;
    for (size_t i = 0; i <= text.bytes; i++)
        begins[count++] = i;
    for (;;) {
        size_t best = 0;
        int32_t best_id = VOCAB_NONE;
        for (size_t i = 0; i + 2 < count; i++) {
            int32_t id = vocab_find(v, text.at + begins[i], begins[i + 2] - begins[i]);
            if (id == VOCAB_NONE || (best_id != VOCAB_NONE && scores[id] <= scores[best_id]))
                continue;
            best = i;
            best_id = id;
        }
        if (best_id == VOCAB_NONE) break;
        memmove(begins + best + 1, begins + best + 2, (count - best - 2) * sizeof *begins);
        count--;
    }
    for (size_t i = 0; i + 1 < count; i++)
        out[i] = vocab_find(v, text.at + begins[i], begins[i + 1] - begins[i]);
    return (uint32_t)count - 1;
}

/* Texts of a, b and space, shorter and longer than the border between scan and heap. Scores repeat,
 * so that ties are many and old entries of the heap may look like new ones. */
static void scan_and_heap_equal_the_definition(void **state) {
    (void)state;
    static const char *const made[] = {"a",  "b",   " ",   "aa",   "ab",   "ba",  "bb",   " a",
                                       "  ", "aab", "bba", "aaaa", "abab", " ab", "aabb", "baab"};
    piece_vocab *p = piece_new("llama", false);
    for (size_t i = 0; i < sizeof made / sizeof *made; i++)
        piece_add(p, made[i], TOK_NORMAL, -(float)((i * 7) % 5));
    vocab v;
    spm *s;
    assert_int_equal(vocab_open(&v, &p->source, NULL), ESP_OK);
    assert_int_equal(spm_open(&s, &v, &p->source, NULL), ESP_OK);
    spm_scratch scratch = {0};
    uint64_t random = 7;
    for (int round = 0; round < 3000; round++) {
        char text[500];
        int32_t wanted[600];
        size_t bytes = 1 + round % (round % 3 ? 60 : 400);
        for (size_t i = 0; i < bytes; i++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            text[i] = "aaabbb "[(random >> 33) % 7];
        }
        uint32_t count = merge_slowly(&v, p->scores, (tok_text){text, bytes}, wanted);
        tok_ids ids = {0};
        spm_encode(s, &scratch, (tok_text){text, bytes}, 0, &ids);
        assert_int_equal(ids.count, count);
        assert_memory_equal(ids.at, wanted, count * sizeof *wanted);
        tok_ids_free(&ids);
    }
    spm_scratch_free(&scratch);
    spm_close(s);
    vocab_close(&v);
    free(p);
}

/* A token with a space inside keeps the words around it together; others do not. */
static void tokens_across_words_are_found(void **state) {
    (void)state;
    piece_vocab *p = sample();
    piece_add(p, "e" MARK, TOK_NORMAL, 5);
    int32_t across = piece_add(p, "e" MARK "h", TOK_NORMAL, 6);
    tokenizer *tok = open_pieces(p);
    EXPECT(tok, "he he", PLAIN, H, across, PIECE_BYTES + 'e');
    tok_close(tok);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pairs_merge_by_score),
        cmocka_unit_test(bytes_stand_in_for_the_rest),
        cmocka_unit_test(unknown_text_is_one_token),
        cmocka_unit_test(a_space_goes_in_front_where_the_model_says_so),
        cmocka_unit_test(special_tokens_swallow_space),
        cmocka_unit_test(streams_undo_what_encoding_did),
        cmocka_unit_test(words_are_the_longest_pieces),
        cmocka_unit_test(the_likeliest_cut_is_taken),
        cmocka_unit_test(bad_sources_are_refused_by_field),
        cmocka_unit_test(scan_and_heap_equal_the_definition),
        cmocka_unit_test(tokens_across_words_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
