/* spm.h - SentencePiece's byte-pair merging of one stretch of text.
 *
 * Text begins as one symbol per character; again and again the neighbouring pair whose joined text is
 * the token with the highest score (the leftmost of equals) becomes one symbol, until no pair is a
 * token. Unlike bpe.h there is no list of merges: the vocabulary's scores say it all (Kudo and
 * Richardson, arXiv:1808.06226). A symbol that is no token gives its bytes' tokens or the unknown one.
 *
 * Thread  the tables: any; an spm_scratch belongs to one call at a time. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_SPM_H
#define ESPALIER_TEXT_SPM_H

#include "engine/text/ids.h"
#include "engine/text/merge_heap.h"
#include "engine/text/vocab.h"

typedef struct spm spm;

/* Borrows the vocabulary. Scores that are missing or no numbers are refused. */
ESP_CHECKED esp_code spm_open(spm **out, const vocab *v, const tok_source *source, esp_error *err);
void spm_close(spm *s);

/* Work memory, grown as texts need it. All-zero is empty. */
typedef struct spm_scratch {
    uint32_t capacity;         /* symbols */
    uint32_t *begins;          /* where a symbol's text begins */
    uint32_t *previous, *next; /* its living neighbours */
    uint32_t *ranks;           /* of the pair that it begins */
    int32_t *ids;              /* token of a joined symbol; VOCAB_NONE: not looked up */
    int32_t *made;             /* token that the pair would make */
    merge_heap heap;           /* [2 * capacity] */
} spm_scratch;
void spm_scratch_free(spm_scratch *scratch);

/* Appends the ids of text, bytes < 2^31; floor as in vocab_add_unknown. */
void spm_encode(spm *s, spm_scratch *scratch, tok_text text, uint32_t floor, tok_ids *out);

#endif
