/* vocab.h - the tokens of a byte-level vocabulary, as the bytes they stand for.
 *
 * Ordinary tokens come in GPT-2's byte alphabet (each byte a printable character) and are kept as
 * real bytes; control, unknown and user-defined tokens are their literal text. Only what text may
 * turn into by merging is indexed for vocab_find: control and unknown tokens never are, so that no
 * text becomes one of them except through specials.h.
 *
 * Thread  read-only after open: any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_VOCAB_H
#define ESPALIER_TEXT_VOCAB_H

#include "engine/text/tokenizer.h"

enum {
    VOCAB_TOKENS_MAX = 1 << 24,
    VOCAB_NONE = -1,
};

typedef struct vocab {
    uint32_t count;
    uint32_t longest; /* bytes of the longest token */
    char *pool;       /* all tokens' bytes */
    uint32_t *starts; /* [count + 1] offsets into pool */
    uint8_t *types;   /* [count] tok_type */
    int32_t *slots;   /* [mask + 1] open addressing by bytes: id or VOCAB_NONE */
    uint32_t mask;
    int32_t byte_ids[256]; /* token of a single byte; VOCAB_NONE: the vocabulary has none */
} vocab;

/* Fills *v from the source's tokens and types. vocab_close takes a zeroed or half-filled one. */
ESP_CHECKED esp_code vocab_open(vocab *v, const tok_source *source, esp_error *err);
void vocab_close(vocab *v);

/* The token that stands for exactly these bytes, or VOCAB_NONE. */
int32_t vocab_find(const vocab *v, const char *bytes, size_t count);

static inline tok_text vocab_bytes(const vocab *v, uint32_t id) {
    return (tok_text){v->pool + v->starts[id], v->starts[id + 1] - v->starts[id]};
}

/* Control and unknown tokens: never made from plain text, not shown to readers. */
static inline bool vocab_is_control(const vocab *v, uint32_t id) {
    return v->types[id] == TOK_CONTROL || v->types[id] == TOK_UNKNOWN;
}

/* Text in the byte alphabet -> bytes, at most text.bytes of them, into out; *count says how many.
 * False when a character is not of the alphabet. */
bool vocab_decode_alphabet(tok_text text, char *out, size_t *count);

#endif
