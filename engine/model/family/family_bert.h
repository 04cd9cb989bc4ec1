/* family_bert.h - what family_bert.c needs of the family's Hugging Face side. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_FAMILY_BERT_H
#define ESPALIER_MODEL_FAMILY_BERT_H

#include "engine/model/family/hf_config.h"
#include "engine/model/spec.h"

extern const char *const BERT_CLASSES[]; /* NULL at the end */

/* Sets the width of a head and the scale of scores from hidden and heads; whether we compute such. */
bool bert_share_heads(model_spec *spec);

/* Shape, activation and positions of config.json; how a text is pooled stands elsewhere
 * (sentence_files.h). */
ESP_CHECKED esp_code bert_read_config(const hf_config *config, model_spec *spec, esp_error *err);

/* Names behind "bert." or "roberta.". */
#define BERT_CONFIG_TENSORS                                                                        \
    [TENSOR_EMBEDDING] = "embeddings.word_embeddings.weight",                                      \
    [TENSOR_POSITIONS] = "embeddings.position_embeddings.weight",                                  \
    [TENSOR_TOKEN_TYPES] = "embeddings.token_type_embeddings.weight",                              \
    [TENSOR_EMBEDDING_NORM] = "embeddings.LayerNorm.weight",                                       \
    [TENSOR_EMBEDDING_NORM_BIAS] = "embeddings.LayerNorm.bias",                                    \
    [TENSOR_Q] = "encoder.layer.%u.attention.self.query.weight",                                   \
    [TENSOR_K] = "encoder.layer.%u.attention.self.key.weight",                                     \
    [TENSOR_V] = "encoder.layer.%u.attention.self.value.weight",                                   \
    [TENSOR_O] = "encoder.layer.%u.attention.output.dense.weight",                                 \
    [TENSOR_Q_BIAS] = "encoder.layer.%u.attention.self.query.bias",                                \
    [TENSOR_K_BIAS] = "encoder.layer.%u.attention.self.key.bias",                                  \
    [TENSOR_V_BIAS] = "encoder.layer.%u.attention.self.value.bias",                                \
    [TENSOR_O_BIAS] = "encoder.layer.%u.attention.output.dense.bias",                              \
    [TENSOR_ATTN_NORM] = "encoder.layer.%u.attention.output.LayerNorm.weight",                     \
    [TENSOR_ATTN_NORM_BIAS] = "encoder.layer.%u.attention.output.LayerNorm.bias",                  \
    [TENSOR_UP] = "encoder.layer.%u.intermediate.dense.weight",                                    \
    [TENSOR_UP_BIAS] = "encoder.layer.%u.intermediate.dense.bias",                                 \
    [TENSOR_DOWN] = "encoder.layer.%u.output.dense.weight",                                        \
    [TENSOR_DOWN_BIAS] = "encoder.layer.%u.output.dense.bias",                                     \
    [TENSOR_MLP_NORM] = "encoder.layer.%u.output.LayerNorm.weight",                                \
    [TENSOR_MLP_NORM_BIAS] = "encoder.layer.%u.output.LayerNorm.bias"

#endif
