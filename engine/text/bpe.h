/* bpe.h - byte-pair merging inside one piece of text.
 *
 * A piece begins as one token per byte (kind bpe: per character); again and again the neighbouring pair with the best rank
 * (the leftmost of equals) becomes one token, until no pair has a rank (Sennrich et al.,
 * arXiv:1508.07909; on bytes: GPT-2). Short pieces look for the best pair by scanning, long ones
 * keep a heap, so that a piece of n bytes costs O(n log n) whatever it holds.
 *
 * A byte that has no token of its own leaves no id and its neighbours become adjacent, as in the
 * `tokenizers` library without an unknown token. A character without one becomes its bytes' tokens if
 * each has one, else the unknown token.
 *
 * Which pairs have a rank: the list of merges says it; or (tiktoken) every pair that makes a token, whose
 * id is the rank.
 *
 * Thread  the tables: any; a bpe_scratch belongs to one call at a time. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_BPE_H
#define ESPALIER_TEXT_BPE_H

#include "engine/text/ids.h"
#include "engine/text/merge_heap.h"
#include "engine/text/vocab.h"

typedef struct bpe bpe;

/* Borrows the vocabulary. A merge whose parts or result are not in it is refused by its index.
 * take_whole: a piece that is one token is taken as it is, without merging (Llama 3's rule). */
ESP_CHECKED esp_code bpe_open(bpe **out, const vocab *v, const tok_source *source, bool take_whole,
                              esp_error *err);
void bpe_close(bpe *b);

/* Work memory, grown as pieces need it. All-zero is empty. */
typedef struct bpe_scratch {
    uint32_t capacity;         /* symbols */
    int32_t *ids;              /* token of a symbol */
    uint32_t *previous, *next; /* its living neighbours */
    uint32_t *ranks;           /* rank of the pair that it begins */
    merge_heap heap;           /* [2 * capacity] */
} bpe_scratch;
void bpe_scratch_free(bpe_scratch *scratch);

/* Appends the ids of one piece; bytes < 2^31. */
void bpe_encode(bpe *b, bpe_scratch *scratch, const char *piece, size_t bytes, tok_ids *out);

#endif
