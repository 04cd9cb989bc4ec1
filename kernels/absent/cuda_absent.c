/* cuda_absent.c - kern_cuda of a build without CUDA: open says what was missing when it was configured.
 *
 * Nothing opens, so no other entry is ever called; each is there all the same, as in every backend. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/kernels.h"

#ifndef CUDA_WHY_ABSENT
#error "kernels/cuda/cuda.cmake says why there is no CUDA"
#endif

static esp_code say_why(esp_error *err) {
    return esp_fail_field(
        err, ESP_UNIMPLEMENTED, "--device",
        "--device cuda: this build has no CUDA backend, for %s; configure it with "
        "-DESPALIER_CUDA=ON where the CUDA toolkit is, or use --device cpu",
        CUDA_WHY_ABSENT);
}

bool kern_cuda_launches(const kern_device *dev) {
    (void)dev;
    return false;
}

uint32_t kern_cuda_count(esp_error *why) {
    (void)!say_why(why);
    return 0;
}

esp_code kern_cuda_check(uint32_t index, esp_error *err) {
    (void)index;
    return say_why(err);
}

uint32_t kern_cuda_link(uint32_t device, uint32_t other) {
    (void)device, (void)other;
    return KERN_LINK_NONE;
}

static esp_code absent_open(kern_device **out, const kern_options *options, esp_error *err) {
    ESP_ASSERT(out && options);
    *out = NULL;
    return say_why(err);
}

static void absent_close(kern_device *dev) { ESP_ASSERT(!dev); }

/* ---- never reached: there is no device ---- */

_Noreturn static void no_device(void) {
    esp_assert_failed("a device that opened", __FILE__, __LINE__);
}

