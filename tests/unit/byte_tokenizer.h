/* byte_tokenizer.h - a tokenizer of 256 single bytes, for tests: token i is byte i. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TESTS_BYTE_TOKENIZER_H
#define ESPALIER_TESTS_BYTE_TOKENIZER_H

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/tokenizer.h"

/* The GPT-2 byte alphabet: printable bytes stand for themselves, the others from U+0100 on. */
static inline size_t byte_alphabet(uint8_t byte, char out[3]) {
    uint32_t point = byte;
    bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    if (!printable) {
        point = 256;
        for (uint32_t b = 0; b < byte; b++)
            if (!((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174)) point++;
    }
    if (point < 128) {
        out[0] = (char)point;
        return 1;
    }
    out[0] = (char)(0xc0 | (point >> 6));
    out[1] = (char)(0x80 | (point & 63));
    return 2;
}

static inline int32_t byte_token(uint8_t byte) {
    return byte;
}

static inline tokenizer *byte_tokenizer(void) {
    static char text[256][3];
    static tok_text tokens[256];
    for (int i = 0; i < 256; i++)
        tokens[i] = (tok_text){text[i], byte_alphabet((uint8_t)i, text[i])};
    tok_source source = {.kind = "gpt2",
                         .pre = "gpt-2",
                         .token_count = 256,
                         .tokens = tokens,
                         .bos = -1,
                         .eos = -1};
    tokenizer *tok = NULL;
    esp_error err = {0};
    esp_code code = tok_open(&tok, &source, &err);
    assert(code == ESP_OK);
    (void)code;
    return tok;
}

#endif
