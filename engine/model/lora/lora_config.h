/* lora_config.h - adapter_config.json: what PEFT's LoraConfig says of rank, scale and targets.
 *
 * A key with a value that changes the arithmetic and is not computed here is refused by name, and so
 * is one that is not known. Shared by the parts of lora_file.h; nobody else includes it.
 *
 * Ownership  texts point into the config.
 * Thread     read-only once read: any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_LORA_CONFIG_H
#define ESPALIER_MODEL_LORA_CONFIG_H

#include <jansson.h>

#include "engine/model/lora/lora_pattern.h"

enum { LORA_CONFIG_BYTES_MAX = 4 << 20, LORA_TOKEN_ROWS_MAX = 1 << 16 };

/* A list of module names, or one pattern, or everything. */
typedef struct lora_modules {
    const json_t *names; /* list of texts, or NULL */
    lora_pattern *pattern;
    bool any; /* neither was given, or "all-linear" */
} lora_modules;

/* Keys are patterns of modules' names, values numbers; the first that fits counts. */
typedef struct lora_numbers {
    lora_pattern **patterns;
    double *values;
    uint32_t count;
} lora_numbers;

/* All-zero is an empty one. */
typedef struct lora_config {
    json_t *root;
    const char *base_name, *task; /* "" where there is none */
    uint32_t rank;
    double alpha;
    bool rslora, dora, second_bias; /* second_bias: of B, lora_bias */
    bool biases;                    /* the base's are replaced: bias "all" or "lora_only" */
    bool tying;                     /* ensure_weight_tying */
    lora_numbers ranks, alphas;     /* rank_pattern, alpha_pattern */
    lora_modules targets, excluded;
    const json_t *saved;           /* modules_to_save: a list of texts, or NULL */
    const json_t *layers;          /* layers_to_transform: a list of numbers; NULL: all */
    /* trainable_token_indices of each table: ids whose rows the adapter brings; or NULL */
    const json_t *embedding_tokens, *output_tokens;
    lora_pattern **layer_patterns; /* layers_pattern, or the one that stands for none */
    uint32_t layer_pattern_count;
} lora_config;

/* ESP_INVALID with a sentence that names the key; out is freed by lora_config_free in any case. */
ESP_CHECKED esp_code lora_config_read(lora_config *out, const void *bytes, size_t count,
                                      esp_error *err);
void lora_config_free(lora_config *config);

/* Whether the config wants an update of a module. ESP_INVALID where a pattern takes too many steps. */
ESP_CHECKED esp_code lora_config_targets(const lora_config *config, model_text module, bool *out,
                                         esp_error *err);
/* Its rank, and the factor of its update: alpha / rank, or alpha / sqrt(rank) (arXiv:2312.03732). */
ESP_CHECKED esp_code lora_config_scale(const lora_config *config, model_text module, uint32_t *rank,
                                       float *scale, esp_error *err);
/* Whether modules_to_save names a module, "lm_head". */
bool lora_config_saves(const lora_config *config, const char *module);

#endif
