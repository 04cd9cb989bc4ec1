/* gpu_matrix.c - one random matrix packed, its image opened as often as wanted. */
// SPDX-License-Identifier: Apache-2.0
#include "bench/gpu/gpu_matrix.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/quantize.h"
#include "engine/model/synthetic/synthetic_inner.h"

enum { OWN_ROWS = 64 }; /* the rows behind them are these again */

static void fill_rows(esp_dtype dtype, void *rows, size_t count, uint32_t seed) {
    synthetic_table table;
    uint16_t *values = dtype == DT_BF16 ? rows : mem_new(count, sizeof *values);
    synthetic_table_fill(&table, 0, 0.02f);
    synthetic_values(&table, seed, 0, values, count);
    if (dtype == DT_BF16) return;
    float *wide = mem_new(count, sizeof *wide);
    for (size_t i = 0; i < count; i++)
        wide[i] = f32_of_bf16(values[i]);
    quantize_weights(dtype, wide, rows, count);
    free(wide);
    free(values);
}

gpu_matrix gpu_matrix_make(const gpu_lab *lab, esp_dtype dtype, uint32_t rows, uint32_t cols,
                           uint32_t seed) {
    gpu_matrix m = {.lab = lab};
    esp_error err = {0};
    const dtype_row *info = dtype_info(dtype);
    size_t row_bytes = (size_t)cols / info->block_elements * info->block_bytes;
    uint32_t own = rows < OWN_ROWS ? rows : OWN_ROWS;
    uint8_t *data = mem_new(rows, row_bytes);
    fill_rows(dtype, data, (size_t)own * cols, seed);
    for (uint32_t row = own; row < rows; row++)
        memcpy(data + row * row_bytes, data + row % own * row_bytes, row_bytes);
    kern_matrix_desc desc = {.dtype = dtype, .rows = rows, .cols = cols, .data = data};
    gpu_expect(kern_cuda.pack(lab->dev, &desc, &m.first, &err), &err);
    free(data);
    gpu_expect(kern_cuda.image(m.first, &m.image, &err), &err);
    return m;
}

kern_matrix *gpu_matrix_again(const gpu_lab *lab, const gpu_matrix *matrix) {
    kern_matrix *again;
    esp_error err = {0};
    gpu_expect(kern_cuda.open_image(lab->dev, &matrix->image, &again, &err), &err);
    return again;
}

uint64_t gpu_matrix_bytes(const gpu_matrix *matrix) {
    return kern_cuda.matrix_bytes(matrix->first);
}

void gpu_matrix_free(gpu_matrix *matrix) {
    kern_cuda.matrix_close(matrix->lab->dev, matrix->first);
}
