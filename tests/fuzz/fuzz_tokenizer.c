/* fuzz_tokenizer.c - any text, any options: encoding and decoding hold what they promise.
 *
 *   byte 0    tokenizer (bits 0, 1, 6, 7; see openers), parse_special, add_special, a span, ids_max
 *   byte 1,2  begin and length of the span; byte 3 ids_max
 *   rest      the text
 *
 * The vocabularies are small. Where every byte has a token and nothing is rewritten, the tokens'
 * bytes are the text again; the stream of ids is always well-formed UTF-8, and the text's own where
 * the text is. */
// SPDX-License-Identifier: Apache-2.0
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"
#include "tests/unit/piece_vocab.h"
#include "tests/unit/tiny_vocab.h"

enum { HEAD = 4, TOKENIZERS = 12 };

/* spells: the ids' bytes are the text; marks: but U+2581 is a space */
typedef struct subject {
    tokenizer *tok;
    bool spells, marks;
} subject;

static subject subjects[TOKENIZERS];

static tokenizer *open_one(const char *pre) {
    static const char *const merges[] = {"a a",
                                         "aa aa",
                                         "h e",
                                         "l l",
                                         "ll o",
                                         "\xc4\xa0 h",
                                         "\xc4\xa0 \xc4\xa0",
                                         "< |",
                                         "e n",
                                         "en d",
                                         "\xc3\xa2 \xc4\xa4",
                                         "! !",
                                         "1 2",
                                         "\xc4\x8a \xc4\x8a"};
    tiny_vocab *tiny = tiny_new(pre);
    for (size_t i = 0; i < sizeof merges / sizeof *merges; i++)
        tiny_merge(tiny, merges[i]);
    tiny->source.bos = tiny_special(tiny, "<|end|>", TOK_CONTROL);
    tiny_special(tiny, "<|end|><", TOK_CONTROL);
    tiny_special(tiny, "aaa!", TOK_CONTROL);
    tiny_special(tiny, "\n\n ", TOK_USER_DEFINED);
    tiny->source.add_bos = true;
    tokenizer *tok = NULL;
    ESP_ASSERT(tok_open(&tok, &tiny->source, NULL) == ESP_OK);
    free(tiny);
    return tok;
}

/* Kinds llama, t5 and bert share their pieces. */
static tokenizer *open_pieces(const char *kind, bool bytes, bool prefix, bool collapse) {
    static const char *const made[] = {"\xe2\x96\x81",
                                       "a",
                                       "aa",
                                       "aaaa",
                                       "\xe2\x96\x81h",
                                       "he",
                                       "ll",
                                       "llo",
                                       "\xe2\x96\x81he",
                                       "o\xe2\x96\x81",
                                       "\xc3\xa9",
                                       "\xe6\xbc\xa2",
                                       "\xe6\xbc\xa2\xe6\xbc\xa2",
                                       "!",
                                       "1",
                                       "12",
                                       "\xe2\x96\x81\xe2\x96\x81",
                                       "\xe2\x96\x81!",
                                       "\xe2\x96\x81\x61"};
    /* a trie with one key, e (offset 1), whose replacement is nothing */
    static uint8_t map[4 + 1024 + 1] = {[1] = 4,
                                        [5] = 4,
                                        [4 + 4 * (1 ^ 'e')] = 'e',
                                        [5 + 4 * (1 ^ 'e')] = 9,
                                        [7 + 4 * (1 ^ 'e' ^ 2)] = 0x80};
    piece_vocab *p = piece_new(kind, bytes);
    for (size_t i = 0; i < sizeof made / sizeof *made; i++)
        piece_add(p, made[i], TOK_NORMAL, -(float)(i * 7 % 5));
    int32_t end = piece_add(p, "<|end|>", TOK_CONTROL, 0);
    piece_add(p, "aaa!", TOK_CONTROL, 0);
    piece_add(p, "\n\n", TOK_USER_DEFINED, 0);
    p->strips[end] = prefix ? TOK_STRIP_AFTER | TOK_STRIP_BEFORE : 0;
    p->source.add_bos = true;
    p->source.add_space_prefix = prefix;
    p->source.collapse_spaces = collapse;
    p->source.uncased = prefix;
    p->source.charsmap = map;
    p->source.charsmap_bytes = collapse ? sizeof map : 0;
    tokenizer *tok = NULL;
    ESP_ASSERT(tok_open(&tok, &p->source, NULL) == ESP_OK);
    free(p);
    return tok;
}

/* Opened once and left to the end of the process. */
static void open_all(void) {
    if (subjects[0].tok) return;
    static const char *const names[] = {"smollm", "gpt-2", "llama-bpe", "qwen2"};
    for (int i = 0; i < 4; i++)
        subjects[i] = (subject){.tok = open_one(names[i]), .spells = i != 3};
    subjects[4] =
        (subject){.tok = open_pieces("llama", true, false, false), .spells = true, .marks = true};
    subjects[5] = (subject){.tok = open_pieces("llama", true, true, false)};
    subjects[6] = (subject){.tok = open_pieces("llama", false, false, true)};
    subjects[7] =
        (subject){.tok = open_pieces("t5", true, false, false), .spells = true, .marks = true};
    subjects[8] = (subject){.tok = open_pieces("t5", false, true, true)};
    subjects[9] = (subject){.tok = open_pieces("bert", false, true, false)};
    subjects[10] = (subject){.tok = open_pieces("bert", false, false, false)};
    subjects[11] = (subject){.tok = open_one("deepseek-v3"), .spells = true};
}

