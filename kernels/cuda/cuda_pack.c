/* cuda_pack.c - matrices of a CUDA device: packed on the host slice by slice, kept on the device.
 *
 * A slice is filled by the pool while the one before it is copied (cuda_stage.c), so that the host never holds
 * a large matrix twice. The image that a file keeps is the device's bytes; they come back to the host when they
 * are first asked for, and stay until the matrix is closed. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/cuda_tiles.h"

enum { SLICE_BYTES = (16 << 20) - CUDA_HEAD_BYTES };

/* A matrix with its device memory, whose bytes are yet to come. */
static esp_code matrix_new(kern_device *dev, esp_dtype dtype, const cuda_matrix_view *shape,
                           uint64_t bytes, const uint32_t *order, kern_matrix **out,
                           esp_error *err) {
    kern_matrix *matrix = mem_new(1, sizeof *matrix);
    *matrix = (kern_matrix){.dtype = dtype, .view = *shape, .bytes = bytes, .dev = dev};
    void *memory = NULL;
    esp_code code = cuda_alloc(dev, bytes, &memory, err);
    matrix->memory = memory;
    if (code == ESP_OK && order)
        code = cuda_order_take(dev, order, shape->cols, &matrix->order, err);
    if (code != ESP_OK) {
        cuda_matrix_close(dev, matrix);
        return code;
    }
    matrix->view.tiles = matrix->memory + CUDA_HEAD_BYTES;
    matrix->view.order = order ? matrix->order->there : NULL;
    cuda_expect_matrix(dev, &matrix->view);
    *out = matrix;
    return ESP_OK;
}

static uint32_t slice_tile_rows(const cuda_matrix_view *shape, uint32_t tile_rows) {
    uint64_t fit = SLICE_BYTES / ((uint64_t)shape->chunks * shape->tile_bytes);
    return fit == 0 ? 1 : fit < tile_rows ? (uint32_t)fit : tile_rows;
}

static esp_code no_stage(kern_device *dev, const cuda_matrix_view *view, uint64_t bytes,
                         esp_error *err) {
    esp_code code = cuda_tell_fault(dev, err);
    if (code != ESP_OK) return code;
    return esp_fail_field(
        err, ESP_EXHAUSTED, "--device",
        "cuda:%d: no 2 x %llu bytes of pinned host memory to pack a matrix of %u "
        "x %u: end what else uses this machine's memory, raise what may be locked "
        "(ulimit -l), or use --device cpu",
        dev->index, (unsigned long long)bytes, view->rows, view->cols);
}

/* Head and tiles to the device; a slice is filled while the one before it travels. */
static esp_code send_tiles(kern_device *dev, const kern_matrix_desc *desc,
                           const kern_matrix *matrix, esp_error *err) {
    const cuda_matrix_view *view = &matrix->view;
    uint32_t tile_rows = (view->rows - 1) / CUDA_TILE_ROWS + 1;
    uint32_t step = slice_tile_rows(view, tile_rows);
    size_t line = (size_t)view->chunks * view->tile_bytes;
    uint8_t *to = matrix->memory;
    for (uint32_t first = 0; first < tile_rows; first += step) {
        uint32_t count = tile_rows - first < step ? tile_rows - first : step;
        uint8_t *slice = cuda_stage_next(dev, CUDA_HEAD_BYTES + step * line), *tiles = slice;
        if (!slice) return no_stage(dev, view, CUDA_HEAD_BYTES + step * line, err);
        if (first == 0) {
            memset(slice, 0, CUDA_HEAD_BYTES);
            memcpy(slice, &(cuda_head){.format = view->format}, sizeof(cuda_head));
            tiles += CUDA_HEAD_BYTES;
        }
        cuda_tiles_fill(desc, view, first, count, tiles, dev->pool);
        cuda_stage_send(dev, to, (uint64_t)(tiles - slice) + count * line);
        to += tiles - slice + (ptrdiff_t)(count * line);
    }
    return ESP_OK;
}

