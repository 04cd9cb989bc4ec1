/* specials.h - finds tokens that are matched as text before anything is cut or merged.
 *
 * Control and unknown tokens ("<|im_end|>") where the caller allows it, user-defined ones always.
 * The leftmost match counts and, of several that begin there, the longest. One that must be a word of its
 * own and is not uses its place up without a match.
 *
 * Thread  read-only after open: any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_SPECIALS_H
#define ESPALIER_TEXT_SPECIALS_H

#include "engine/text/vocab.h"

typedef struct specials {
    const vocab *vocab; /* borrowed */
    uint32_t count;
    uint32_t *ids;            /* [count] ascending by key */
    tok_text *keys;           /* [count] what is looked for */
    uint32_t first_from[257]; /* ids beginning with byte b: [first_from[b], first_from[b + 1]) */
    bool any_user_defined;
    uint8_t *strips; /* [vocab->count] tok_strip bits, or NULL */
    char *pool;      /* the keys' bytes where they are not the vocabulary's */
} specials;

/* Which text a token is looked for as. NULL: its bytes in the vocabulary. An empty one: not at all. The
 * result is copied before the next call. */
typedef struct specials_key {
    tok_text (*of)(void *arg, uint32_t id);
    void *arg;
} specials_key;

/* strips: tok_strip bits per token, or NULL. */
void specials_open(specials *s, const vocab *v, const uint8_t *strips, const specials_key *key);
/* Those of `base` and, of tokens [first, first + count) of v, what key says. strips as above, of all of v. */
void specials_open_more(specials *s, const specials *base, const vocab *v, const uint8_t *strips,
                        uint32_t first, uint32_t count, const specials_key *key);
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
    size_t base;       /* where the text lies in the one that the spans are of */
} specials_search;

/* Next match at or behind `from`, `bytes` long; false when there is none. Call with ascending `from`. */
bool specials_next(specials_search *search, size_t from, size_t *begin, size_t *bytes,
                   uint32_t *id);

#endif
