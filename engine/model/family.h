/* family.h - one family: metadata keys and tensor names -> spec and weights. A family file is short;
 * the table of families is in family.c. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_FAMILY_H
#define ESPALIER_MODEL_FAMILY_H

#include "engine/model/gguf.h"
#include "engine/model/spec.h"

/* Roles of a decoder's tensors; the per-layer ones begin at TENSOR_ATTN_NORM. */
typedef enum tensor_role {
    TENSOR_EMBEDDING,
    TENSOR_FINAL_NORM,
    TENSOR_OUTPUT, /* absent when tied */
    TENSOR_ATTN_NORM,
    TENSOR_Q,
    TENSOR_K,
    TENSOR_V,
    TENSOR_O,
    TENSOR_MLP_NORM,
    TENSOR_GATE,
    TENSOR_UP,
    TENSOR_DOWN,
    TENSOR_ROLE_COUNT
} tensor_role;

typedef struct model_family {
    const char *architecture; /* value of general.architecture */
    /* Reads and validates every key of the family; refuses what it cannot compute. */
    esp_code (*read_spec)(const gguf_file *file, model_spec *spec, esp_error *err);
    /* printf patterns of the tensor names, "%u" = layer; NULL where the family has none. */
    const char *tensor_names[TENSOR_ROLE_COUNT];
} model_family;

extern const model_family family_llama;

/* By general.architecture; an unknown one is refused with the list of known ones. */
ESP_CHECKED esp_code family_find(const gguf_file *file, const model_family **out, esp_error *err);

/* The tensor of a role in the file, checked for presence, type and the shape that the spec wants
 * ([rows, cols]; 1-D tensors have rows 1 and must be F32). *out = NULL when the family has none, or
 * for TENSOR_OUTPUT of tied embeddings. */
ESP_CHECKED esp_code family_tensor(const model_family *family, const gguf_file *file,
                                   const model_spec *spec, tensor_role role, uint32_t layer,
                                   const gguf_tensor **out, esp_error *err);

/* Every tensor that the spec wants is there in its shape, and the file holds no other: a surplus tensor
 * means a model that this family does not compute. The first fault is named. */
ESP_CHECKED esp_code family_check_tensors(const model_family *family, const gguf_file *file,
                                          const model_spec *spec, esp_error *err);

#endif
