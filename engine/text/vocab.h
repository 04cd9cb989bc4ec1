/* vocab.h - the tokens of a vocabulary, as the bytes they stand for.
 *
 * Control, unknown and user-defined tokens are their literal text. Ordinary ones are spelled as the
 * kind has it, and kept as real bytes:
 *
 *   gpt2       GPT-2's byte alphabet, in which each byte is a printable character
 *              (or, where the source says so, plain bytes)
 *   llama, t5  U+2581 is a space; a byte token is written <0x0A>
 *   t5 with a plan, bpe  the same, but U+2581 is itself, as the plan's steps made it
 *   bert       U+2581 in front marks the beginning of a word and is kept as a space
 *
 * Only what plain text may turn into is indexed for vocab_find: control,
 * unknown and byte tokens never are, so that no text becomes one of them except through specials.h
 * or vocab_add_unknown.
 *
 * Thread  read-only after open: any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_VOCAB_H
#define ESPALIER_TEXT_VOCAB_H

#include <string.h>

#include "engine/text/tokenizer.h"

typedef enum vocab_kind {
    VOCAB_BPE,
    VOCAB_SPM,
    VOCAB_UNIGRAM,
    VOCAB_WORDPIECE,
    VOCAB_CHARS
} vocab_kind;

enum {
    VOCAB_TOKENS_MAX = 1 << 24,
    VOCAB_NONE = -1,
};

typedef struct vocab {
    vocab_kind kind;
    uint32_t count;
    uint32_t longest; /* bytes of the longest token */
    char *pool;       /* all tokens' bytes */
    uint32_t *starts; /* [count + 1] offsets into pool */
    uint8_t *types;   /* [count] tok_type */
    bool *closed;     /* [count] plain text never turns into it */
    int32_t *slots;   /* [mask + 1] open addressing by bytes: id or VOCAB_NONE */
    uint32_t mask;
    int32_t byte_ids[256]; /* token of a single byte; VOCAB_NONE: the vocabulary has none */
    bool has_bytes;        /* it has all 256 */
    bool crosses[256]; /* not gpt2, bert: some token has this byte before an inner space (U+2581) */
    bool raw;          /* tokens are spelled as they are: in plain bytes, U+2581 is itself */
    int32_t unknown;   /* of all kinds but gpt2; VOCAB_NONE: none */
} vocab;

/* The kind that tokenizer.ggml.model names; an unknown one is ESP_UNIMPLEMENTED with the list. */
ESP_CHECKED esp_code vocab_kind_of(const char *name, vocab_kind *out, esp_error *err);

/* Fills *v from the source's tokens and types. vocab_close takes a zeroed or half-filled one. */
ESP_CHECKED esp_code vocab_open(vocab *v, const tok_source *source, esp_error *err);
void vocab_close(vocab *v);

/* A copy of `from` that has `count` tokens from id `first` on, instead of what stands there and behind; with the
 * slots of `from`, for no text is merged to them. Each is at most VOCAB_ADDED_BYTES_MAX long. */
enum { VOCAB_ADDED_BYTES_MAX = 256 };
void vocab_copy_with(vocab *v, const vocab *from, uint32_t first, const tok_added *added,
                     uint32_t count);

/* The token that stands for exactly these bytes, or VOCAB_NONE. */
int32_t vocab_find(const vocab *v, const char *bytes, size_t count);

static inline tok_text vocab_bytes(const vocab *v, uint32_t id) {
    return (tok_text){v->pool + v->starts[id], v->starts[id + 1] - v->starts[id]};
}

/* Control and unknown tokens: never made from plain text, not shown to readers. */
static inline bool vocab_is_control(const vocab *v, uint32_t id) {
    return v->types[id] == TOK_CONTROL || v->types[id] == TOK_UNKNOWN;
}

/* May plain text turn into this token? */
static inline bool vocab_is_text(const vocab *v, uint32_t id) {
    return !v->closed[id] && v->starts[id + 1] > v->starts[id];
}

/* Does a space (where tokens are raw, U+2581) stand at `at` > 0, behind something else? */
static inline bool vocab_word_begins(const vocab *v, tok_text text, size_t at) {
    const char *here = text.at + at;
    if (!v->raw) return here[0] == ' ' && here[-1] != ' ';
    static const char mark[] = {'\xe2', '\x96', '\x81'};
    if (here[0] != mark[0] || text.bytes - at < 3 || memcmp(here, mark, 3) != 0) return false;
    return at < 3 || memcmp(here - 3, mark, 3) != 0;
}

/* Appends what stands for bytes that no token covers: their byte tokens where the vocabulary has all
 * 256, else its unknown token, once for neighbours (what was in out before `floor` is none). */
void vocab_add_unknown(const vocab *v, tok_text bytes, uint32_t floor, tok_ids *out);

/* A spelling of the vocabulary's kind -> the text it stands for, as vocab_find wants it; at most text.bytes
 * into out. False when it is none. */
bool vocab_decode(const vocab *v, tok_text text, char *out, size_t *count);

/* Text in the byte alphabet -> bytes, at most text.bytes of them, into out; *count says how many.
 * False when a character is not of the alphabet. */
bool vocab_decode_alphabet(tok_text text, char *out, size_t *count);

#endif
