/* lora_tokens.c - rows of single tokens that stand in for those of a table (PEFT's trainable_token_indices). They may
 * lie behind its last row: then they are tokens that the adapter adds. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/model/lora/lora_inner.h"

const json_t *lora_token_ids(const lora_file *file, lora_site site) {
    if (site == SITE_EMBEDDING) return file->config.embedding_tokens;
    return site == SITE_OUTPUT ? file->config.output_tokens : NULL;
}

static uint32_t id_at(const json_t *ids, size_t i) {
    return (uint32_t)json_integer_value(json_array_get(ids, i)); /* lora_config.c bounds it */
}

static esp_code check_shape(const lora_file *file, const model_tensor *tensor, size_t count,
                            esp_error *err) {
    uint32_t hidden = file->base->spec.hidden;
    if (tensor->dim_count == 2 && tensor->dims[1] == count && tensor->dims[0] == hidden)
        return ESP_OK;
    return lora_fail_tensor(tensor, err,
                            "has the shape %llu x %llu; wanted a row of %u for each of the %zu ids "
                            "in trainable_token_indices",
                            (unsigned long long)tensor->dims[1],
                            (unsigned long long)tensor->dims[0], hidden, count);
}

/* Each once, and no row missing before the last. */
static esp_code check_ids(const model_tensor *tensor, const json_t *ids, uint64_t there,
                          uint64_t rows, esp_error *err) {
    bool *seen = mem_new(rows, sizeof *seen);
    esp_code code = ESP_OK;
    for (size_t i = 0; i < json_array_size(ids) && !code; i++) {
        bool *one = &seen[id_at(ids, i)];
        if (*one) code = lora_fail_tensor(tensor, err, "has two rows of token %u", id_at(ids, i));
        *one = true;
    }
    for (uint64_t id = there; id < rows && !code; id++)
        if (!seen[id])
            code =
                lora_fail_tensor(tensor, err,
                                 "has a row of token %llu and none of token %llu, which the base "
                                 "has not either; save the adapter with save_embedding_layers=True",
                                 (unsigned long long)rows - 1, (unsigned long long)id);
    free(seen);
    return code;
}

esp_code lora_check_tokens(const lora_file *file, lora_site site, uint64_t there, uint64_t *rows,
                           esp_error *err) {
    const model_tensor *tensor = lora_at(file, 0, site)->piece[PIECE_TOKENS];
    const json_t *ids = lora_token_ids(file, site);
    size_t count = json_array_size(ids);
    *rows = there;
    if (!tensor) return ESP_OK;
    for (size_t i = 0; i < count; i++)
        if (id_at(ids, i) >= *rows) *rows = id_at(ids, i) + 1ull;
    esp_code code = check_shape(file, tensor, count, err);
    return code ? code : check_ids(tensor, ids, there, *rows, err);
}

void lora_put_tokens(const lora_file *file, lora_site site, uint32_t first, uint32_t count,
                     float *out) {
    const model_tensor *tensor = lora_at(file, 0, site)->piece[PIECE_TOKENS];
    const json_t *ids = lora_token_ids(file, site);
    if (!tensor) return;
    uint64_t cols = tensor->dims[0];
    for (size_t i = 0; i < json_array_size(ids); i++) {
        uint32_t id = id_at(ids, i);
        if (id < first || id - first >= count) continue;
        const char *row = (const char *)tensor->data + tensor->bytes / tensor->dims[1] * i;
        dtype_info(tensor->dtype)->dequantise(row, out + (id - first) * cols, cols);
    }
}
