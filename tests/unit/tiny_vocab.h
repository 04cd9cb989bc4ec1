/* tiny_vocab.h - a hand-made vocabulary for tests: 256 single bytes (token i is byte i), then what
 * the merges make, then special tokens. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TESTS_TINY_VOCAB_H
#define ESPALIER_TESTS_TINY_VOCAB_H

#include <stdlib.h>
#include <string.h>

#include "engine/text/tokenizer.h"
#include "tests/unit/byte_tokenizer.h"

enum { TINY_MAX = 320 };

typedef struct tiny_vocab {
    tok_source source; /* points into the arrays below: do not move */
    char bytes[256][3];
    char made[TINY_MAX][32];
    tok_text tokens[TINY_MAX], merges[TINY_MAX];
    int32_t types[TINY_MAX];
} tiny_vocab;

/* Adds a token; returns its id. */
static inline int32_t tiny_add(tiny_vocab *tiny, const char *text, size_t bytes, int32_t type) {
    uint32_t id = tiny->source.token_count++;
    tiny->tokens[id] = (tok_text){text, bytes};
    tiny->types[id] = type;
    return (int32_t)id;
}

static inline int32_t tiny_special(tiny_vocab *tiny, const char *text, int32_t type) {
    return tiny_add(tiny, text, strlen(text), type);
}

/* Adds "left right" (in the byte alphabet) and the token it makes; returns that token's id. */
static inline int32_t tiny_merge(tiny_vocab *tiny, const char *merge) {
    uint32_t index = tiny->source.merge_count++;
    const char *space = strchr(merge, ' ');
    char *made = tiny->made[index];
    size_t left = (size_t)(space - merge), right = strlen(space + 1);
    memcpy(made, merge, left);
    memcpy(made + left, space + 1, right);
    tiny->merges[index] = (tok_text){merge, strlen(merge)};
    return tiny_add(tiny, made, left + right, TOK_NORMAL);
}

static inline tiny_vocab *tiny_new(const char *pre) {
    tiny_vocab *tiny = calloc(1, sizeof *tiny);
    tiny->source = (tok_source){.kind = "gpt2",
                                .pre = pre,
                                .tokens = tiny->tokens,
                                .types = tiny->types,
                                .merges = tiny->merges,
                                .bos = -1,
                                .eos = -1};
    for (int b = 0; b < 256; b++)
        tiny_add(tiny, tiny->bytes[b], byte_alphabet((uint8_t)b, tiny->bytes[b]), TOK_NORMAL);
    return tiny;
}

#endif
