/* sentence_files.h - the files that sentence-transformers puts beside a model: how a text becomes one
 * vector.
 *
 *   modules.json                {"type": "...models.Transformer"}, Pooling, and maybe Normalize
 *   1_Pooling/config.json       pooling_mode_*: exactly one is true
 *   sentence_bert_config.json   max_seq_length, which overrides what the tokenizer was saved with
 *   tokenizer_config.json       model_max_length, where there is no max_seq_length
 *   config_sentence_transformers.json   default_prompt_name: no prompt is put before texts
 *
 * A module of another type (a dense layer, a word weighting) is refused by name, and so is a pooling
 * that is not computed. Prompts that a model was trained with are the caller's: one
 * that the reference would add by itself is refused. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_SENTENCE_FILES_H
#define ESPALIER_MODEL_SENTENCE_FILES_H

#include <stddef.h>

#include "engine/base/status.h"
#include "engine/model/spec.h"

/* Fills pooling, normalise and input_max of a spec whose shape is known. A folder without modules.json:
 * a decoder generates, an encoder is refused. */
ESP_CHECKED esp_code sentence_read_files(const char *folder, model_spec *spec, esp_error *err);

enum { SENTENCE_FILE_COUNT = 5 };
typedef struct sentence_bytes {
    const void *at; /* NULL: there is no such file */
    size_t count;
} sentence_bytes;
/* The same over the bytes of the files, in the order in which they stand above. */
ESP_CHECKED esp_code sentence_read_memory(const sentence_bytes files[SENTENCE_FILE_COUNT],
                                          model_spec *spec, esp_error *err);

#endif
