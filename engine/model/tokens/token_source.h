/* token_source.h - a model's tokenizer files as a tok_source: the tokenizer.* metadata of a GGUF file, or the
 * files of a Hugging Face folder. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_TOKEN_SOURCE_H
#define ESPALIER_MODEL_TOKEN_SOURCE_H

#include "engine/base/file.h"
#include "engine/model/format/gguf.h"
#include "engine/text/tokenizer.h"

enum { TOKEN_EOG_MAX = 64 };

/* What tok_open wants, and the arrays it points to. Texts lie in a file's mapping, in the JSON value or in
 * the pool; all-zero is empty. */
typedef struct token_source {
    char kind[32], pre[64];
    tok_text *tokens, *merges;
    int32_t *types;
    float *scores;
    double *fine_scores;
    uint8_t *strips;
    int32_t eog[TOKEN_EOG_MAX];
    tok_plan plan;
    tok_normal normals[TOK_STEPS_MAX];
    tok_split splits[TOK_STEPS_MAX];
    struct json_t *json; /* the tokenizer file's */
    file_view file;
    char *pool; /* respelled tokens */
    uint8_t *charsmap;
    char origin[64];
    tok_source source;
} token_source;

/* Fills *out, which is all-zero and must not move afterwards: source points into it. On failure the
 * caller still frees it. */
ESP_CHECKED esp_code token_source_read(token_source *out, const gguf_file *file, esp_error *err);

/* The same from a folder: the first of tokenizer.json, tekken.json and tokenizer.model that is there (hf_folder.c
 * says what else is read). ESP_NOT_FOUND when the folder has none, ESP_INVALID or ESP_UNIMPLEMENTED with
 * file and field else. */
ESP_CHECKED esp_code token_source_read_folder(token_source *out, const char *folder,
                                              esp_error *err);
void token_source_free(token_source *source);

/* One more id that ends a generation; `where` names it in error sentences. */
ESP_CHECKED esp_code token_source_add_eog(token_source *out, int64_t id, const char *where,
                                          esp_error *err);
/* Every token whose text is the end mark of a chat format. */
ESP_CHECKED esp_code token_source_add_end_marks(token_source *out, const char *where,
                                                esp_error *err);
/* Whether a text is the end mark of a chat format. */
bool token_text_ends(tok_text text);
/* The id of a token by its spelling, or -1. */
int32_t token_source_find(const token_source *source, tok_text text);
/* Points source at the arrays once they are filled. */
void token_source_point(token_source *out);

#endif
