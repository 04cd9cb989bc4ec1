/* unigram.h - the most likely way to cut one stretch of text into tokens.
 *
 * Each token's score is the logarithm of its probability; of all ways to write the text as tokens the
 * one with the highest sum is taken, found by one pass (Viterbi; Kudo, arXiv:1804.10959). Where no
 * token covers a single character, the unknown one may, at ten below the lowest score.
 *
 * Thread  the tables: any; a unigram_scratch belongs to one call at a time. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_UNIGRAM_H
#define ESPALIER_TEXT_UNIGRAM_H

#include "engine/text/ids.h"
#include "engine/text/vocab.h"

typedef struct unigram unigram;

/* Borrows the vocabulary. Scores that are missing or no numbers are refused. */
ESP_CHECKED esp_code unigram_open(unigram **out, const vocab *v, const tok_source *source,
                                  esp_error *err);
void unigram_close(unigram *u);

/* The best way to write the text up to a place. */
typedef struct unigram_cut {
    double score;
    uint32_t begin; /* of its last token */
    int32_t id;     /* of its last token; VOCAB_NONE: nothing covers it */
} unigram_cut;

/* Work memory, grown as texts need it. All-zero is empty. */
typedef struct unigram_scratch {
    size_t capacity;
    unigram_cut *cuts; /* [capacity] one a byte, and one */
} unigram_scratch;
void unigram_scratch_free(unigram_scratch *scratch);

/* Appends the ids of text, bytes < 2^31; floor as in vocab_add_unknown. */
void unigram_encode(const unigram *u, unigram_scratch *scratch, tok_text text, uint32_t floor,
                    tok_ids *out);

#endif
