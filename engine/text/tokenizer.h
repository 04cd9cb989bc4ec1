/* tokenizer.h - text <-> token ids.
 *
 * Five kinds, four of them as tokenizer.ggml.model names them; unknown names are refused:
 *
 *   gpt2   byte-level BPE; the pre-tokenizer pattern is chosen by name (tokenizer.ggml.pre) from the
 *          table in pretokenize.c
 *   llama  SentencePiece's BPE: merges by score, bytes where no token fits
 *   t5     SentencePiece's unigram: the most likely cut
 *   bert   WordPiece: words by BERT's rules, the longest tokens of each
 *   bpe    BPE of characters with a list of merges (tokenizer.json of Llama 2, Mistral, Gemma)
 *
 * What happens to text before it is merged is the kind's rule, or a tok_plan: what a tokenizer.json
 * declares, step by step.
 *
 * Ownership  tok_open copies what it needs out of tok_source.
 * Thread     read-only after open: any thread may encode and decode at once. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_TOKENIZER_H
#define ESPALIER_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

typedef struct tokenizer tokenizer;

/* A piece of text that is not NUL-terminated. */
typedef struct tok_text {
    const char *at;
    size_t bytes;
} tok_text;

typedef enum tok_type { /* numbers of tokenizer.ggml.token_type */
                        TOK_NORMAL = 1,
                        TOK_UNKNOWN = 2,
                        TOK_CONTROL = 3,
                        TOK_USER_DEFINED = 4,
                        TOK_UNUSED = 5,
                        TOK_BYTE = 6
} tok_type;

/* How a special token is matched in text. */
typedef enum tok_strip {
    TOK_STRIP_BEFORE = 1, /* it swallows white space */
    TOK_STRIP_AFTER = 2,
    TOK_SINGLE_WORD = 4, /* not beside a word's character */
    TOK_NORMALIZED = 8,  /* it is looked for in normalised text; with a plan alone */
    TOK_MATCHED = 16,    /* matching is the only way to it: merging does not know it */
} tok_strip;

/* ---- what a tokenizer.json declares (engine/text/normalize.h and pretokenize.h compute it) ---- */

typedef enum tok_normal_kind {
    TOK_NFC,
    TOK_NFD,
    TOK_NFKC,
    TOK_NFKD,
    TOK_LOWERCASE,     /* each character by itself */
    TOK_STRIP_ACCENTS, /* marks vanish */
    TOK_STRIP_SPACES,  /* at the ends: left, right */
    TOK_PREPEND,       /* text, unless there is nothing to put it before */
    TOK_REPLACE,       /* every match of pattern by text */
    TOK_CHARSMAP       /* pattern is SentencePiece's precompiled_charsmap, by grapheme */
} tok_normal_kind;

/* One step of normalisation. */
typedef struct tok_normal {
    tok_normal_kind kind;
    tok_text pattern, text;
    bool is_regex;
    bool left, right;
} tok_normal;

typedef enum tok_split_kind {
    TOK_SPLIT_REGEX,
    TOK_SPLIT_LITERAL,
    TOK_SPLIT_DIGITS,      /* each a match */
    TOK_SPLIT_PUNCTUATION, /* each a match */
    TOK_SPLIT_PREFIX, /* puts `pattern` in front of a piece that does not begin so; cuts nothing */
    TOK_SPLIT_MARKS   /* a space becomes U+2581 */
} tok_split_kind;

/* What becomes of a match and its neighbours, as the `tokenizers` library names it. */
typedef enum tok_behavior {
    TOK_ISOLATED,
    TOK_REMOVED,
    TOK_WITH_PREVIOUS,
    TOK_WITH_NEXT,
    TOK_CONTIGUOUS
} tok_behavior;

/* One stage of cutting. */
typedef struct tok_split {
    tok_split_kind kind;
    tok_behavior behavior;
    tok_text pattern;
    bool invert;     /* what is between matches counts as match */
    bool first_only; /* TOK_SPLIT_PREFIX: at the beginning of the text alone */
} tok_split;

enum { TOK_STEPS_MAX = 32 };

typedef struct tok_plan {
    uint32_t normal_count, split_count; /* TOK_STEPS_MAX at most */
    const tok_normal *normals;
    const tok_split *splits;
} tok_plan;

/* What a model file says of its tokenizer. */
typedef struct tok_source {
    const char *kind; /* tokenizer.ggml.model: "gpt2" */
    const char *pre;  /* tokenizer.ggml.pre: "smollm"; kind gpt2 alone */
    uint32_t token_count;
    const tok_text *tokens; /* in the byte-level alphabet for kind gpt2; else U+2581 is a space */
    const int32_t *types;   /* tok_type, or NULL: all normal */
    const uint8_t *strips;  /* per token: tok_strip bits, or NULL: none */
    const double *fine_scores; /* kind t5: instead of scores, or NULL */
    const float *scores;       /* per token; kinds llama and t5 */
    int32_t unknown;           /* stands for what has no token; all but gpt2; -1: none */
    bool add_space_prefix;     /* kinds llama, t5: a space goes in front of text */
    bool collapse_spaces;      /* kinds llama, t5: runs of spaces become one, none at the ends */
    bool uncased;              /* kind bert: lower-case, without accents */
    const void *charsmap;      /* kind t5: SentencePiece's precompiled_charsmap */
    size_t charsmap_bytes;
    uint32_t merge_count;
    const tok_text *merges; /* "left right", best first */
    bool merges_are_pairs;  /* merges has 2 * merge_count texts, left and right */
    /* Kind gpt2: any two that make a token merge, the least id first (tiktoken). */
    bool merges_by_id;
    bool raw_bytes;        /* kind gpt2: tokens are spelled as they are, not in the byte alphabet */
    bool take_whole;       /* with a plan: a piece that is one token is not merged */
    bool fuse_unknown;     /* kind bpe: one unknown token for neighbours */
    bool drop_first_space; /* with a plan: a text made of ids leaves its first space out */
    const char *origin;    /* the merges' name in error sentences, or NULL: tokenizer.ggml.merges */
    const tok_plan *plan;  /* or NULL: the kind's own way, or that of `pre` */
    int32_t bos, eos;      /* -1: none */
    bool add_bos, add_eos; /* the tokenizer's own rule */
    uint32_t eog_count;    /* further ids that end a generation (eot, im_end) */
    const int32_t *eog;
} tok_source;

