/* checkpoint.c - a model's weights by role: found, held against the spec, read as rows. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/checkpoint.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

typedef struct shape {
    uint64_t rows, cols;
    bool vector; /* one dimension */
} shape;

static shape role_shape(const model_spec *spec, tensor_role role) {
    uint64_t hidden = spec->hidden, query = (uint64_t)spec->heads * spec->head_dim;
    uint64_t key = (uint64_t)spec->kv_heads * spec->head_dim;
    switch (role) {
    case TENSOR_EMBEDDING:
    case TENSOR_OUTPUT:
        return (shape){spec->vocab, hidden, false};
    case TENSOR_ROPE_DIVISORS:
    case TENSOR_ROPE_SHORT:
    case TENSOR_ROPE_LONG:
        return (shape){1, spec->rotary / 2, true};
    case TENSOR_Q:
        return (shape){query, hidden, false};
    case TENSOR_K:
    case TENSOR_V:
        return (shape){key, hidden, false};
    case TENSOR_QKV:
        return (shape){query + 2 * key, hidden, false};
    case TENSOR_Q_BIAS:
        return (shape){1, query, true};
    case TENSOR_K_BIAS:
    case TENSOR_V_BIAS:
        return (shape){1, key, true};
    case TENSOR_Q_NORM:
    case TENSOR_K_NORM:
        return (shape){1, spec->head_dim, true};
    case TENSOR_O:
        return (shape){hidden, query, false};
    case TENSOR_GATE:
    case TENSOR_UP:
        return (shape){spec->intermediate, hidden, false};
    case TENSOR_GATE_UP:
        return (shape){2ull * spec->intermediate, hidden, false};
    case TENSOR_DOWN:
        return (shape){hidden, spec->intermediate, false};
    case TENSOR_FINAL_NORM:
    case TENSOR_ATTN_NORM:
    case TENSOR_ATTN_POST_NORM:
    case TENSOR_MLP_NORM:
    case TENSOR_MLP_POST_NORM:
    case TENSOR_EMBEDDING_NORM:
    case TENSOR_EMBEDDING_NORM_BIAS:
    case TENSOR_ATTN_NORM_BIAS:
    case TENSOR_MLP_NORM_BIAS:
    case TENSOR_O_BIAS:
    case TENSOR_DOWN_BIAS:
        return (shape){1, hidden, true};
    case TENSOR_UP_BIAS:
        return (shape){1, spec->intermediate, true};
    case TENSOR_POSITIONS:
        return (shape){(uint64_t)spec->position_offset + spec->context, hidden, false};
    case TENSOR_TOKEN_TYPES:
        return (shape){spec->token_types, hidden, false};
    case TENSOR_ROLE_COUNT:
        break;
    }
    ESP_ASSERT(!"a role without a shape");
    return (shape){0};
}

/* "[576, 1536]", innermost first as the format lists them. */
static void print_dims(char *out, size_t bytes, const uint64_t *dims, uint32_t count) {
    size_t used = 0;
    for (uint32_t i = 0; i < count && used < bytes; i++)
        used += (size_t)snprintf(out + used, bytes - used, "%s%llu", i ? ", " : "[",
                                 (unsigned long long)dims[i]);
    if (used < bytes) snprintf(out + used, bytes - used, "]");
}

/* Vectors are written in any of the three float types. */
static bool is_float(const model_tensor *tensor) {
    return tensor->raw == RAW_NONE && dtype_info(tensor->dtype)->block_elements == 1;
}

static esp_code check_shape(const checkpoint *c, const model_tensor *tensor, shape wanted,
                            esp_error *err) {
    uint64_t dims[2] = {wanted.cols, wanted.rows};
    uint32_t count = wanted.vector ? 1 : 2;
    bool equal = tensor->dim_count == count;
    for (uint32_t i = 0; i < count; i++)
        equal = equal && tensor->dims[i] == dims[i];
    if (!equal) {
        char seen[96], want[64];
        print_dims(seen, sizeof seen, tensor->dims, tensor->dim_count);
        print_dims(want, sizeof want, dims, count);
        return esp_fail(err, ESP_INVALID, "%s: tensor %.*s has the shape %s; the metadata wants %s",
                        tensor->file, (int)tensor->name.bytes, tensor->name.at, seen, want);
    }
    if (wanted.vector ? !is_float(tensor) : tensor->raw != RAW_NONE)
        return esp_fail(err, ESP_INVALID, "%s: tensor %.*s has type %s; wanted %s", tensor->file,
                        (int)tensor->name.bytes, tensor->name.at, tensor_type_name(tensor),
                        wanted.vector ? "F32, F16 or BF16" : "weights");
    (void)c;
    return ESP_OK;
}

/* Whether a model of this spec has the tensors of a role that its family knows. */
static bool is_wanted(const model_spec *spec, tensor_role role) {
    switch (role) {
    case TENSOR_OUTPUT:
        return !spec->tied_embeddings;
    case TENSOR_ROPE_DIVISORS:
        return spec->rope.scaling == SCALING_DIVISORS;
    case TENSOR_ROPE_SHORT:
    case TENSOR_ROPE_LONG:
        return spec->rope.scaling == SCALING_LONGROPE;
    case TENSOR_TOKEN_TYPES:
        return spec->token_types > 0;
    default:
        return true;
    }
}

