/* synthetic_inner.h - what the parts of synthetic.h share; nobody else includes it. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_SYNTHETIC_INNER_H
#define ESPALIER_MODEL_SYNTHETIC_INNER_H

#include <jansson.h>
#include <stdio.h>

#include "engine/model/synthetic/synthetic.h"

enum { SYNTHETIC_NAME_MAX = 96 };

typedef struct synthetic_tensor {
    char name[SYNTHETIC_NAME_MAX];
    uint32_t rows; /* 0: a vector */
    uint32_t cols;
    float mean, deviation; /* of its values */
} synthetic_tensor;

static inline uint64_t synthetic_count(const synthetic_tensor *t) {
    return (uint64_t)(t->rows ? t->rows : 1) * t->cols;
}

/* All tensors in the order of the files; malloc'd. */
synthetic_tensor *synthetic_list(const synthetic_shape *shape, uint32_t *count);

/* A normal distribution cut into 4,096 parts of equal weight, the middle of each as bf16: what a random number
 * indexes. */
enum { SYNTHETIC_STEPS = 4096 };
typedef struct synthetic_table {
    uint16_t bf16[SYNTHETIC_STEPS];
} synthetic_table;
void synthetic_table_fill(synthetic_table *table, float mean, float deviation);
/* Values [first, first + count) of the stream of this key; first is a multiple of 4. */
void synthetic_values(const synthetic_table *table, uint64_t key, uint64_t first, uint16_t *out,
                      size_t count);

/* New references. */
json_t *synthetic_config(const synthetic_shape *shape);
json_t *synthetic_tokenizer(void);

#endif
