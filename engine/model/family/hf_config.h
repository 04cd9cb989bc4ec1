/* hf_config.h - the config.json of a Hugging Face folder; its keys: hf_keys.h. Which ids end a
 * generation is the tokenizer's to know.
 *
 * A null counts as a missing key; where the two differ, hf_is_null tells. The keys of the text model
 * stand at the top, or in `text_config` where the folder holds more than text.
 *
 * Ownership  texts point into the config.
 * Thread     read-only once opened: any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_HF_CONFIG_H
#define ESPALIER_MODEL_HF_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

enum { HF_CONFIG_BYTES_MAX = 16 << 20 };

typedef struct hf_config hf_config;
struct json_t;

/* Reads folder/config.json. */
ESP_CHECKED esp_code hf_config_open(hf_config **out, const char *folder, esp_error *err);
/* The same over bytes in memory, which are not looked at again. */
ESP_CHECKED esp_code hf_config_open_memory(hf_config **out, const void *bytes, size_t count,
                                           esp_error *err);
void hf_config_close(hf_config *config);

/* One object of the file. */
typedef struct hf_section {
    const struct json_t *object; /* NULL: there is none, every key is missing */
    const char *file;            /* for error sentences, as is the path: "rope_scaling." */
    char path[72];
} hf_section;

hf_section hf_config_root(const hf_config *config);
/* Where the keys of the text model stand: text_config, or the root. */
hf_section hf_config_text(const hf_config *config);
bool hf_config_is_nested(const hf_config *config); /* they stand in text_config */
/* `architectures[0]`, or NULL. */
const char *hf_config_class(const hf_config *config);
/* `quantization_config`: how the weights are packed; object NULL: they are plain. */
ESP_CHECKED esp_code hf_config_quantization(const hf_config *config, hf_section *out,
                                            esp_error *err);

#endif
