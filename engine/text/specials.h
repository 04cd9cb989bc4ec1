/* specials.h - finds tokens that are matched as text before anything is cut or merged.
 *
 * Control and unknown tokens ("<|im_end|>") where the caller allows it, user-defined ones always.
 * The leftmost match counts and, of several that begin there, the longest.
 *
 * Thread  read-only after open: any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_SPECIALS_H
#define ESPALIER_TEXT_SPECIALS_H

#include "engine/text/vocab.h"

typedef struct specials {
    const vocab *vocab; /* borrowed */
    uint32_t count;
    uint32_t *ids;            /* [count] ascending by bytes */
    uint32_t first_from[257]; /* ids beginning with byte b: [first_from[b], first_from[b + 1]) */
    bool any_user_defined;
    uint8_t *strips; /* [vocab->count] tok_strip bits, or NULL */
} specials;

/* strips: tok_strip bits per token, or NULL. */
void specials_open(specials *s, const vocab *v, const uint8_t *strips);
void specials_close(specials *s);

/* The token whose literal text this is, or VOCAB_NONE. */
int32_t specials_find(const specials *s, tok_text text);

/* tok_strip bits of a token. */
static inline uint8_t specials_strips(const specials *s, uint32_t id) {
    return s->strips ? s->strips[id] : 0;
}

/* A search through one text. Control tokens are taken only where they overlap no span. */
typedef struct specials_search {
    const specials *specials;
    tok_text text;
    bool control;          /* take control and unknown tokens at all */
    const tok_span *plain; /* ascending, disjoint */
    uint32_t plain_count;
    uint32_t plain_at; /* first span that ends behind the place looked at */
} specials_search;

/* Next match at or behind `from`; false when there is none. Call with ascending `from`. */
bool specials_next(specials_search *search, size_t from, size_t *begin, uint32_t *id);

#endif