static const char *absent_text(const kern_device *dev) {
    (void)dev;
    no_device();
}
static size_t absent_element_bytes(const kern_device *dev, kern_kind kind) {
    (void)dev, (void)kind;
    no_device();
}
static esp_code absent_alloc(kern_device *dev, size_t bytes, void **out, esp_error *err) {
    (void)dev, (void)bytes, (void)out, (void)err;
    no_device();
}
static void absent_release(kern_device *dev, void *memory, size_t bytes) {
    (void)dev, (void)memory, (void)bytes;
    no_device();
}
static void absent_copy(kern_device *dev, void *to, const void *from, size_t bytes) {
    (void)dev, (void)to, (void)from, (void)bytes;
    no_device();
}
static const void *absent_view(kern_device *dev, const void *from, size_t bytes, void *room) {
    (void)dev, (void)from, (void)bytes, (void)room;
    no_device();
}
static void *absent_host_take(const kern_device *dev, size_t bytes) {
    (void)dev, (void)bytes;
    no_device();
}
static void absent_host_give(const kern_device *dev, void *memory, size_t bytes) {
    (void)dev, (void)memory, (void)bytes;
    no_device();
}
static void absent_memory(const kern_device *dev, kern_memory *out) {
    (void)dev, (void)out;
    no_device();
}
static esp_code absent_reserve(kern_device *dev, const kern_reserve *most, esp_error *err) {
    (void)dev, (void)most, (void)err;
    no_device();
}
static bool absent_step_begin(kern_device *dev, const kern_step *step) {
    (void)dev, (void)step;
    no_device();
}
static bool absent_step_end(kern_device *dev) {
    (void)dev;
    no_device();
}
static esp_code absent_check_layers(const kern_device *dev, const kern_kv_shape *shape,
                                    esp_error *err) {
    (void)dev, (void)shape, (void)err;
    no_device();
}
static esp_code absent_pack(kern_device *dev, const kern_matrix_desc *desc, kern_matrix **out,
                            esp_error *err) {
    (void)dev, (void)desc, (void)out, (void)err;
    no_device();
}
static kern_matrix_shape absent_shape(const kern_matrix *matrix) {
    (void)matrix;
    no_device();
}
static esp_code absent_image(const kern_matrix *matrix, kern_image *out, esp_error *err) {
    (void)matrix, (void)out, (void)err;
    no_device();
}
static esp_code absent_open_image(kern_device *dev, const kern_image *image, kern_matrix **out,
                                  esp_error *err) {
    (void)dev, (void)image, (void)out, (void)err;
    no_device();
}
static void absent_matrix_close(kern_device *dev, kern_matrix *matrix) {
    (void)dev, (void)matrix;
    no_device();
}
static size_t absent_matrix_bytes(const kern_matrix *matrix) {
    (void)matrix;
    no_device();
}
static uint32_t absent_lora_pieces(const kern_device *dev, const kern_lora_desc *desc,
                                   size_t piece_max, size_t *bytes) {
    (void)dev, (void)desc, (void)piece_max, (void)bytes;
    no_device();
}
static void absent_lora_pack(const kern_device *dev, const kern_lora_desc *desc, size_t piece_max,
                             void *const *pieces) {
    (void)dev, (void)desc, (void)piece_max, (void)pieces;
    no_device();
}
static size_t absent_frame_bytes(const kern_device *dev, const kern_kv_shape *shape) {
    (void)dev, (void)shape;
    no_device();
}
static void absent_embed(kern_device *dev, const kern_embed *op) {
    (void)dev, (void)op;
    no_device();
}
static void absent_norm(kern_device *dev, const kern_norm *op) {
    (void)dev, (void)op;
    no_device();
}
static void absent_linear(kern_device *dev, const kern_linear *op) {
    (void)dev, (void)op;
    no_device();
}
static void absent_rope_store(kern_device *dev, const kern_rope_store *op) {
    (void)dev, (void)op;
    no_device();
}
static void absent_attention(kern_device *dev, const kern_attention *op) {
    (void)dev, (void)op;
    no_device();
}
static void absent_pool_states(kern_device *dev, const kern_pool_states *op) {
    (void)dev, (void)op;
    no_device();
}
static bool absent_sample(kern_device *dev, const kern_sample *op) {
    (void)dev, (void)op;
    no_device();
}
static bool absent_sampled(kern_device *dev, const kern_sample *op) {
    (void)dev, (void)op;
    no_device();
}
static void absent_rank_sum(kern_device *dev, const kern_rank_sum *op) {
    (void)dev, (void)op;
    no_device();
}
static void absent_place_columns(kern_device *dev, const kern_place_columns *op) {
    (void)dev, (void)op;
    no_device();
}
static void absent_move_frames(kern_device *dev, const kern_move_frames *op) {
    (void)dev, (void)op;
    no_device();
}
static esp_code absent_sync(kern_device *dev, esp_error *err) {
    (void)dev, (void)err;
    no_device();
}

const kern_ops kern_cuda = {
    .name = "cuda",
    .open = absent_open,
    .close = absent_close,
    .profile = absent_text,
    .layout = absent_text,
    .element_bytes = absent_element_bytes,
    .alloc = absent_alloc,
    .release = absent_release,
    .upload = absent_copy,
    .download = absent_copy,
    .view = absent_view,
    .host_take = absent_host_take,
    .host_give = absent_host_give,
    .upload_beside = absent_copy,
    .memory = absent_memory,
    .reserve = absent_reserve,
    .check_layers = absent_check_layers,
    .pack = absent_pack,
    .shape = absent_shape,
    .image = absent_image,
    .open_image = absent_open_image,
    .matrix_close = absent_matrix_close,
    .matrix_bytes = absent_matrix_bytes,
    .lora_pieces = absent_lora_pieces,
    .lora_pack = absent_lora_pack,
    .frame_bytes = absent_frame_bytes,
    .step_begin = absent_step_begin,
    .step_end = absent_step_end,
    .embed = absent_embed,
    .norm = absent_norm,
    .linear = absent_linear,
    .rope_store = absent_rope_store,
    .attention = absent_attention,
    .pool_states = absent_pool_states,
    .sample = absent_sample,
    .sampled = absent_sampled,
    .rank_sum = absent_rank_sum,
    .place_columns = absent_place_columns,
    .move_frames = absent_move_frames,
    .sync = absent_sync,
};
