/* pack.c - blocks as in the file -> tiles of 16 rows (layout: cpu.h).
 *
 * Work  split over tiles; memory comes zeroed, so padding rows and columns need no writing. Codes
 * are moved, never rounded: a matrix stays as exact and about as large as in its file. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/cpu/cpu.h"

enum { F16_BYTES = 2, NIBBLES_OF_DWORD = 8 };

typedef struct pack_job {
    const kern_matrix_desc *desc;
    kern_matrix *matrix;
    size_t row_bytes; /* of a row in the file */
} pack_job;

/* The low nibbles of 8 bytes, first byte lowest. */
static uint32_t gather_nibbles(uint64_t bytes) {
    uint64_t x = bytes & 0x0f0f0f0f0f0f0f0fu;
    x = (x | x >> 4) & 0x00ff00ff00ff00ffu;
    x = (x | x >> 8) & 0x0000ffff0000ffffu;
    return (uint32_t)(x | x >> 16);
}

/* One row of one block: bytes 0..15 hold columns 0..15 low, 16..31 high. */
static void pack_nibbles(const uint8_t *in, uint8_t *codes, uint32_t row) {
    for (uint32_t line = 0; line < TILE_COLS / NIBBLES_OF_DWORD; line++) {
        uint64_t bytes;
        memcpy(&bytes, in + line % 2 * 8, sizeof bytes);
        uint32_t dword = gather_nibbles(bytes >> (line / 2 * 4));
        memcpy(codes + line * TILE_ROWS * 4 + row * 4, &dword, sizeof dword);
    }
}

static inline void pack_column_major(const uint8_t *in, uint8_t *codes, uint32_t row,
                                     uint32_t count, uint32_t element_bytes) {
    for (uint32_t k = 0; k < count; k++)
        memcpy(codes + (k * TILE_ROWS + row) * element_bytes, in + k * element_bytes,
               element_bytes);
}

static void pack_row(const pack_job *job, uint32_t row) {
    const kern_matrix *matrix = job->matrix;
    const dtype_row *info = dtype_info(matrix->dtype);
    const cpu_format *format = &cpu_formats[matrix->dtype];
    const uint8_t *in = (const uint8_t *)job->desc->data + row * job->row_bytes;
    uint32_t lane = row % TILE_ROWS;
    uint8_t *codes = matrix->codes + row / TILE_ROWS * matrix->code_bytes;
    uint8_t *scales = matrix->scales + row / TILE_ROWS * matrix->scale_bytes;
    for (uint32_t b = 0; b < matrix->blocks; b++) {
        uint32_t left = matrix->cols - b * TILE_COLS, count = left < TILE_COLS ? left : TILE_COLS;
        uint32_t halves = format->scale_bytes / SCALE_ROW_BYTES;
        for (uint32_t i = 0; i < halves; i++)
            memcpy(scales + i * SCALE_ROW_BYTES + lane * F16_BYTES, in + i * F16_BYTES, F16_BYTES);
        const uint8_t *body = in + halves * F16_BYTES;
        switch (matrix->dtype) {
        case DT_Q4_0:
        case DT_Q4_1:
            pack_nibbles(body, codes, lane);
            break;
        case DT_Q8_0:
            pack_column_major(body, codes, lane, count, 1);
            break;
        case DT_F16:
        case DT_BF16:
            pack_column_major(body, codes, lane, count, 2);
            break;
        case DT_F32:
        default:
            pack_column_major(body, codes, lane, count, 4);
            break;
        }
        in += count / info->block_elements * info->block_bytes;
        codes += format->code_bytes;
        scales += format->scale_bytes;
    }
}

static void pack_tiles(void *arg, uint32_t worker, uint32_t workers) {
    const pack_job *job = arg;
    uint32_t begin, end;
    pool_share(job->matrix->rows, TILE_ROWS, worker, workers, &begin, &end);
    for (uint32_t row = begin; row < end; row++)
        pack_row(job, row);
}

static bool sizes(const kern_matrix_desc *desc, kern_matrix *matrix, uint64_t *scales_at) {
    const cpu_format *format = &cpu_formats[desc->dtype];
    matrix->dtype = desc->dtype;
    matrix->rows = desc->rows;
    matrix->cols = desc->cols;
    matrix->tiles = (desc->rows - 1) / TILE_ROWS + 1;
    matrix->blocks = (desc->cols - 1) / TILE_COLS + 1;
    matrix->code_bytes = (size_t)matrix->blocks * format->code_bytes;
    matrix->scale_bytes = (size_t)matrix->blocks * format->scale_bytes;
    uint64_t codes, scales, total;
    if (!check_mul(matrix->code_bytes, matrix->tiles, &codes) ||
        !check_mul(matrix->scale_bytes, matrix->tiles, &scales) ||
        !check_align(codes, CACHE_LINE_BYTES, scales_at) ||
        !check_add(*scales_at, scales, &total) || !check_align(total, CACHE_LINE_BYTES, &total))
        return false;
    matrix->map_bytes = total;
    return true;
}

/* The working space of linear grows with the widest input, here and never in a step. */
static void widen_inputs(kern_device *dev, uint32_t blocks) {
    if (blocks <= dev->blocks_max) return;
    free(dev->inputs);
    free(dev->input_sums);
    dev->blocks_max = blocks;
    dev->inputs = mem_new((size_t)blocks * CHUNK_TOKENS, TILE_COLS * sizeof(float));
    dev->input_sums = mem_new((size_t)blocks * CHUNK_TOKENS, sizeof(float));
}

esp_code cpu_pack(kern_device *dev, const kern_matrix_desc *desc, kern_matrix **out,
                  esp_error *err) {
    const dtype_row *info = dtype_info(desc->dtype);
    ESP_ASSERT(desc->rows > 0 && desc->cols > 0 && desc->cols % info->block_elements == 0);
    *out = NULL;
    kern_matrix *matrix = mem_new(1, sizeof *matrix);
    uint64_t scales_at = 0;
    if (sizes(desc, matrix, &scales_at)) matrix->codes = mem_map(matrix->map_bytes);
    if (!matrix->codes) {
        free(matrix);
        return esp_fail(err, ESP_EXHAUSTED, "cpu: no memory for a %s matrix of %u x %u", info->name,
                        desc->rows, desc->cols);
    }
    matrix->scales = matrix->codes + scales_at;
    pack_job job = {.desc = desc,
                    .matrix = matrix,
                    .row_bytes = (size_t)(desc->cols / info->block_elements) * info->block_bytes};
    pool_run(dev->pool, pack_tiles, &job);
    widen_inputs(dev, matrix->blocks);
    *out = matrix;
    return ESP_OK;
}

void cpu_matrix_close(kern_device *dev, kern_matrix *matrix) {
    (void)dev;
    if (!matrix) return;
    mem_unmap(matrix->codes, matrix->map_bytes);
    free(matrix);
}

size_t cpu_matrix_bytes(const kern_matrix *matrix) { return sizeof *matrix + matrix->map_bytes; }
