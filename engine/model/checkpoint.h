/* checkpoint.h - a model's weights by role, whatever the files: the door between the readers of
 * formats and weights.c.
 *
 *   a reader      fills `tensors` (gguf.c, safetensors.c)
 *   a family      says the spec, and the name of each role's tensor in that format (family.h)
 *   checkpoint.c  finds a role's tensor, holds it against the spec, and gives its rows to a backend
 *
 * Thread  read-only once opened: any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_CHECKPOINT_H
#define ESPALIER_MODEL_CHECKPOINT_H

#include "engine/model/family/family.h"
#include "engine/model/format/tensors.h"
#include "engine/model/packed/quant_config.h"
#include "engine/model/spec.h"
#include "kernels/kernels.h"

typedef struct checkpoint {
    const char *name;  /* of the file or folder, for error sentences */
    char recorded[96]; /* what its metadata call it, printable: general.name, _name_or_path; "" */
    const model_family *family;
    const char *const *tensor_names; /* [TENSOR_ROLE_COUNT] of this format: see model_family */
    bool centred_norms;              /* 1 must be added to norm weights (Gemma outside GGUF) */
    model_spec spec;
    tensor_set tensors;
    quant_config quant; /* all-zero: matrices are plain tensors; freed by who fills it */
    bool mapped;        /* they lie in mapped files, whose pages may be given back */
} checkpoint;

/* The tensor of a role, checked for presence, type and the shape that the spec wants ([rows, cols];
 * vectors have one dimension). *out = NULL when the family or the spec has none: TENSOR_OUTPUT of
 * tied embeddings, lists of another rope scaling. */
ESP_CHECKED esp_code checkpoint_find(const checkpoint *c, tensor_role role, uint32_t layer,
                                     const model_tensor **out, esp_error *err);

/* Every tensor that the spec wants is there in its shape, and the files hold no other: a surplus
 * tensor means a model that this family does not compute. The first fault is named. */
ESP_CHECKED esp_code checkpoint_check(const checkpoint *c, esp_error *err);

/* A role's matrix; all-zero: there is none. */
typedef struct checkpoint_matrix {
    const model_tensor *tensor; /* NULL: packed */
    packed_matrix packed;
    uint32_t rows, cols;
    uint64_t bytes; /* of all rows, in the files */
} checkpoint_matrix;

ESP_CHECKED esp_code checkpoint_find_matrix(const checkpoint *c, tensor_role role, uint32_t layer,
                                            checkpoint_matrix *out, esp_error *err);
/* Rows [first, first + count) for kern_ops.pack. What desc points to lives in the files or in
 * *scratch, which is the caller's: NULL at first, freed by free(), reused from call to call.
 * Whether weights are finite numbers is looked at by read_ahead.h. */
ESP_CHECKED esp_code checkpoint_read_rows(const checkpoint *c, const checkpoint_matrix *matrix,
                                          uint32_t first, uint32_t count, void **scratch,
                                          kern_matrix_desc *out, esp_error *err);

/* A role's vector as float32: *out is malloc'd, the caller's; NULL, *count 0: there is none.
 * Every element is finite. */
ESP_CHECKED esp_code checkpoint_read_vector(const checkpoint *c, tensor_role role, uint32_t layer,
                                            float **out, uint32_t *count, esp_error *err);

/* Bytes of all tensors, for a progress bar. */
uint64_t checkpoint_bytes(const checkpoint *c);

#endif
