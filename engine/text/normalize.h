/* normalize.h - the normalisation that a plan declares, step by step.
 *
 * Thread  a normalizer: any; a normal_buffer belongs to one call. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_NORMALIZE_H
#define ESPALIER_TEXT_NORMALIZE_H

#include "engine/text/nfc.h"
#include "engine/text/tokenizer.h"

typedef struct normalizer normalizer;

/* ESP_INVALID or ESP_UNIMPLEMENTED names a step that cannot be computed. */
ESP_CHECKED esp_code normalizer_open(normalizer **out, const tok_plan *plan, esp_error *err);
void normalizer_close(normalizer *n);
bool normalizer_does_nothing(const normalizer *n); /* it has no steps; NULL has none */

typedef struct normal_text {
    char *at;
    size_t count, capacity;
} normal_text;

/* Work memory, grown as texts need it. All-zero is empty. */
typedef struct normal_buffer {
    normal_text texts[2]; /* one is read while the other is written */
    nfc_buffer nfc;
} normal_buffer;
void normal_free(normal_buffer *buffer);

/* text must be well-formed UTF-8; goes_on: it continues a text, nothing is put in front. The result is text
 * itself or lies in the buffer until the next call. It may be longer than text: at most
 * NORMAL_BYTES_MAX, else ESP_INVALID. */
enum { NORMAL_BYTES_MAX = 64 << 20 };
ESP_CHECKED esp_code normalizer_apply(const normalizer *n, normal_buffer *buffer, tok_text text,
                                      bool goes_on, tok_text *out, esp_error *err);

#endif
