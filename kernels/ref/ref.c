/* ref.c - the reference backend's table: open, memory, matrices. The ops are in ref_*.c. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/ref/ref_lora.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/host_memory.h"

static size_t lora_bytes(const kern_device *dev) {
    return (size_t)dev->tokens_max * REF_LORA_RANKS * sizeof(float);
}

static esp_code ref_open(kern_device **out, const kern_options *options, esp_error *err) {
    ESP_ASSERT(out && options && options->pool);
    *out = NULL;
    if (options->kv_dtype != DT_F32 && options->kv_dtype != DT_KV_INT8)
        return esp_fail_field(err, ESP_INVALID, "--kv-dtype",
                              "the ref device keeps its KV cache in f32 or int8, not %s; use "
                              "--kv-dtype f32 or --device cpu",
                              kern_kv_name(options->kv_dtype));
    if (options->activations != ACT_BF16)
        return esp_fail_field(err, ESP_INVALID, "--activations",
                              "--activations int8: the ref device computes in float32 throughout; "
                              "use --device cpu, or leave --activations away");
    if (options->tokens_max == 0)
        return esp_fail_field(err, ESP_INVALID, "--step-tokens",
                              "a step of 0 tokens computes nothing; raise --step-tokens");
    kern_device *dev = mem_new(1, sizeof *dev);
    dev->pool = options->pool;
    dev->tokens_max = options->tokens_max;
    dev->kv_int8 = options->kv_dtype == DT_KV_INT8;
    dev->lora_states = mem_map(lora_bytes(dev));
    if (!dev->lora_states) {
        free(dev);
        return esp_fail_field(err, ESP_EXHAUSTED, "--step-tokens",
                              "no memory for a step of %u tokens; lower --step-tokens",
                              options->tokens_max);
    }
    *out = dev;
    return ESP_OK;
}

static void ref_close(kern_device *dev) {
    if (!dev) return;
    mem_unmap(dev->lora_states, lora_bytes(dev));
    free(dev->row_scratch);
    free(dev);
}

static const char *ref_profile(const kern_device *dev) {
    return dev->kv_int8 ? "ref,act=f32,kv=int8" : "ref,act=f32,kv=f32";
}

static const char *ref_layout(const kern_device *dev) {
    (void)dev;
    return "ref-blocks-1";
}

static size_t ref_element_bytes(const kern_device *dev, kern_kind kind) {
    (void)dev, (void)kind;
    return sizeof(float);
}

static esp_code ref_alloc(kern_device *dev, size_t bytes, void **out, esp_error *err) {
    (void)dev;
    *out = mem_map(bytes);
    if (!*out)
        return esp_fail(err, ESP_EXHAUSTED, "ref: no memory for a buffer of %zu bytes", bytes);
    return ESP_OK;
}

static void ref_release(kern_device *dev, void *memory, size_t bytes) {
    (void)dev;
    if (memory) mem_unmap(memory, bytes);
}

static void ref_copy(kern_device *dev, void *to, const void *from, size_t bytes) {
    (void)dev;
    memcpy(to, from, bytes);
}

static void widen_scratch(kern_device *dev, uint32_t cols) {
    if (cols <= dev->cols_max) return;
    dev->cols_max = cols;
    size_t rows = (size_t)pool_threads(dev->pool) * REF_SCRATCH_ROWS;
    dev->row_scratch = mem_resize(dev->row_scratch, rows * cols, sizeof(float));
}

static const void *ref_view(kern_device *dev, const void *from, size_t bytes, void *room) {
    (void)dev, (void)bytes, (void)room;
    return from;
}

/* ---- steps: every op is called ---- */

static esp_code ref_reserve(kern_device *dev, const kern_reserve *most, esp_error *err) {
    (void)dev, (void)most, (void)err;
    return ESP_OK;
}

static bool ref_step_begin(kern_device *dev, const kern_step *step) {
    (void)dev, (void)step;
    return true;
}

static bool ref_step_end(kern_device *dev) {
    (void)dev;
    return true;
}

/* ---- matrices ---- */

/* Of any. */
static esp_code ref_check_layers(const kern_device *dev, const kern_kv_shape *shape,
                                 esp_error *err) {
    (void)dev, (void)shape, (void)err;
    return ESP_OK;
}

/* The bytes of a row and of all rows. */
static bool sizes(esp_dtype dtype, uint32_t rows, uint32_t cols, uint64_t *row, uint64_t *all) {
    const dtype_row *info = dtype_info(dtype);
    return check_mul(cols / info->block_elements, info->block_bytes, row) &&
           check_mul(*row, rows, all);
}

/* What pack and open_image have in common; the blocks are set. */
static void finish(kern_device *dev, kern_matrix *matrix, uint32_t rows, uint32_t cols,
                   const uint32_t *order) {
    matrix->rows = rows;
    matrix->cols = cols;
    matrix->order = order ? mem_new(cols, sizeof *order) : NULL;
    for (uint32_t c = 0; order && c < cols; c++) {
        ESP_ASSERT(order[c] < cols);
        matrix->order[c] = order[c];
    }
    widen_scratch(dev, cols);
}

