/* quantize_rows.c - the rows of a matrix to Q8_0 or Q4_K, each worker some of them. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/cache/quantize_rows.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/base/pool.h"
#include "engine/base/quantize.h"

static bool fits(esp_dtype dtype, uint32_t cols) {
    return cols % dtype_info(dtype)->block_elements == 0;
}

esp_dtype quantize_dtype(esp_dtype wanted, esp_dtype dtype, uint32_t cols) {
    if (dtype_info(dtype)->block_elements > 1) return dtype;
    if (fits(wanted, cols)) return wanted;
    return fits(DT_Q8_0, cols) ? DT_Q8_0 : dtype;
}

typedef struct rows_job {
    const kern_matrix_desc *desc;
    esp_dtype dtype;
    uint8_t *out;
    float *rows;         /* [workers][cols] */
    atomic_uint bad_row; /* rows: none */
} rows_job;

static size_t row_bytes(esp_dtype dtype, uint32_t cols) {
    const dtype_row *info = dtype_info(dtype);
    return (size_t)(cols / info->block_elements) * info->block_bytes;
}

static bool all_finite(const float *values, uint32_t count) {
    bool finite = true;
    for (uint32_t i = 0; i < count; i++)
        finite = finite && isfinite(values[i]);
    return finite;
}

static void quantize_share(void *arg, uint32_t worker, uint32_t workers) {
    rows_job *job = arg;
    const kern_matrix_desc *desc = job->desc;
    float *row = job->rows + (size_t)worker * desc->cols;
    uint32_t begin, end;
    pool_share(desc->rows, 1, worker, workers, &begin, &end);
    for (uint32_t r = begin; r < end; r++) {
        const uint8_t *in = (const uint8_t *)desc->data + r * row_bytes(desc->dtype, desc->cols);
        dtype_info(desc->dtype)->dequantise(in, row, desc->cols);
        if (!all_finite(row, desc->cols)) {
            job->bad_row = r;
            return;
        }
        quantize_weights(job->dtype, row, job->out + r * row_bytes(job->dtype, desc->cols),
                         desc->cols);
    }
}

esp_code quantize_rows(kern_matrix_desc *desc, esp_dtype dtype, thread_pool *pool, void **scratch,
                       esp_error *err) {
    *scratch = mem_resize(*scratch, desc->rows, row_bytes(dtype, desc->cols));
    rows_job job = {.desc = desc,
                    .dtype = dtype,
                    .out = *scratch,
                    .rows = mem_new((size_t)pool_threads(pool) * desc->cols, sizeof(float)),
                    .bad_row = desc->rows};
    pool_run(pool, quantize_share, &job);
    free(job.rows);
    if (job.bad_row < desc->rows)
        return esp_fail(err, ESP_INVALID, "a weight of row %u is no finite number", job.bad_row);
    desc->dtype = dtype;
    desc->data = *scratch;
    return ESP_OK;
}
