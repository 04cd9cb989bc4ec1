/* token_source.h - the tokenizer.* metadata of a GGUF file as a tok_source. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_TOKEN_SOURCE_H
#define ESPALIER_MODEL_TOKEN_SOURCE_H

#include "engine/model/gguf.h"
#include "engine/text/tokenizer.h"

enum { TOKEN_EOG_MAX = 64 };

/* What tok_open wants, and the arrays it points to. Texts lie in the file's mapping; all-zero is
 * empty. */
typedef struct token_source {
    char kind[32], pre[64];
    tok_text *tokens, *merges;
    int32_t *types;
    float *scores;
    uint8_t *strips;
    int32_t eog[TOKEN_EOG_MAX];
    tok_source source;
} token_source;

/* Fills *out, which is all-zero and must not move afterwards: source points into it. On failure the
 * caller still frees it. */
ESP_CHECKED esp_code token_source_read(token_source *out, const gguf_file *file, esp_error *err);
void token_source_free(token_source *source);

#endif
