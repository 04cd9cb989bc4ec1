/* tokenizer_inner.h - what an open tokenizer is made of: for tokenizer.c, encode.c, detokenize.c. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_TOKENIZER_INNER_H
#define ESPALIER_TEXT_TOKENIZER_INNER_H

#include <stdatomic.h>

#include "engine/text/bpe.h"
#include "engine/text/normalize.h"
#include "engine/text/pretokenize.h"
#include "engine/text/spaced_text.h"
#include "engine/text/specials.h"
#include "engine/text/spm.h"
#include "engine/text/tokenizer.h"
#include "engine/text/unigram.h"
#include "engine/text/vocab.h"
#include "engine/text/wordpiece.h"

struct tokenizer {
    _Atomic uint32_t users; /* who will close it */
    bool goes_on; /* tok_open_more's: normal to wordpiece, vocab.slots and spaced are its base's */
    vocab vocab; /* vocab.kind says which of the next are open */
    specials specials;
    bool planned;        /* text goes the way of a tok_plan: */
    normalizer *normal;  /* first this, */
    specials later;      /* then tokens that are looked for in normalised text, */
    pretokenizer *pre;   /* then this (kind gpt2: always) */
    bpe *bpe;            /* gpt2, bpe */
    spaced_rules spaced; /* llama, t5 */
    spm *spm;            /* llama */
    unigram *unigram;    /* t5 */
    wordpiece wordpiece; /* bert */
    char *shown; /* where the vocabulary's tokens are raw: they with U+2581 as a space, or NULL */
    uint32_t *shown_starts; /* [vocab.count + 1] */
    bool uncased;
    bool drops_first_space; /* when text is made of ids */
    int32_t bos, eos;
    bool add_bos, add_eos;
    uint32_t eog_count;
    int32_t *eog;
};

/* Fills `shown`, of a vocabulary whose tokens are raw. */
void tok_show_tokens(tokenizer *tok);

#endif
