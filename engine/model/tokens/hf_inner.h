/* hf_inner.h - what the readers of a Hugging Face folder's tokenizer files share. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_HF_INNER_H
#define ESPALIER_MODEL_HF_INNER_H

#include <jansson.h>

#include "engine/model/format/folder_files.h"
#include "engine/model/tokens/token_source.h"

enum { HF_PATH_MAX = 160, HF_FILE_BYTES_MAX = 512 << 20 };

/* One tokenizer file being read. */
typedef struct hf_reader {
    const char *file; /* its name, for error sentences */
    token_source *out;
    esp_error *err;
    bool byte_level;  /* the pre-tokenizer ends in the byte alphabet */
    bool bert;        /* BERT's own normaliser and pre-tokenizer */
    bool bert_normal; /* BertNormalizer was seen */
    bool uncased;
    int32_t first_id, last_id; /* what the post-processor puts around a text; -1: nothing */
} hf_reader;

/* "tokenizer.json: model.vocab ..." */
esp_code hf_fail(const hf_reader *r, esp_code code, const char *path, const char *format, ...)
    ESP_PRINTF(4, 5);

/* Parses a whole file; NULL stays in *out when there is none. Duplicate keys are refused, and links that
 * lead out of the folder. */
ESP_CHECKED esp_code hf_load_json(json_t **out, const folder_place *folder, const char *name,
                                  esp_error *err);
/* One member of the file's object alone (json_member.h); *there: there is such a file. */
ESP_CHECKED esp_code hf_load_member(json_t **out, bool *there, const folder_place *folder,
                                    const char *name, const char *key, esp_error *err);

/* A member of an object at path. A missing one (or null) leaves *out alone. */
ESP_CHECKED esp_code hf_get_bool(const hf_reader *r, const json_t *object, const char *path,
                                 const char *key, bool *out);
ESP_CHECKED esp_code hf_get_text(const hf_reader *r, const json_t *object, const char *path,
                                 const char *key, tok_text *out);

/* tokenizer.json, normalizer to decoder: fills out->plan. (hf_pipeline.c) */
ESP_CHECKED esp_code hf_read_pipeline(hf_reader *r, const json_t *root);
/* Its post_processor: fills first_id, last_id; the vocabulary must be there. (hf_ends.c) */
ESP_CHECKED esp_code hf_read_post_processor(hf_reader *r, const json_t *root);
/* Its model and added_tokens. (hf_model.c) */
ESP_CHECKED esp_code hf_read_model(hf_reader *r, const json_t *root);

/* Of one entry of added_tokens: tok_strip bits are set, and special where it says so. */
ESP_CHECKED esp_code hf_read_rules(const hf_reader *r, const json_t *token, uint8_t *rules,
                                   bool *special);
/* "<|...|>" or the like, a chat format's own mark. */
bool hf_looks_like_mark(tok_text text);
/* A member that is a text, or an object with its "content"; of none .at is NULL. (hf_ends.c) */
tok_text hf_token_named(const json_t *object, const char *key);

/* tekken.json. (hf_tekken.c) */
ESP_CHECKED esp_code hf_read_tekken(hf_reader *r, const json_t *root);
/* tokenizer.model, either kind. (hf_sentencepiece.c, hf_ranks.c) */
ESP_CHECKED esp_code hf_read_model_file(hf_reader *r, const file_view *file);
ESP_CHECKED esp_code hf_read_ranks(hf_reader *r, const file_view *file);

/* BOS and EOS of the folder's other files, ids that end a generation. (hf_ends.c) */
ESP_CHECKED esp_code hf_read_ends(hf_reader *r, const folder_place *folder);

/* Base64 (RFC 4648, padded) into out, which has room for 3/4 of it; false when it is none. */
bool hf_decode_base64(tok_text text, uint8_t *out, size_t *count);

#endif
