/* fuzz_packed.c - any bytes as a quantization_config, a NUL, and a safetensors file: every module
 * is found and read, whatever its parts say. Seeds: corpus/packed, made by make_packed_corpus.py. */
// SPDX-License-Identifier: Apache-2.0
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/format/json_bytes.h"
#include "engine/model/format/safetensors.h"
#include "engine/model/packed/quant_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ROWS_AT_ONCE = 3, COLS_MAX = 1 << 16 };

static void read_matrix(const packed_matrix *m) {
    if (m->cols > COLS_MAX) return;
    uint8_t *blocks = malloc(ROWS_AT_ONCE * packed_row_bytes(m));
    float *row = malloc(m->cols * sizeof *row);
    uint32_t *order = malloc(m->cols * sizeof *order);
    uint32_t first = m->rows / 2, left = m->rows - first;
    uint32_t count = left < ROWS_AT_ONCE ? left : ROWS_AT_ONCE;
    if (m->ordered) packed_read_order(m, order);
    if (packed_read_rows(m, first, count, blocks, NULL) == ESP_OK)
        dtype_info(m->dtype)->dequantise(blocks, row, m->cols);
    free(order);
    free(row);
    free(blocks);
}

/* A tensor's name less its last part. */
static model_text module_of(model_text name) {
    size_t bytes = name.bytes;
    while (bytes > 0 && name.at[bytes - 1] != '.')
        bytes--;
    return (model_text){name.at, bytes > 0 ? bytes - 1 : 0};
}

static void read_modules(const quant_config *config, const tensor_set *tensors) {
    for (uint32_t i = 0; i < tensors->count; i++) {
        packed_matrix m;
        model_text module = module_of(tensors->at[i].name);
        if (quant_config_find(config, tensors, module, &m, NULL) == ESP_OK && m.rows)
            read_matrix(&m);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *end = memchr(data, 0, size);
    quant_config config = {0};
    json_t *object = NULL;
    safetensors_file *file = NULL;
    if (!end) return 0;
    size_t text = (size_t)(end - data), rest = size - text - 1;
    if (json_read_object(&object, data, text, "fuzz", "the config", NULL) == ESP_OK &&
        quant_config_read(&config, object, false, "fuzz", NULL) == ESP_OK && rest > 0 &&
        safetensors_open_memory(&file, end + 1, rest, "fuzz", NULL) == ESP_OK)
        read_modules(&config, safetensors_tensors(file));
    safetensors_close(file);
    quant_config_free(&config);
    json_decref(object);
    return 0;
}
