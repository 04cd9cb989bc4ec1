/* tensors.h - named tensors, whatever file format they lie in.
 *
 * A reader (gguf.c, safetensors.c) has checked every tensor before it is added: its bytes lie inside
 * the file and their count is what type and dimensions say.
 *
 * Ownership  names and data point into the reader's memory, which outlives the set.
 * Thread     read-only once sealed: any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_TENSORS_H
#define ESPALIER_MODEL_TENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/quant.h"
#include "engine/base/status.h"

/* Text that is not NUL-terminated. */
typedef struct model_text {
    const char *at;
    size_t bytes;
} model_text;

/* Elements that are no weights by themselves, but parts of packed ones (codes, indices), or need a
 * scale from another tensor. */
typedef enum tensor_raw {
    RAW_NONE, /* weights: blocks of dtype */
    RAW_BOOL,
    RAW_U8,
    RAW_I8,
    RAW_F8_E4M3,
    RAW_I16,
    RAW_I32,
    RAW_I64,
    RAW_COUNT
} tensor_raw;

typedef struct model_tensor {
    model_text name;
    uint32_t dim_count; /* 1..4; 0 for a single value of a format that has such */
    uint64_t dims[4];   /* innermost first: dims[0] = columns; 1 beyond dim_count */
    tensor_raw raw;
    esp_dtype dtype; /* with RAW_NONE */
    const void *data;
    uint64_t bytes;
    const char *file; /* its file's name, for error sentences */
} model_tensor;

/* "Q4_1", "I32" */
const char *tensor_type_name(const model_tensor *tensor);
uint64_t tensor_element_count(const model_tensor *tensor);

/* Order of names: bytes, then length. */
int model_text_compare(model_text a, model_text b);

/* Indices of count tensors by name (malloc'd, the caller's); equal names are neighbours. */
uint32_t *tensors_sort(const model_tensor *tensors, uint32_t count);
/* By that order; NULL if absent. */
const model_tensor *tensors_find(const model_tensor *tensors, const uint32_t *by_name,
                                 uint32_t count, const char *name);

/* All-zero is empty. */
typedef struct tensor_set {
    model_tensor *at; /* in the order of their files */
    uint32_t count, capacity;
    uint32_t *by_name; /* indices, sorted; set by tensor_set_seal */
} tensor_set;

void tensor_set_add(tensor_set *set, const model_tensor *tensor);
/* Makes tensors findable. ESP_INVALID when two have one name. */
ESP_CHECKED esp_code tensor_set_seal(tensor_set *set, esp_error *err);
const model_tensor *tensor_set_find(const tensor_set *set, const char *name); /* NULL if absent */
void tensor_set_free(tensor_set *set);

#endif
