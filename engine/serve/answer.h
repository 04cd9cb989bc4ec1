/* answer.h - a piece of a request's output as a GenerateResponse. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_ANSWER_H
#define ESPALIER_ANSWER_H

#include "engine/base/mem.h"
#include "engine/request.h"
#include "espalier/v1/inference.pb-c.h"

/* Output tokens [first, end) of r and the text that became final with them. */
typedef struct answer_piece {
    const request *r;
    const tokenizer *tok;
    uint32_t first, end;
    const char *text; /* NUL-terminated or NULL */
} answer_piece;

/* Bytes one token takes in a message, its text aside: at most about this. */
size_t answer_token_bytes(const request *r);

/* Points into r and into the arena; NULL when the arena is full. */
Espalier__V1__GenerateResponse *answer_build(const answer_piece *piece, mem_arena *arena);

/* The messages that the last answer carries; filled from a request that is done. */
typedef struct answer_final {
    Espalier__V1__Final final;
    Espalier__V1__Usage usage;
    Espalier__V1__Timings timings;
    char adapter[REQUEST_ADAPTER_LABEL_BYTES];
} answer_final;
/* final points into itself and into r: not to be copied. */
void answer_fill_final(answer_final *out, const request *r, const char *model, const char *profile);

#endif
