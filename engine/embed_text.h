/* embed_text.h - a text to embed as the model's tokens, with the tokenizer's own rule at both ends.
 *
 * Thread  any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_EMBED_TEXT_H
#define ESPALIER_EMBED_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/text/tokenizer.h"

typedef struct embed_text_options {
    uint32_t tokens_max; /* what the model takes: engine_context_max */
    bool truncate;       /* longer ones are cut; else refused */
    const char *field;   /* names the text in a refusal: "--text", "inputs[3].text" */
    const char *remedy;  /* how to have it cut: "--truncate" */
} embed_text_options;

/* Appends to *out, which is empty. A cut takes tokens off the text's end: those that the rule put
 * behind it ([SEP]) stay. ESP_INVALID with the count and the limit when the text is too long, or gives
 * no token at all. */
ESP_CHECKED esp_code embed_text_encode(const tokenizer *tok, tok_text text,
                                       const embed_text_options *options, tok_ids *out,
                                       esp_error *err);

#endif
