/* adapter_words.h - what goes into an adapter and comes out by name: its tokens, as many as its tables have rows, with
 * the tokenizer that knows them; or the labels of a classifier.
 *
 * Thread  any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_ADAPTER_WORDS_H
#define ESPALIER_ADAPTER_WORDS_H

#include "engine/model/lora/lora_file.h"
#include "engine/text/tokenizer.h"

typedef struct adapter_words {
    uint32_t vocab; /* ids below are its tokens; 0: as many as its base has */
    tokenizer *tok; /* the base's, and its own tokens; NULL: the base's */
    uint32_t label_count;
    const char **labels; /* [label_count] names, or numbers; one block of memory */
    char from[ADAPTER_DIGEST_CHARS]; /* lora_facts.outline: what all this was read from */
} adapter_words;

/* Of an adapter that was opened against its base, or an outline of it; path: its folder. tok: the base's, which
 * outlives what comes out; NULL: nobody asks for texts. ESP_INVALID, ESP_UNIMPLEMENTED: more tokens than are served, or
 * nothing says what they are. */
ESP_CHECKED esp_code adapter_words_open(adapter_words *out, const lora_facts *facts,
                                        const char *path, const model_spec *spec,
                                        const tokenizer *tok, esp_error *err);
void adapter_words_close(adapter_words *words); /* all-zero is fine */

#endif