esp_code checkpoint_find(const checkpoint *c, tensor_role role, uint32_t layer,
                         const model_tensor **out, esp_error *err) {
    ESP_ASSERT(role < TENSOR_ROLE_COUNT && layer < c->spec.layers);
    *out = NULL;
    const char *pattern = c->tensor_names[role];
    if (!pattern || !is_wanted(&c->spec, role)) return ESP_OK;
    char name[128];
    snprintf(name, sizeof name, pattern, layer);
    const model_tensor *tensor = tensor_set_find(&c->tensors, name);
    if (!tensor)
        return esp_fail(err, ESP_INVALID,
                        "%s: tensor %s is missing; the model is incomplete: download or convert it "
                        "again",
                        c->name, name);
    esp_code code = check_shape(c, tensor, role_shape(&c->spec, role), err);
    if (!code) *out = tensor;
    return code;
}

/* The packed matrix of a role; out->rows is 0 where it is none. */
static esp_code find_packed(const checkpoint *c, tensor_role role, uint32_t layer,
                            packed_matrix *out, esp_error *err) {
    static const char suffix[] = ".weight";
    const char *pattern = c->tensor_names[role];
    *out = (packed_matrix){0};
    if (!pattern || !c->quant.json || !is_wanted(&c->spec, role)) return ESP_OK;
    char name[128];
    snprintf(name, sizeof name, pattern, layer);
    size_t bytes = strlen(name), end = sizeof suffix - 1;
    if (bytes <= end || strcmp(name + bytes - end, suffix) != 0) return ESP_OK;
    model_text module = {name, bytes - end};
    return quant_config_find(&c->quant, &c->tensors, module, out, err);
}

static esp_code check_packed_shape(const checkpoint *c, tensor_role role, const packed_matrix *m,
                                   esp_error *err) {
    shape wanted = role_shape(&c->spec, role);
    if (m->rows == wanted.rows && m->cols == wanted.cols) return ESP_OK;
    return esp_fail(err, ESP_INVALID,
                    "%s: module %.*s is packed as %u x %u; the configuration wants %llu x %llu",
                    c->name, (int)m->module.bytes, m->module.at, m->rows, m->cols,
                    (unsigned long long)wanted.rows, (unsigned long long)wanted.cols);
}

/* Checks what a role has and marks it. */
static esp_code check_role(const checkpoint *c, tensor_role role, uint32_t layer, bool *used,
                           esp_error *err) {
    checkpoint_matrix matrix = {0};
    esp_code code = role_shape(&c->spec, role).vector
                        ? checkpoint_find(c, role, layer, &matrix.tensor, err)
                        : checkpoint_find_matrix(c, role, layer, &matrix, err);
    if (code) return code;
    if (matrix.tensor) used[matrix.tensor - c->tensors.at] = true;
    for (uint32_t i = 0; i < PACKED_PARTS; i++)
        if (matrix.packed.part[i]) used[matrix.packed.part[i] - c->tensors.at] = true;
    return ESP_OK;
}

/* Of one layer or, from TENSOR_EMBEDDING on, of the model. */
static esp_code check_roles(const checkpoint *c, tensor_role first, uint32_t layer, bool *used,
                            esp_error *err) {
    tensor_role end = first == TENSOR_EMBEDDING ? TENSOR_ATTN_NORM : TENSOR_ROLE_COUNT;
    for (tensor_role role = first; role < end; role++) {
        esp_code code = check_role(c, role, layer, used, err);
        if (code) return code;
    }
    return ESP_OK;
}

/* A bias of nothing but zeros changes nothing: older GPTQ writers put one beside every matrix. */
static bool is_zero_bias(const model_tensor *tensor) {
    static const char end[] = ".bias";
    size_t length = sizeof end - 1;
    if (tensor->name.bytes < length || tensor->dim_count != 1 || !is_float(tensor) ||
        memcmp(tensor->name.at + tensor->name.bytes - length, end, length) != 0)
        return false;
    const uint8_t *bytes = tensor->data;
    for (uint64_t i = 0; i < tensor->bytes; i++)
        if (bytes[i]) return false;
    return true;
}

static esp_code refuse_surplus(const checkpoint *c, const bool *used, esp_error *err) {
    for (uint32_t i = 0; i < c->tensors.count; i++) {
        const model_tensor *tensor = &c->tensors.at[i];
        if (!used[i] && !is_zero_bias(tensor))
            return esp_fail(err, ESP_INVALID,
                            "%s: tensor %.*s has no place in a %s model of %u layers; without it "
                            "the model would be computed wrongly",
                            tensor->file, (int)tensor->name.bytes, tensor->name.at, c->spec.family,
                            c->spec.layers);
    }
    return ESP_OK;
}

