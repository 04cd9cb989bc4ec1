/* piece_vocab.h - a hand-made vocabulary of the kinds llama, t5 or bert, for tests. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TESTS_PIECE_VOCAB_H
#define ESPALIER_TESTS_PIECE_VOCAB_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/tokenizer.h"

enum { PIECE_MAX = 400, PIECE_UNK = 0, PIECE_BOS, PIECE_EOS, PIECE_BYTES };

/* Kind llama and t5: with_bytes puts byte b at PIECE_BYTES + b. */
typedef struct piece_vocab {
    tok_source source; /* points into the arrays below: do not move */
    tok_text tokens[PIECE_MAX];
    int32_t types[PIECE_MAX];
    uint8_t strips[PIECE_MAX];
    float scores[PIECE_MAX];
    char bytes[256][8];
} piece_vocab;

/* Adds a token; returns its id. */
static inline int32_t piece_add(piece_vocab *p, const char *text, int32_t type, float score) {
    uint32_t id = p->source.token_count++;
    p->tokens[id] = (tok_text){text, strlen(text)};
    p->types[id] = type;
    p->scores[id] = score;
    return (int32_t)id;
}

static inline piece_vocab *piece_new(const char *kind, bool with_bytes) {
    piece_vocab *p = calloc(1, sizeof *p);
    p->source = (tok_source){.kind = kind,
                             .tokens = p->tokens,
                             .types = p->types,
                             .scores = p->scores,
                             .strips = p->strips,
                             .unknown = PIECE_UNK,
                             .bos = PIECE_BOS,
                             .eos = PIECE_EOS};
    piece_add(p, "<unk>", TOK_UNKNOWN, 0);
    piece_add(p, "<s>", TOK_CONTROL, 0);
    piece_add(p, "</s>", TOK_CONTROL, 0);
    for (int b = 0; with_bytes && b < 256; b++) {
        snprintf(p->bytes[b], sizeof p->bytes[b], "<0x%02X>", b);
        piece_add(p, p->bytes[b], TOK_BYTE, 0);
    }
    return p;
}

#endif
