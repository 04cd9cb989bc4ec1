/* bert_words.h - BERT's way from text to words.
 *
 * Control characters and what is no UTF-8 vanish; ideographs stand alone; an uncased model's text is
 * lower-cased and loses its accents (form NFD less its nonspacing marks); white space separates words,
 * and each punctuation mark is one (tokenization.py of the BERT release).
 *
 * Thread  any; a bert_words belongs to one call. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_BERT_WORDS_H
#define ESPALIER_TEXT_BERT_WORDS_H

#include "engine/text/nfc.h"

/* Work memory, grown as texts need it. All-zero is empty. */
typedef struct bert_words {
    char *clean, *words; /* the text after cleaning; the words, one after the other */
    size_t clean_capacity, words_capacity;
    nfc_buffer nfc;
} bert_words;
void bert_words_free(bert_words *w);

/* Who gets the words, in order; an error ends the call and is returned. */
typedef struct bert_visitor {
    esp_code (*word)(void *arg, tok_text word, size_t characters);
    void *arg;
} bert_visitor;

/* Is this one character (whole UTF-8) punctuation to BERT? */
bool bert_is_punctuation(tok_text character);

ESP_CHECKED esp_code bert_cut(bert_words *w, tok_text text, bool uncased,
                              const bert_visitor *visitor);

#endif