esp_code checkpoint_check(const checkpoint *c, esp_error *err) {
    bool *used = mem_new(c->tensors.count ? c->tensors.count : 1, sizeof *used);
    esp_code code = check_roles(c, TENSOR_EMBEDDING, 0, used, err);
    for (uint32_t layer = 0; layer < c->spec.layers && !code; layer++)
        code = check_roles(c, TENSOR_ATTN_NORM, layer, used, err);
    if (!code) code = refuse_surplus(c, used, err);
    free(used);
    return code;
}

esp_code checkpoint_find_matrix(const checkpoint *c, tensor_role role, uint32_t layer,
                                checkpoint_matrix *out, esp_error *err) {
    *out = (checkpoint_matrix){0};
    esp_code code = find_packed(c, role, layer, &out->packed, err);
    if (code) return code;
    if (out->packed.rows) {
        out->rows = out->packed.rows;
        out->cols = out->packed.cols;
        for (uint32_t i = 0; i < PACKED_PARTS; i++)
            out->bytes += out->packed.part[i] ? out->packed.part[i]->bytes : 0;
        return check_packed_shape(c, role, &out->packed, err);
    }
    code = checkpoint_find(c, role, layer, &out->tensor, err);
    if (code || !out->tensor) return code;
    out->rows = (uint32_t)out->tensor->dims[1];
    out->cols = (uint32_t)out->tensor->dims[0];
    out->bytes = out->tensor->bytes;
    return ESP_OK;
}

/* Blocks, and before them the order of their columns, in *scratch. */
static esp_code read_packed_rows(const packed_matrix *m, uint32_t first, uint32_t count,
                                 void **scratch, kern_matrix_desc *out, esp_error *err) {
    size_t order_bytes = m->ordered ? m->cols * sizeof(uint32_t) : 0;
    *scratch = mem_resize(*scratch, 1, order_bytes + count * packed_row_bytes(m));
    void *blocks = (uint8_t *)*scratch + order_bytes;
    if (m->ordered) packed_read_order(m, *scratch);
    *out = (kern_matrix_desc){.dtype = m->dtype,
                              .rows = count,
                              .cols = m->cols,
                              .data = blocks,
                              .order = m->ordered ? *scratch : NULL};
    return packed_read_rows(m, first, count, blocks, err);
}

esp_code checkpoint_read_rows(const checkpoint *c, const checkpoint_matrix *matrix, uint32_t first,
                              uint32_t count, void **scratch, kern_matrix_desc *out,
                              esp_error *err) {
    (void)c;
    const model_tensor *tensor = matrix->tensor;
    ESP_ASSERT(count > 0 && (uint64_t)first + count <= matrix->rows);
    if (!tensor) return read_packed_rows(&matrix->packed, first, count, scratch, out, err);
    uint64_t row_bytes = tensor->bytes / matrix->rows;
    *out = (kern_matrix_desc){.dtype = tensor->dtype,
                              .rows = count,
                              .cols = matrix->cols,
                              .data = (const char *)tensor->data + first * row_bytes};
    return ESP_OK;
}

static esp_code check_finite(const model_tensor *tensor, const float *values, uint32_t count,
                             esp_error *err) {
    for (uint32_t i = 0; i < count; i++)
        if (!isfinite(values[i]))
            return esp_fail(err, ESP_INVALID,
                            "%s: element %u of tensor %.*s is %g; wanted a number", tensor->file, i,
                            (int)tensor->name.bytes, tensor->name.at, (double)values[i]);
    return ESP_OK;
}

/* Norm weights, which some formats keep as their distance from 1. */
static bool is_norm(tensor_role role) {
    switch (role) {
    case TENSOR_FINAL_NORM:
    case TENSOR_ATTN_NORM:
    case TENSOR_Q_NORM:
    case TENSOR_K_NORM:
    case TENSOR_ATTN_POST_NORM:
    case TENSOR_MLP_NORM:
    case TENSOR_MLP_POST_NORM:
        return true;
    default:
        return false;
    }
}

esp_code checkpoint_read_vector(const checkpoint *c, tensor_role role, uint32_t layer, float **out,
                                uint32_t *count, esp_error *err) {
    const model_tensor *tensor;
    *out = NULL;
    *count = 0;
    esp_code code = checkpoint_find(c, role, layer, &tensor, err);
    if (code || !tensor) return code;
    uint32_t elements = (uint32_t)tensor->dims[0];
    float *values = mem_new(elements, sizeof *values);
    dtype_info(tensor->dtype)->dequantise(tensor->data, values, elements);
    for (uint32_t i = 0; c->centred_norms && is_norm(role) && i < elements; i++)
        values[i] += 1;
    if ((code = check_finite(tensor, values, elements, err))) {
        free(values);
        return code;
    }
    *out = values;
    *count = elements;
    return ESP_OK;
}

uint64_t checkpoint_bytes(const checkpoint *c) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < c->tensors.count; i++)
        bytes += c->tensors.at[i].bytes;
    return bytes;
}