static esp_code ref_pack(kern_device *dev, const kern_matrix_desc *desc, kern_matrix **out,
                         esp_error *err) {
    const dtype_row *info = dtype_info(desc->dtype);
    ESP_ASSERT(desc->rows > 0 && desc->cols > 0 && desc->cols % info->block_elements == 0);
    *out = NULL;
    uint64_t row_bytes, all, bytes;
    if (!sizes(desc->dtype, desc->rows, desc->cols, &row_bytes, &all) ||
        !check_add(all, sizeof(kern_matrix), &bytes))
        return esp_fail(err, ESP_INVALID, "ref: a matrix of %u x %u is too large", desc->rows,
                        desc->cols);
    kern_matrix *matrix = malloc(bytes);
    if (!matrix)
        return esp_fail(err, ESP_EXHAUSTED, "ref: no memory for a matrix of %u x %u (%llu bytes)",
                        desc->rows, desc->cols, (unsigned long long)bytes);
    matrix->dtype = desc->dtype;
    matrix->row_bytes = row_bytes;
    matrix->blocks = matrix->own;
    memcpy(matrix->own, desc->data, all);
    finish(dev, matrix, desc->rows, desc->cols, desc->order);
    *out = matrix;
    return ESP_OK;
}

static kern_matrix_shape ref_shape(const kern_matrix *matrix) {
    return (kern_matrix_shape){matrix->dtype, matrix->rows, matrix->cols};
}

static esp_code ref_image(const kern_matrix *matrix, kern_image *out, esp_error *err) {
    (void)err;
    *out = (kern_image){.dtype = matrix->dtype,
                        .rows = matrix->rows,
                        .cols = matrix->cols,
                        .order = matrix->order,
                        .bytes = matrix->blocks,
                        .count = matrix->rows * matrix->row_bytes};
    return ESP_OK;
}

static esp_code ref_open_image(kern_device *dev, const kern_image *image, kern_matrix **out,
                               esp_error *err) {
    uint64_t row_bytes, all;
    *out = NULL;
    if (!kern_image_is_sane(image) ||
        !sizes(image->dtype, image->rows, image->cols, &row_bytes, &all) || all != image->count)
        return esp_fail(err, ESP_INVALID, "ref: %llu bytes are no matrix of %u x %u",
                        (unsigned long long)image->count, image->rows, image->cols);
    kern_matrix *matrix = mem_new(1, sizeof *matrix);
    matrix->dtype = image->dtype;
    matrix->row_bytes = row_bytes;
    matrix->blocks = image->bytes;
    finish(dev, matrix, image->rows, image->cols, image->order);
    *out = matrix;
    return ESP_OK;
}

static void ref_matrix_close(kern_device *dev, kern_matrix *matrix) {
    (void)dev;
    if (matrix) free(matrix->order);
    free(matrix);
}

static size_t ref_matrix_bytes(const kern_matrix *matrix) {
    return sizeof *matrix + matrix->rows * matrix->row_bytes;
}

static size_t ref_frame_bytes(const kern_device *dev, const kern_kv_shape *shape) {
    (void)dev;
    return (size_t)shape->layers * 2 * shape->kv_heads * KV_PAGE_TOKENS * shape->head_dim *
           sizeof(float);
}

/* Logits are in the host's memory. */
static bool ref_sample(kern_device *dev, const kern_sample *op) {
    (void)dev, (void)op;
    return false;
}

static bool ref_sampled(kern_device *dev, const kern_sample *op) {
    (void)dev, (void)op;
    return false;
}

static esp_code ref_sync(kern_device *dev, esp_error *err) {
    (void)dev, (void)err;
    return ESP_OK;
}

const kern_ops kern_ref = {
    .name = "ref",
    .parts = true,
    .open = ref_open,
    .close = ref_close,
    .profile = ref_profile,
    .layout = ref_layout,
    .element_bytes = ref_element_bytes,
    .alloc = ref_alloc,
    .release = ref_release,
    .upload = ref_copy,
    .download = ref_copy,
    .view = ref_view,
    .host_take = kern_host_take,
    .host_give = kern_host_give,
    .upload_beside = ref_copy,
    .memory = kern_host_memory,
    .reserve = ref_reserve,
    .check_layers = ref_check_layers,
    .pack = ref_pack,
    .shape = ref_shape,
    .image = ref_image,
    .open_image = ref_open_image,
    .matrix_close = ref_matrix_close,
    .matrix_bytes = ref_matrix_bytes,
    .lora_pieces = ref_lora_pieces,
    .lora_pack = ref_lora_pack,
    .frame_bytes = ref_frame_bytes,
    .step_begin = ref_step_begin,
    .step_end = ref_step_end,
    .embed = ref_embed,
    .norm = ref_norm,
    .linear = ref_linear,
    .rope_store = ref_rope_store,
    .attention = ref_attention,
    .pool_states = ref_pool_states,
    .sample = ref_sample,
    .sampled = ref_sampled,
    .rank_sum = ref_rank_sum,
    .place_columns = ref_place_columns,
    .move_frames = kern_host_move_frames,
    .sync = ref_sync,
};
