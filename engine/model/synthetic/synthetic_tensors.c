/* synthetic_tensors.c - which tensors a shape has, under the names of its family. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/model/synthetic/synthetic_inner.h"

#define NORM_DEVIATION 0.05f
#define BIAS_DEVIATION 0.02f

/* Rows and columns of a role; both 0: not of a shape's. */
static void shape_of(const synthetic_shape *s, tensor_role role, uint32_t *rows, uint32_t *cols) {
    uint32_t q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim;
    const struct {
        tensor_role role;
        uint32_t rows, cols;
    } table[] = {
        {TENSOR_EMBEDDING, s->vocab, s->hidden},
        {TENSOR_OUTPUT, s->tied ? 0 : s->vocab, s->tied ? 0 : s->hidden},
        {TENSOR_FINAL_NORM, 0, s->hidden},
        {TENSOR_ATTN_NORM, 0, s->hidden},
        {TENSOR_ATTN_POST_NORM, 0, s->hidden},
        {TENSOR_MLP_NORM, 0, s->hidden},
        {TENSOR_MLP_POST_NORM, 0, s->hidden},
        {TENSOR_Q, q, s->hidden},
        {TENSOR_K, kv, s->hidden},
        {TENSOR_V, kv, s->hidden},
        {TENSOR_Q_BIAS, 0, q},
        {TENSOR_K_BIAS, 0, kv},
        {TENSOR_V_BIAS, 0, kv},
        {TENSOR_Q_NORM, 0, s->head_dim},
        {TENSOR_K_NORM, 0, s->head_dim},
        {TENSOR_O, s->hidden, q},
        {TENSOR_GATE, s->intermediate, s->hidden},
        {TENSOR_UP, s->intermediate, s->hidden},
        {TENSOR_DOWN, s->hidden, s->intermediate},
    };
    *rows = *cols = 0;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].role == role) *rows = table[i].rows, *cols = table[i].cols;
}

static bool is_bias(tensor_role role) {
    return role == TENSOR_Q_BIAS || role == TENSOR_K_BIAS || role == TENSOR_V_BIAS;
}

/* A matrix keeps the size of what it multiplies; norms stay near 1, which some families keep as 0. */
static void choose_values(const synthetic_shape *s, tensor_role role, synthetic_tensor *t) {
    if (t->rows) {
        t->deviation = 1 / sqrtf((float)t->cols);
    } else if (is_bias(role)) {
        t->deviation = BIAS_DEVIATION;
    } else {
        t->mean = s->family->config_centred_norms ? 0 : 1;
        t->deviation = NORM_DEVIATION;
    }
}

/* 1 when the shape has the role, whose tensor goes to `to` unless that is NULL. */
static uint32_t add(const synthetic_shape *s, tensor_role role, uint32_t layer,
                    synthetic_tensor *to) {
    const char *pattern = s->family->config_tensor_names[role];
    synthetic_tensor t = {.mean = 0};
    shape_of(s, role, &t.rows, &t.cols);
    if (!pattern || !t.cols) return 0;
    size_t used =
        (size_t)snprintf(t.name, sizeof t.name, "%s", role == TENSOR_OUTPUT ? "" : "model.");
    snprintf(t.name + used, sizeof t.name - used, pattern, layer);
    choose_values(s, role, &t);
    if (to) *to = t;
    return 1;
}

static uint32_t walk(const synthetic_shape *s, synthetic_tensor *to) {
    uint32_t count = 0;
    for (tensor_role role = TENSOR_EMBEDDING; role < TENSOR_ATTN_NORM; role++)
        count += add(s, role, 0, to ? to + count : NULL);
    for (uint32_t layer = 0; layer < s->layers; layer++)
        for (tensor_role role = TENSOR_ATTN_NORM; role < TENSOR_ROLE_COUNT; role++)
            count += add(s, role, layer, to ? to + count : NULL);
    return count;
}

synthetic_tensor *synthetic_list(const synthetic_shape *shape, uint32_t *count) {
    *count = walk(shape, NULL);
    synthetic_tensor *list = mem_new(*count, sizeof *list);
    walk(shape, list);
    return list;
}

uint64_t synthetic_parameters(const synthetic_shape *shape) {
    uint32_t count;
    uint64_t sum = 0;
    synthetic_tensor *list = synthetic_list(shape, &count);
    for (uint32_t i = 0; i < count; i++)
        sum += synthetic_count(&list[i]);
    free(list);
    return sum;
}
