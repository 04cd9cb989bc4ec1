/* lora_merge_inner.h - what the parts of lora_merge.h share; nobody else includes it. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_LORA_MERGE_INNER_H
#define ESPALIER_MODEL_LORA_MERGE_INNER_H

#include <stdio.h>

#include "engine/model/lora/lora_inner.h"
#include "engine/model/lora/lora_merge.h"

typedef struct lora_merge_run {
    const checkpoint *base;
    const model_family *family; /* of the folder: Mistral's GGUF files are of Llama's family */
    const lora_file *adapter;
    const lora_merge_options *options;
    uint32_t vocab; /* rows of the tables, added tokens included */
    bool untied;    /* lm_head.weight is written, also where the base ties it to the embedding */
} lora_merge_run;

/* Whether the result's logits come from a matrix of their own. */
bool lora_merge_unties(const lora_file *adapter);

/* Refuses what no checkpoint of the family has a place for. */
ESP_CHECKED esp_code lora_merge_check(const lora_merge_run *run, esp_error *err);

/* All tensors into an open file, its errors left to the caller. */
ESP_CHECKED esp_code lora_merge_tensors(const lora_merge_run *run, FILE *file, esp_error *err);

/* The text of config.json; malloc'd. */
ESP_CHECKED esp_code lora_merge_config(const lora_merge_run *run, char **out, esp_error *err);

#endif
