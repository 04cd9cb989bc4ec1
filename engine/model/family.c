/* family.c - the table of families, and what all of them share: the shape of each role's tensor. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/model/family.h"

static const model_family *const FAMILIES[] = {&family_llama,  &family_qwen2,  &family_qwen3,
                                               &family_gemma2, &family_gemma3, &family_phi3};
enum { FAMILY_COUNT = sizeof FAMILIES / sizeof FAMILIES[0] };

static esp_code fail_architecture(const gguf_file *file, gguf_text seen, esp_error *err) {
    char known[96] = "";
    for (size_t i = 0; i < FAMILY_COUNT; i++) {
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "",
                 FAMILIES[i]->architecture);
    }
    char shown[48] = "";
    for (size_t i = 0; i < seen.bytes && i < sizeof shown - 1; i++)
        shown[i] = seen.at[i] < 0x20 || seen.at[i] > 0x7e ? '?' : seen.at[i];
    return esp_fail(err, ESP_INVALID, "%s: general.architecture is \"%s\"; wanted one of %s",
                    gguf_name(file), shown, known);
}

esp_code family_find(const gguf_file *file, const model_family **out, esp_error *err) {
    bool found;
    gguf_text seen = {"", 0};
    esp_code code = gguf_get_text(file, "general.architecture", &found, &seen, err);
    if (code) return code;
    if (!found)
        return esp_fail(err, ESP_INVALID,
                        "%s: the metadata key general.architecture is missing; this is no model",
                        gguf_name(file));
    for (size_t i = 0; i < FAMILY_COUNT; i++) {
        const char *name = FAMILIES[i]->architecture;
        if (strlen(name) != seen.bytes || memcmp(name, seen.at, seen.bytes) != 0) continue;
        *out = FAMILIES[i];
        return ESP_OK;
    }
    return fail_architecture(file, seen, err);
}

typedef struct shape {
    uint64_t rows, cols;
    bool vector; /* one dimension, float32 */
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
        return (shape){1, hidden, true};
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

static esp_code check_shape(const gguf_file *file, const gguf_tensor *tensor, shape wanted,
                            const char *name, esp_error *err) {
    uint64_t dims[2] = {wanted.cols, wanted.rows};
    uint32_t count = wanted.vector ? 1 : 2;
    bool equal = tensor->dim_count == count;
    for (uint32_t i = 0; i < count; i++)
        equal = equal && tensor->dims[i] == dims[i];
    if (!equal) {
        char seen[96], want[64];
        print_dims(seen, sizeof seen, tensor->dims, tensor->dim_count);
        print_dims(want, sizeof want, dims, count);
        return esp_fail(err, ESP_INVALID, "%s: tensor %s has the shape %s; the metadata wants %s",
                        gguf_name(file), name, seen, want);
    }
    if (wanted.vector && tensor->dtype != DT_F32)
        return esp_fail(err, ESP_INVALID, "%s: tensor %s has type %s; wanted F32", gguf_name(file),
                        name, dtype_info(tensor->dtype)->name);
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
    default:
        return true;
    }
}

esp_code family_tensor(const model_family *family, const gguf_file *file, const model_spec *spec,
                       tensor_role role, uint32_t layer, const gguf_tensor **out, esp_error *err) {
    ESP_ASSERT(role < TENSOR_ROLE_COUNT && layer < spec->layers);
    *out = NULL;
    const char *pattern = family->tensor_names[role];
    if (!pattern || !is_wanted(spec, role)) return ESP_OK;
    char name[80];
    snprintf(name, sizeof name, pattern, layer);
    const gguf_tensor *tensor = gguf_find(file, name);
    if (!tensor)
        return esp_fail(err, ESP_INVALID,
                        "%s: tensor %s is missing; the file is incomplete: convert the model again",
                        gguf_name(file), name);
    esp_code code = check_shape(file, tensor, role_shape(spec, role), name, err);
    if (!code) *out = tensor;
    return code;
}

/* Checks every tensor of one layer (or, from TENSOR_EMBEDDING on, the model's own) and marks it. */
static esp_code check_roles(const model_family *family, const gguf_file *file,
                            const model_spec *spec, tensor_role first, uint32_t layer, bool *used,
                            esp_error *err) {
    tensor_role end = first == TENSOR_EMBEDDING ? TENSOR_ATTN_NORM : TENSOR_ROLE_COUNT;
    for (tensor_role role = first; role < end; role++) {
        const gguf_tensor *tensor;
        esp_code code = family_tensor(family, file, spec, role, layer, &tensor, err);
        if (code) return code;
        if (tensor) used[tensor - gguf_tensor_at(file, 0)] = true;
    }
    return ESP_OK;
}

/* A list that divides the rope frequencies: each finite and above 0. */
static esp_code check_divisors(const model_family *family, const gguf_file *file,
                               const model_spec *spec, tensor_role role, esp_error *err) {
    const gguf_tensor *tensor;
    esp_code code = family_tensor(family, file, spec, role, 0, &tensor, err);
    for (uint64_t i = 0; !code && tensor && i < tensor->dims[0]; i++) {
        float divisor;
        memcpy(&divisor, (const char *)tensor->data + i * sizeof divisor, sizeof divisor);
        if (!isfinite(divisor) || divisor <= 0)
            code = esp_fail(err, ESP_INVALID, "%s: element %llu of tensor %.*s is %g; wanted > 0",
                            gguf_name(file), (unsigned long long)i, (int)tensor->name.bytes,
                            tensor->name.at, (double)divisor);
    }
    return code;
}

static esp_code refuse_surplus(const gguf_file *file, const model_spec *spec, const bool *used,
                               esp_error *err) {
    for (uint64_t i = 0; i < gguf_tensor_count(file); i++) {
        gguf_text name = gguf_tensor_at(file, i)->name;
        if (!used[i])
            return esp_fail(err, ESP_INVALID,
                            "%s: tensor %.*s has no place in a %s model of %u layers; without it "
                            "the model would be computed wrongly",
                            gguf_name(file), (int)name.bytes, name.at, spec->family, spec->layers);
    }
    return ESP_OK;
}

esp_code family_check_tensors(const model_family *family, const gguf_file *file,
                              const model_spec *spec, esp_error *err) {
    uint64_t count = gguf_tensor_count(file);
    bool *used = mem_new(count ? count : 1, sizeof *used);
    esp_code code = check_roles(family, file, spec, TENSOR_EMBEDDING, 0, used, err);
    for (uint32_t layer = 0; layer < spec->layers && !code; layer++)
        code = check_roles(family, file, spec, TENSOR_ATTN_NORM, layer, used, err);
    for (tensor_role role = TENSOR_ROPE_DIVISORS; role <= TENSOR_ROPE_LONG && !code; role++)
        code = check_divisors(family, file, spec, role, err);
    if (!code) code = refuse_surplus(file, spec, used, err);
    free(used);
    return code;
}