static void check_stream(const tokenizer *tok, const tok_ids *ids, const char *text, size_t bytes) {
    tok_stream stream = {0};
    char piece[TOK_PIECE_MAX];
    bool same = utf8_whole_prefix(text, bytes) == bytes;
    size_t at = 0;
    for (uint32_t i = 0; i <= ids->count; i++) {
        size_t made = i < ids->count ? tok_stream_next(tok, &stream, ids->at[i], true, piece)
                                     : tok_stream_end(&stream, piece);
        ESP_ASSERT(utf8_whole_prefix(piece, made) == made);
        if (same) ESP_ASSERT(made <= bytes - at && memcmp(piece, text + at, made) == 0);
        at += made;
    }
    if (same) ESP_ASSERT(at == bytes);
}

static void check_bytes(const tokenizer *tok, const tok_ids *ids, const char *text, size_t bytes) {
    size_t at = 0;
    for (uint32_t i = 0; i < ids->count; i++) {
        tok_text token = tok_bytes(tok, ids->at[i]);
        ESP_ASSERT(token.bytes > 0 && token.bytes <= bytes - at);
        ESP_ASSERT(memcmp(text + at, token.at, token.bytes) == 0);
        at += token.bytes;
    }
    ESP_ASSERT(at == bytes);
}

/* No control token where none may be: nowhere without parse_special, never over the span. Counts
 * along in the text, so only where the ids spell it. */
static void check_control(const tokenizer *tok, const tok_ids *ids,
                          const tok_encode_options *options) {
    size_t at = 0;
    for (uint32_t i = 0; i < ids->count; i++) {
        size_t end = at + tok_bytes(tok, ids->at[i]).bytes;
        if (tok_is_control(tok, ids->at[i])) {
            ESP_ASSERT(options->parse_special);
            for (uint32_t s = 0; s < options->plain_count; s++) {
                tok_span span = options->plain[s];
                ESP_ASSERT(span.begin == span.end || span.end <= at || span.begin >= end);
            }
        }
        at = end;
    }
}

/* The text as a kind sees it: U+2581 is a space; the caller frees it. */
static char *seen_text(const subject *sub, const char *text, size_t *bytes) {
    char *seen = mem_new(*bytes + 1, 1);
    if (sub->marks)
        *bytes = utf8_marks_to_spaces(text, *bytes, seen);
    else
        memcpy(seen, text, *bytes);
    return seen;
}

static void check_spelling(const subject *sub, const tok_ids *ids, const char *text, size_t bytes,
                           const tok_encode_options *options) {
    char *seen = seen_text(sub, text, &bytes);
    check_bytes(sub->tok, ids, seen, bytes);
    if (!sub->marks)
        check_control(sub->tok, ids, options); /* spans count in the text's own bytes */
    check_stream(sub->tok, ids, seen, bytes);
    free(seen);
}

static void check_text(const subject *sub, const char *text, size_t bytes,
                       const tok_encode_options *options) {
    tok_ids ids = {0};
    esp_error err = {0};
    esp_code code = tok_encode(sub->tok, text, bytes, options, &ids, &err);
    ESP_ASSERT(code == ESP_OK || (code == ESP_INVALID && options->ids_max && ids.count == 0));
    bool bos = code == ESP_OK && options->add_special;
    tok_ids spelled = {bos ? ids.at + 1 : ids.at, ids.count - bos, 0};
    if (code == ESP_OK && sub->spells)
        check_spelling(sub, &spelled, text, bytes, options);
    else if (code == ESP_OK)
        check_stream(sub->tok, &spelled, "\xff", 1); /* rewritten text: only well-formedness */
    for (uint32_t i = 0; i < spelled.count && !options->parse_special; i++)
        ESP_ASSERT(spelled.at[i] == PIECE_UNK || !tok_is_control(sub->tok, spelled.at[i]));
    tok_ids_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    open_all();
    if (size < HEAD || size > 1 << 16) return 0;
    size_t bytes = size - HEAD;
    const char *text = (const char *)data + HEAD;
    tok_span span = {data[1] < bytes ? data[1] : bytes, bytes};
    if (data[2] < bytes - span.begin) span.end = span.begin + data[2];
    tok_encode_options options = {.parse_special = data[0] & 4,
                                  .add_special = data[0] & 8,
                                  .plain = &span,
                                  .plain_count = data[0] & 16 ? 1 : 0,
                                  .ids_max = data[0] & 32 ? data[3] : 0};
    int which = (data[0] & 3) | (data[0] >> 6) << 2;
    check_text(&subjects[which < TOKENIZERS ? which : which - 8], text, bytes, &options);
    return 0;
}
