/* fuzz_tokenizer.c - any text, any options: encoding and decoding hold what they promise.
 *
 *   byte 0   pre-tokenizer (2 bits), parse_special, add_special, a span, ids_max, where the span
 * lies byte 1,2 begin and length of the span; byte 3 ids_max rest     the text
 *
 * The vocabulary is small, with every byte a token. Without control tokens and composition, the
 * tokens' bytes are the text again; the stream of ids is always well-formed UTF-8, and the text's
 * own where the text is. */
// SPDX-License-Identifier: Apache-2.0
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"
#include "tests/unit/tiny_vocab.h"

enum { HEAD = 4, CONTROL_TOKENS = 3 };

static tokenizer *toks[4];

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

/* Opened once and left to the end of the process. */
static void open_all(void) {
    static const char *const names[] = {"smollm", "gpt-2", "llama-bpe", "qwen2"};
    for (int i = 0; i < 4 && !toks[3]; i++)
        toks[i] = open_one(names[i]);
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

static void check_text(const tokenizer *tok, bool composes, const char *text, size_t bytes,
                       const tok_encode_options *options) {
    tok_ids ids = {0};
    esp_error err = {0};
    esp_code code = tok_encode(tok, text, bytes, options, &ids, &err);
    ESP_ASSERT(code == ESP_OK || (code == ESP_INVALID && options->ids_max && ids.count == 0));
    bool bos = code == ESP_OK && options->add_special;
    tok_ids spelled = {bos ? ids.at + 1 : ids.at, ids.count - bos, 0};
    if (code == ESP_OK && !composes) {
        check_bytes(tok, &spelled, text, bytes);
        check_control(tok, &spelled, options);
        check_stream(tok, &spelled, text, bytes);
    } else if (code == ESP_OK) {
        check_stream(tok, &spelled, "\xff",
                     1); /* form NFC differs from the text: only well-formedness */
    }
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
    check_text(toks[data[0] & 3], (data[0] & 3) == 3, text, bytes, &options);
    return 0;
}
