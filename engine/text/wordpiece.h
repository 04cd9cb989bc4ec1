/* wordpiece.h - the longest tokens of a word, from its beginning on.
 *
 * A word's first token is one that the vocabulary keeps with a space in front, the others are kept
 * without. A word that cannot be written so, or is longer than WORDPIECE_WORD_MAX characters, is the
 * unknown token as a whole (Wu et al., arXiv:1609.08144; BERT's tokenization.py).
 *
 * Thread  read-only after open: any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_WORDPIECE_H
#define ESPALIER_TEXT_WORDPIECE_H

#include "engine/text/ids.h"
#include "engine/text/trie.h"
#include "engine/text/vocab.h"

enum { WORDPIECE_WORD_MAX = 100 };

typedef struct wordpiece {
    const vocab *vocab; /* borrowed */
    trie trie;
} wordpiece;

/* Refused when the vocabulary has no unknown token. */
ESP_CHECKED esp_code wordpiece_open(wordpiece *w, const vocab *v, esp_error *err);
void wordpiece_close(wordpiece *w);

/* Appends the ids of one word of so many characters. */
void wordpiece_encode(const wordpiece *w, tok_text word, size_t characters, tok_ids *out);

#endif
