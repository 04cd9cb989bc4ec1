/* spaced_text.h - text as the vocabularies of SentencePiece want it.
 *
 * A space goes in front where the model was trained so, runs of spaces become one where it wants that,
 * U+2581 is a space, and characters are replaced by the model's own table, if it has one. A kind that
 * has tokens for all bytes keeps bytes that are no UTF-8; for others they become U+FFFD.
 *
 * The table (tokenizer.ggml.precompiled_charsmap, SentencePiece's normalizer_spec): the bytes of a
 * trie as a little-endian u32, the trie, then texts that each end in a NUL. The trie is Darts-clone's
 * double array of u32 units, which this file walks and never trusts:
 *
 *   bits 0..7   the byte that led here; bit 31 set: no byte leads here
 *   bit  8      a key ends here; its value is in the unit that `offset` leads to (bits 0..30)
 *   bit  9      the offset below is multiplied by 256
 *   bits 10..30 offset: child for byte c is at (index ^ offset) ^ c
 *
 * Thread  a charsmap: any; a spaced_buffer belongs to one call. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_SPACED_TEXT_H
#define ESPALIER_TEXT_SPACED_TEXT_H

#include "engine/text/tokenizer.h"

/* A replacement is this long at most (the longest of Unicode's NFKC has 33 bytes). */
enum { CHARSMAP_REPLACEMENT_MAX = 64 };

typedef struct charsmap {
    uint32_t unit_count;
    uint32_t *units;
    uint32_t text_bytes;
    char *texts;
} charsmap;

/* Copies the table; bytes 0: a table that replaces nothing. */
ESP_CHECKED esp_code charsmap_open(charsmap *map, const void *bytes, size_t count, esp_error *err);
void charsmap_close(charsmap *map);

/* The longest key that text begins with; returns its bytes and its replacement, 0 when there is none. */
size_t charsmap_find(const charsmap *map, tok_text text, tok_text *replacement);

/* The shortest key that text begins with, whatever follows; false when there is none. */
bool charsmap_find_first(const charsmap *map, tok_text text, tok_text *replacement);

typedef struct spaced_rules {
    charsmap map;
    bool prefix;      /* a space in front of a text that is not empty */
    bool collapse;    /* runs of spaces become one, none at the ends */
    bool keep_broken; /* bytes that are no UTF-8 stay */
} spaced_rules;

/* Work memory, grown as texts need it; holds the last result. All-zero is empty. */
typedef struct spaced_buffer {
    char *at;
    size_t count, capacity;
} spaced_buffer;
void spaced_free(spaced_buffer *buffer);

/* The text between two special tokens; the result lies in the buffer until the next call. */
tok_text spaced_of(const spaced_rules *rules, spaced_buffer *buffer, tok_text text);

#endif
