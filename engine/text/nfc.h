/* nfc.h - Unicode normalisation forms, in linear time.
 *
 * Thread  any; an nfc_buffer belongs to one call at a time. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_NFC_H
#define ESPALIER_TEXT_NFC_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/text/tokenizer.h"

/* Work memory, grown as texts need it; holds the last result. All-zero is empty. */
typedef struct nfc_buffer {
    int32_t *points; /* code points, then (in place) the UTF-8 of the result */
    int32_t *sorted; /* a run of combining marks */
    size_t capacity, sorted_capacity;
} nfc_buffer;
void nfc_free(nfc_buffer *buffer);

/* text must be well-formed UTF-8. The result is text itself where nothing can change, else it lies
 * in the buffer until the next call. */
tok_text nfc_of(nfc_buffer *buffer, tok_text text);

/* Any of the four forms: composed (C, KC) or not (D, KD), compatible (KC, KD) or not. As nfc_of. */
tok_text nfc_form(nfc_buffer *buffer, tok_text text, bool composed, bool compatible);

/* The text's code points, in form NFD where decomposed is set; they lie in the buffer until the next
 * call. */
const int32_t *nfc_points(nfc_buffer *buffer, tok_text text, bool decomposed, size_t *count);

#endif