ESP_CHECKED esp_code tok_open(tokenizer **out, const tok_source *source, esp_error *err);
/* The last one to close it frees it. */
void tok_close(tokenizer *tok);
/* One more who closes it; NULL stays NULL. */
tokenizer *tok_share(tokenizer *tok);

/* A token that a tokenizer gets besides those of its vocabulary. */
typedef struct tok_added {
    tok_text text;
    bool special;   /* a control token; else user-defined: matched in any text */
    bool ends;      /* it ends a generation */
    uint8_t strips; /* tok_strip bits */
} tok_added;

/* One more than the last id that is a token of the vocabulary's, no placeholder. */
uint32_t tok_next_id(const tokenizer *tok);
/* The tokenizer `base` with further tokens, whose ids go on from tok_next_id. They are found as text and never
 * merged to. Copies them; what both share is the base's, which is closed after all that go on from it.
 * ESP_INVALID: one is empty, too long, or the base's already; ESP_UNIMPLEMENTED: one cannot be told apart
 * from a client's text. */
ESP_CHECKED esp_code tok_open_more(tokenizer **out, const tokenizer *base, const tok_added *added,
                                   uint32_t count, esp_error *err);
/* One more id that ends a generation. */
void tok_add_end(tokenizer *tok, int32_t id);

uint32_t tok_count(const tokenizer *tok);
int32_t tok_bos(const tokenizer *tok); /* -1: none */
int32_t tok_eos(const tokenizer *tok);
bool tok_ends_generation(const tokenizer *tok, int32_t id); /* eos, eot and their like */
/* The id of a token's own text ("<|im_start|>"), or -1. */
int32_t tok_find(const tokenizer *tok, const char *text);
/* Raw bytes the token stands for, U+2581 as a space; control tokens give their name. Empty for ids out
 * of range. */
tok_text tok_bytes(const tokenizer *tok, int32_t id);
bool tok_is_control(const tokenizer *tok, int32_t id);

/* Growable array of ids; all-zero is empty; tok_ids_free when done. */
typedef struct tok_ids {
    int32_t *at;
    uint32_t count, capacity;
} tok_ids;
void tok_ids_free(tok_ids *ids);

/* Half-open byte range of the text inside which special tokens are plain text. */
typedef struct tok_span {
    size_t begin, end;
} tok_span;

typedef struct tok_encode_options {
    bool add_special;      /* apply the tokenizer's own BOS/EOS rule */
    bool parse_special;    /* special-token text in the input becomes the special token */
    const tok_span *plain; /* with parse_special: ranges (ascending, disjoint) where it does not */
    uint32_t plain_count;
    uint32_t ids_max; /* stop with ESP_INVALID beyond this many ids; 0 = no limit */
} tok_encode_options;

/* Appends the ids of text to out. Any bytes are accepted: invalid UTF-8 goes byte by byte (kind t5: as
 * U+FFFD; bert: not at all). About linear in the length, whatever the text. ESP_INVALID beyond TOK_TEXT_BYTES_MAX bytes or ids_max ids; out is then
 * as it was. A byte for which the vocabulary has no token (SmolLM2 lacks some control bytes) leaves no id,
 * as in the reference. User-defined tokens are ordinary text of the model: they are matched everywhere. */
enum { TOK_TEXT_BYTES_MAX = 16 << 20 };
ESP_CHECKED esp_code tok_encode(const tokenizer *tok, const char *text, size_t bytes,
                                const tok_encode_options *options, tok_ids *out, esp_error *err);

/* Streaming detokenisation: feed ids, get bytes; never half a UTF-8 character. Incomplete bytes are held
 * back (at most 3) until they are complete or proven invalid (then U+FFFD, as the Unicode standard's
 * "maximal subpart" practice says). All-zero is the start state.
 *
 * Where encoding puts a space in front of a text, and in front of bert's words, a stream leaves its
 * first one out, so that text comes back as it was. A stream that goes on behind other text (a raw
 * completion) sets `begun` before its first token and keeps that space. */
typedef struct tok_stream {
    uint8_t held[4];
    uint8_t held_count;
    bool begun; /* something was shown */
} tok_stream;

/* Writes at most TOK_PIECE_MAX bytes into out; returns how many. Control tokens give nothing unless
 * show_control. */
enum { TOK_PIECE_MAX = 1024 };
size_t tok_stream_next(const tokenizer *tok, tok_stream *stream, int32_t id, bool show_control,
                       char out[TOK_PIECE_MAX]);
/* What is still held, as U+FFFD; ends the stream. */
size_t tok_stream_end(tok_stream *stream, char out[TOK_PIECE_MAX]);

#endif