esp_code cuda_pack(kern_device *dev, const kern_matrix_desc *desc, kern_matrix **out,
                   esp_error *err) {
    const dtype_row *info = dtype_info(desc->dtype);
    ESP_ASSERT(desc->rows > 0 && desc->cols > 0 && desc->cols % info->block_elements == 0);
    cuda_matrix_view shape;
    uint64_t bytes;
    *out = NULL;
    if (!cuda_tiles_shape(cuda_tiles_format(desc, dev->pool), desc->rows, desc->cols, &shape,
                          &bytes))
        return esp_fail(err, ESP_INVALID,
                        "cuda: a %s matrix of %u x %u has more bytes than can be addressed; the "
                        "model's file is damaged, see espalier inspect",
                        info->name, desc->rows, desc->cols);
    kern_matrix *matrix;
    esp_code code = matrix_new(dev, desc->dtype, &shape, bytes, desc->order, &matrix, err);
    if (code != ESP_OK) return code;
    code = send_tiles(dev, desc, matrix, err);
    if (code != ESP_OK) {
        cuda_matrix_close(dev, matrix);
        return code;
    }
    *out = matrix;
    return ESP_OK;
}

kern_matrix_shape cuda_shape(const kern_matrix *matrix) {
    return (kern_matrix_shape){matrix->dtype, matrix->view.rows, matrix->view.cols};
}

static esp_code bring_image(kern_matrix *matrix, esp_error *err) {
    matrix->image = mem_map(matrix->bytes);
    if (!matrix->image)
        return esp_fail_field(err, ESP_EXHAUSTED, "--pack",
                              "cuda:%d: this machine has no %llu bytes left for a copy of a matrix "
                              "of %u x %u; use --pack off, or end what else uses its memory",
                              matrix->dev->index, (unsigned long long)matrix->bytes,
                              matrix->view.rows, matrix->view.cols);
    cuda_download(matrix->dev, matrix->image, matrix->memory, matrix->bytes);
    return cuda_tell_fault(matrix->dev, err);
}

esp_code cuda_image(const kern_matrix *matrix, kern_image *out, esp_error *err) {
    kern_matrix *own = (kern_matrix *)(uintptr_t)matrix; /* what is kept is no part of its value */
    esp_code code = own->image ? ESP_OK : bring_image(own, err);
    if (code != ESP_OK) return code;
    *out = (kern_image){.dtype = own->dtype,
                        .rows = own->view.rows,
                        .cols = own->view.cols,
                        .order = own->order ? own->order->inputs : NULL,
                        .bytes = own->image,
                        .count = own->bytes};
    return ESP_OK;
}

esp_code cuda_open_image(kern_device *dev, const kern_image *image, kern_matrix **out,
                         esp_error *err) {
    cuda_head head;
    cuda_matrix_view shape;
    uint64_t bytes;
    *out = NULL;
    bool good = kern_image_is_sane(image) && image->count >= CUDA_HEAD_BYTES;
    if (good) memcpy(&head, image->bytes, sizeof head);
    if (!good || !cuda_tiles_fits((cuda_format)head.format, image->dtype) ||
        !cuda_tiles_shape((cuda_format)head.format, image->rows, image->cols, &shape, &bytes) ||
        bytes != image->count)
        return esp_fail(err, ESP_INVALID, "cuda: %llu bytes are no packed matrix of %u x %u",
                        (unsigned long long)image->count, image->rows, image->cols);
    esp_code code = matrix_new(dev, image->dtype, &shape, bytes, image->order, out, err);
    if (code == ESP_OK) cuda_upload(dev, (*out)->memory, image->bytes, bytes);
    return code;
}

void cuda_matrix_close(kern_device *dev, kern_matrix *matrix) {
    if (!matrix) return;
    cuda_release(dev, matrix->memory, matrix->bytes);
    cuda_order_drop(dev, matrix->order);
    if (matrix->image) mem_unmap(matrix->image, matrix->bytes);
    free(matrix);
}

size_t cuda_matrix_bytes(const kern_matrix *matrix) { return sizeof *matrix + matrix->bytes; }
