/* cuda_pack.c - matrices of a CUDA device: packed on the host slice by slice, kept on the device.
 *
 * A slice is filled by the pool and then copied, so that the host never holds a large matrix twice. The image
 * that a file keeps is the device's bytes; they come back to the host when they are first asked for, and stay
 * until the matrix is closed. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/cuda_tiles.h"

enum { SLICE_BYTES = 64 << 20 };

/* A matrix with its device memory, whose bytes are yet to come; NULL with an error. */
static kern_matrix *matrix_new(kern_device *dev, esp_dtype dtype, const cuda_matrix_view *shape,
                               uint64_t bytes, const uint32_t *order, esp_error *err,
                               esp_code *code) {
    kern_matrix *matrix = mem_new(1, sizeof *matrix);
    size_t order_bytes = shape->cols * sizeof *order;
    *matrix = (kern_matrix){.dtype = dtype, .view = *shape, .bytes = bytes, .dev = dev};
    void *memory = NULL, *order_there = NULL;
    *code = cuda_alloc(dev, bytes, &memory, err);
    if (*code == ESP_OK && order) *code = cuda_alloc(dev, order_bytes, &order_there, err);
    matrix->memory = memory;
    matrix->order_there = order_there;
    if (*code != ESP_OK) {
        cuda_matrix_close(dev, matrix);
        return NULL;
    }
    matrix->view.tiles = matrix->memory + CUDA_HEAD_BYTES;
    matrix->view.order = matrix->order_there;
    if (order) {
        matrix->order = mem_new(shape->cols, sizeof *order);
        memcpy(matrix->order, order, order_bytes);
        cuda_upload(dev, matrix->order_there, order, order_bytes);
    }
    cuda_expect_matrix(dev, &matrix->view);
    return matrix;
}

static uint32_t slice_tile_rows(const cuda_matrix_view *shape, uint32_t tile_rows) {
    uint64_t fit = SLICE_BYTES / ((uint64_t)shape->chunks * shape->tile_bytes);
    return fit == 0 ? 1 : fit < tile_rows ? (uint32_t)fit : tile_rows;
}

/* Head and tiles to the device. */
static esp_code send_tiles(kern_device *dev, const kern_matrix_desc *desc,
                           const kern_matrix *matrix, esp_error *err) {
    const cuda_matrix_view *view = &matrix->view;
    uint8_t head[CUDA_HEAD_BYTES] = {0};
    memcpy(head, &(cuda_head){.format = view->format}, sizeof(cuda_head));
    cuda_upload(dev, matrix->memory, head, sizeof head);
    uint32_t tile_rows = (view->rows - 1) / CUDA_TILE_ROWS + 1;
    uint32_t step = slice_tile_rows(view, tile_rows);
    size_t line = (size_t)view->chunks * view->tile_bytes;
    uint8_t *slice = mem_map(step * line);
    if (!slice)
        return esp_fail(err, ESP_EXHAUSTED, "cuda: no memory to pack a matrix of %u x %u",
                        view->rows, view->cols);
    for (uint32_t first = 0; first < tile_rows; first += step) {
        uint32_t count = tile_rows - first < step ? tile_rows - first : step;
        cuda_tiles_fill(desc, view, first, count, slice, dev->pool);
        cuda_upload(dev, matrix->memory + CUDA_HEAD_BYTES + first * line, slice, count * line);
    }
    mem_unmap(slice, step * line);
    return ESP_OK;
}

esp_code cuda_pack(kern_device *dev, const kern_matrix_desc *desc, kern_matrix **out,
                   esp_error *err) {
    const dtype_row *info = dtype_info(desc->dtype);
    ESP_ASSERT(desc->rows > 0 && desc->cols > 0 && desc->cols % info->block_elements == 0);
    cuda_matrix_view shape;
    uint64_t bytes;
    esp_code code;
    *out = NULL;
    for (uint32_t c = 0; desc->order && c < desc->cols; c++)
        ESP_ASSERT(desc->order[c] < desc->cols);
    if (!cuda_tiles_shape(cuda_tiles_format(desc, dev->pool), desc->rows, desc->cols, &shape,
                          &bytes))
        return esp_fail(err, ESP_EXHAUSTED, "cuda: no memory for a %s matrix of %u x %u",
                        info->name, desc->rows, desc->cols);
    kern_matrix *matrix = matrix_new(dev, desc->dtype, &shape, bytes, desc->order, err, &code);
    if (!matrix) return code;
    code = send_tiles(dev, desc, matrix, err);
    if (code != ESP_OK) {
        cuda_matrix_close(dev, matrix);
        return code;
    }
    *out = matrix;
    return ESP_OK;
}

void cuda_image(const kern_matrix *matrix, kern_image *out) {
    kern_matrix *own = (kern_matrix *)(uintptr_t)matrix; /* what is kept is no part of its value */
    if (!own->image) {
        own->image = mem_map(own->bytes);
        ESP_ASSERT(own->image);
        cuda_download(own->dev, own->image, own->memory, own->bytes);
    }
    *out = (kern_image){.dtype = own->dtype,
                        .rows = own->view.rows,
                        .cols = own->view.cols,
                        .order = own->order,
                        .bytes = own->image,
                        .count = own->bytes};
}

esp_code cuda_open_image(kern_device *dev, const kern_image *image, kern_matrix **out,
                         esp_error *err) {
    cuda_head head;
    cuda_matrix_view shape;
    uint64_t bytes;
    esp_code code;
    *out = NULL;
    bool good = kern_image_is_sane(image) && image->count >= CUDA_HEAD_BYTES;
    if (good) memcpy(&head, image->bytes, sizeof head);
    if (!good || !cuda_tiles_fits((cuda_format)head.format, image->dtype) ||
        !cuda_tiles_shape((cuda_format)head.format, image->rows, image->cols, &shape, &bytes) ||
        bytes != image->count)
        return esp_fail(err, ESP_INVALID, "cuda: %llu bytes are no packed matrix of %u x %u",
                        (unsigned long long)image->count, image->rows, image->cols);
    kern_matrix *matrix = matrix_new(dev, image->dtype, &shape, bytes, image->order, err, &code);
    if (!matrix) return code;
    cuda_upload(dev, matrix->memory, image->bytes, bytes);
    *out = matrix;
    return ESP_OK;
}

void cuda_matrix_close(kern_device *dev, kern_matrix *matrix) {
    if (!matrix) return;
    cuda_release(dev, matrix->memory, matrix->bytes);
    cuda_release(dev, matrix->order_there, matrix->view.cols * sizeof *matrix->order);
    if (matrix->image) mem_unmap(matrix->image, matrix->bytes);
    free(matrix->order);
    free(matrix);
}

size_t cuda_matrix_bytes(const kern_matrix *matrix) { return sizeof *matrix + matrix->bytes; }

const cuda_matrix_view *cuda_view_of(const kern_matrix *matrix) { return &matrix->view; }
