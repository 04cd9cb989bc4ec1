/* family.h - one family: metadata keys and tensor names -> spec and weights, of a GGUF file and of a
 * Hugging Face folder. A family file is short; the table of families is in family.c, what they share
 * of the metadata in family_decoder.c, of config.json in family_config.c. How the names are used:
 * checkpoint.h. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_FAMILY_H
#define ESPALIER_MODEL_FAMILY_H

#include "engine/model/family/hf_config.h"
#include "engine/model/format/gguf.h"
#include "engine/model/spec.h"

/* Roles of a model's tensors; the per-layer ones begin at TENSOR_ATTN_NORM. An encoder's two norms
 * stand behind its sublayers. */
typedef enum tensor_role {
    TENSOR_EMBEDDING,
    TENSOR_FINAL_NORM,
    TENSOR_OUTPUT,        /* absent when tied */
    TENSOR_ROPE_DIVISORS, /* [rotary/2], with SCALING_DIVISORS only */
    TENSOR_ROPE_SHORT,    /* [rotary/2], with SCALING_LONGROPE only */
    TENSOR_ROPE_LONG,
    TENSOR_POSITIONS,      /* encoders: [offset + context, H] */
    TENSOR_TOKEN_TYPES,    /* encoders: [token_types, H] */
    TENSOR_EMBEDDING_NORM, /* encoders: of the sum of the three */
    TENSOR_EMBEDDING_NORM_BIAS,
    TENSOR_ATTN_NORM,
    TENSOR_Q,
    TENSOR_K,
    TENSOR_V,
    TENSOR_QKV, /* instead of the three: rows of q, of k, of v */
    TENSOR_Q_BIAS,
    TENSOR_K_BIAS,
    TENSOR_V_BIAS,
    TENSOR_Q_NORM, /* [head_dim], of each head */
    TENSOR_K_NORM,
    TENSOR_O,
    TENSOR_ATTN_POST_NORM, /* of what attention adds to the residual stream */
    TENSOR_MLP_NORM,
    TENSOR_GATE,
    TENSOR_UP,
    TENSOR_GATE_UP, /* instead of the two: rows of gate, of up */
    TENSOR_DOWN,
    TENSOR_MLP_POST_NORM,
    TENSOR_ATTN_NORM_BIAS, /* these: encoders */
    TENSOR_O_BIAS,
    TENSOR_MLP_NORM_BIAS,
    TENSOR_UP_BIAS,
    TENSOR_DOWN_BIAS,
    TENSOR_ROLE_COUNT
} tensor_role;

typedef struct model_family {
    /* GGUF; architecture NULL: there are no such files. */
    const char *architecture; /* value of general.architecture */
    /* Reads and validates every key of the family; refuses what it cannot compute. */
    esp_code (*read_spec)(const gguf_file *file, model_spec *spec, esp_error *err);
    /* printf patterns of the tensor names, "%u" = layer; NULL where the family has none. */
    const char *tensor_names[TENSOR_ROLE_COUNT];

    /* Hugging Face folders; classes NULL: there are no such folders. */
    const char *const *classes; /* config.json's `architectures`; NULL at the end */
    const char *model_type;     /* its `model_type`, for a config without a class */
    esp_code (*read_config)(const hf_config *config, model_spec *spec, esp_error *err);
    const char *config_tensor_names[TENSOR_ROLE_COUNT]; /* of bare names: family_bare_name */
    bool config_centred_norms; /* norm weights are kept as their distance from 1 */
} model_family;

extern const model_family family_llama, family_mistral, family_ministral, family_qwen2,
    family_qwen3, family_gemma2, family_gemma3, family_phi3, family_bert;

/* The names that all families share. */
#define FAMILY_COMMON_TENSORS                                                                      \
    [TENSOR_EMBEDDING] = "token_embd.weight", [TENSOR_FINAL_NORM] = "output_norm.weight",          \
    [TENSOR_OUTPUT] = "output.weight", [TENSOR_ATTN_NORM] = "blk.%u.attn_norm.weight",             \
    [TENSOR_O] = "blk.%u.attn_output.weight", [TENSOR_MLP_NORM] = "blk.%u.ffn_norm.weight",        \
    [TENSOR_DOWN] = "blk.%u.ffn_down.weight"

/* Of those whose q, k, v, gate and up are matrices of their own. */
#define FAMILY_SEPARATE_TENSORS                                                                    \
    [TENSOR_Q] = "blk.%u.attn_q.weight", [TENSOR_K] = "blk.%u.attn_k.weight",                      \
    [TENSOR_V] = "blk.%u.attn_v.weight", [TENSOR_GATE] = "blk.%u.ffn_gate.weight",                 \
    [TENSOR_UP] = "blk.%u.ffn_up.weight"

/* The same in Hugging Face folders, without what family_bare_name takes off. */
#define FAMILY_COMMON_CONFIG_TENSORS                                                               \
    [TENSOR_EMBEDDING] = "embed_tokens.weight", [TENSOR_FINAL_NORM] = "norm.weight",               \
    [TENSOR_OUTPUT] = "lm_head.weight", [TENSOR_ATTN_NORM] = "layers.%u.input_layernorm.weight",   \
    [TENSOR_O] = "layers.%u.self_attn.o_proj.weight",                                              \
    [TENSOR_DOWN] = "layers.%u.mlp.down_proj.weight"

#define FAMILY_SEPARATE_CONFIG_TENSORS                                                             \
    [TENSOR_Q] = "layers.%u.self_attn.q_proj.weight",                                              \
    [TENSOR_K] = "layers.%u.self_attn.k_proj.weight",                                              \
    [TENSOR_V] = "layers.%u.self_attn.v_proj.weight",                                              \
    [TENSOR_GATE] = "layers.%u.mlp.gate_proj.weight", [TENSOR_UP] = "layers.%u.mlp.up_proj.weight"

/* By general.architecture; an unknown one is refused with the list of known ones. */
ESP_CHECKED esp_code family_find(const gguf_file *file, const model_family **out, esp_error *err);
/* By the class that config.json names, or its model_type where it names none. */
ESP_CHECKED esp_code family_find_config(const hf_config *config, const model_family **out,
                                        esp_error *err);

/* A folder's tensor name without the modules around the text model: "model.", and those of models
 * that hold more than text. Its bytes are a tail of name's. */
model_text family_bare_name(model_text name);
/* Whether a folder's tensor, by its bare name, says nothing about the text model: a table computed
 * from the config, a second copy of tied embeddings, the parts for images. */
bool family_ignores_tensor(const model_spec *spec, model_text bare_name);

#endif
