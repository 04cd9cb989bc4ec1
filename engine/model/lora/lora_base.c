/* lora_base.c - the base's matrices by site, as float32 rows. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/model/lora/lora_inner.h"

uint32_t lora_site_rows(const model_spec *spec, lora_site site) {
    uint32_t query = spec->heads * spec->head_dim, key = spec->kv_heads * spec->head_dim;
    const uint32_t rows[SITE_COUNT] = {
        [SITE_Q] = query,
        [SITE_K] = key,
        [SITE_V] = key,
        [SITE_QKV] = query + 2 * key,
        [SITE_O] = spec->hidden,
        [SITE_GATE] = spec->intermediate,
        [SITE_UP] = spec->intermediate,
        [SITE_GATE_UP] = 2 * spec->intermediate,
        [SITE_DOWN] = spec->hidden,
        [SITE_OUTPUT] = spec->vocab,
        [SITE_EMBEDDING] = spec->vocab,
        [SITE_POOLER] = spec->hidden,
    };
    return rows[site];
}

uint32_t lora_site_cols(const model_spec *spec, lora_site site) {
    if (site == SITE_O) return spec->heads * spec->head_dim;
    return site == SITE_DOWN ? spec->intermediate : spec->hidden;
}

/* Where the rows of a site lie in a base that fuses them. */
typedef struct role_place {
    tensor_role role, fused; /* fused: TENSOR_ROLE_COUNT where there is none */
    lora_site before[2];     /* sites whose rows stand above it there */
    uint32_t before_count;
    tensor_role bias;
} role_place;

static role_place place_of(lora_site site) {
    switch (site) {
    case SITE_Q:
        return (role_place){TENSOR_Q, TENSOR_QKV, {0}, 0, TENSOR_Q_BIAS};
    case SITE_K:
        return (role_place){TENSOR_K, TENSOR_QKV, {SITE_Q}, 1, TENSOR_K_BIAS};
    case SITE_V:
        return (role_place){TENSOR_V, TENSOR_QKV, {SITE_Q, SITE_K}, 2, TENSOR_V_BIAS};
    case SITE_O:
        return (role_place){TENSOR_O, TENSOR_ROLE_COUNT, {0}, 0, TENSOR_O_BIAS};
    case SITE_GATE:
        return (role_place){TENSOR_GATE, TENSOR_GATE_UP, {0}, 0, TENSOR_ROLE_COUNT};
    case SITE_UP:
        return (role_place){TENSOR_UP, TENSOR_GATE_UP, {SITE_GATE}, 1, TENSOR_UP_BIAS};
    case SITE_DOWN:
        return (role_place){TENSOR_DOWN, TENSOR_ROLE_COUNT, {0}, 0, TENSOR_DOWN_BIAS};
    case SITE_OUTPUT:
        return (role_place){TENSOR_OUTPUT, TENSOR_EMBEDDING, {0}, 0, TENSOR_ROLE_COUNT};
    case SITE_EMBEDDING:
        return (role_place){TENSOR_EMBEDDING, TENSOR_ROLE_COUNT, {0}, 0, TENSOR_ROLE_COUNT};
    default:
        ESP_ASSERT(!"a fused site has no rows of its own");
        return (role_place){0};
    }
}

esp_code lora_base_find(const checkpoint *base, uint32_t layer, lora_site site, lora_base_rows *out,
                        esp_error *err) {
    role_place place = place_of(site);
    *out = (lora_base_rows){0};
    esp_code code = checkpoint_find_matrix(base, place.role, layer, &out->matrix, err);
    if (code || out->matrix.rows || place.fused == TENSOR_ROLE_COUNT) return code;
    for (uint32_t i = 0; i < place.before_count; i++)
        out->first += lora_site_rows(&base->spec, place.before[i]);
    return checkpoint_find_matrix(base, place.fused, layer, &out->matrix, err);
}

/* Column c of the rows meets input order[c]. */
static void put_in_order(float *row, const uint32_t *order, uint32_t cols, float *spare) {
    for (uint32_t c = 0; c < cols; c++)
        spare[order[c]] = row[c];
    for (uint32_t c = 0; c < cols; c++)
        row[c] = spare[c];
}

esp_code lora_base_read(const checkpoint *base, const lora_base_rows *from, uint32_t first,
                        uint32_t count, void **rows, float *out, esp_error *err) {
    kern_matrix_desc desc;
    uint32_t cols = from->matrix.cols;
    esp_code code =
        checkpoint_read_rows(base, &from->matrix, from->first + first, count, rows, &desc, err);
    if (code) return code;
    dtype_info(desc.dtype)->dequantise(desc.data, out, (size_t)count * cols);
    if (!desc.order) return ESP_OK;
    float *spare = mem_new(cols, sizeof *spare);
    for (uint32_t i = 0; i < count; i++)
        put_in_order(out + (size_t)i * cols, desc.order, cols, spare);
    free(spare);
    return ESP_OK;
}

esp_code lora_base_bias(const checkpoint *base, uint32_t layer, lora_site site, float **out,
                        esp_error *err) {
    tensor_role role = place_of(site).bias;
    uint32_t count;
    *out = NULL;
    return role == TENSOR_ROLE_COUNT ? ESP_OK
                                     : checkpoint_read_vector(base, role, layer, out, &count, err);
}
