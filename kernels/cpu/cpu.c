/* cpu.c - the CPU backend's table: choosing the level, memory, and the way to the level's ops.
 *
 * Compiled for plain x86-64: no instruction of a level runs before open has seen that it exists. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/lora_plan.h"
#include "kernels/host_memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

static esp_code choose_level(kern_level wanted, const cpu_level **out, esp_error *err) {
    kern_level best = kern_cpu_best_level();
    if (best == LEVEL_AUTO)
        return esp_fail_field(err, ESP_PRECONDITION, "--device",
                              "this processor or its system lacks AVX2, FMA, F16C or BMI2, which "
                              "the cpu device needs; use --device ref");
    if (wanted == LEVEL_AUTO) wanted = best;
    if (wanted == LEVEL_AMX && best < LEVEL_AMX)
        return esp_fail_field(
            err, ESP_PRECONDITION, "--device",
            "this processor or its system lacks AMX (TILE, BF16), AVX512_BF16 or GFNI; "
            "use --device cpu");
    if (wanted > best)
        return esp_fail_field(err, ESP_PRECONDITION, "--device",
                              "this processor or its system lacks AVX-512 (F, BW, DQ, VL); use "
                              "--device cpu:avx2");
    *out = wanted == LEVEL_AMX      ? &cpu_level_amx
           : wanted == LEVEL_AVX512 ? &cpu_level_avx512
                                    : &cpu_level_avx2;
    return ESP_OK;
}

/* NULL: the level has none for bf16 activations. */
static cpu_linear_fn *choose_int16(const cpu_level *level) {
    if (level == &cpu_level_amx) return NULL;
    if (level == &cpu_level_avx512)
        return cpu_has(CPU_AVX512_VNNI) ? linear_int16_avx512_vnni : linear_int16_avx512;
    return cpu_has(CPU_AVX_VNNI) ? linear_int16_avx2_vnni : linear_int16_avx2;
}

static cpu_linear_fn *choose_int8(const cpu_level *level) {
    if (level == &cpu_level_amx && cpu_has(CPU_AMX_INT8) && cpu_has(CPU_AVX512_VNNI))
        return linear_int8_amx;
    if (level != &cpu_level_avx2)
        return cpu_has(CPU_AVX512_VNNI) ? linear_int8_avx512_vnni : linear_int8_avx512;
    return cpu_has(CPU_AVX_VNNI) ? linear_int8_avx2_vnni : linear_int8_avx2;
}

static esp_code check_options(const kern_options *options, esp_error *err) {
    if (options->kv_dtype != DT_BF16 && options->kv_dtype != DT_F32)
        return esp_fail_field(err, ESP_INVALID, "--kv-dtype",
                              "the cpu device keeps its KV cache in bf16 or f32, not %s; int8 is "
                              "of --device cuda, and of ref",
                              kern_kv_name(options->kv_dtype));
    if (options->tokens_max == 0)
        return esp_fail_field(err, ESP_INVALID, "--step-tokens",
                              "a step of 0 tokens computes nothing; raise --step-tokens");
    return ESP_OK;
}

static void cpu_close(kern_device *dev) {
    if (!dev) return;
    if (dev->scratch) mem_unmap(dev->scratch, pool_threads(dev->pool) * sizeof *dev->scratch);
    if (dev->level_scratch)
        mem_unmap(dev->level_scratch, pool_threads(dev->pool) * dev->level->scratch_bytes);
    cpu_lora_plan_close(dev->lora);
    cpu_lora_plan_close(dev->lora_next);
    free(dev->inputs);
    free(dev->quantised);
    free(dev);
}

static esp_code cpu_open(kern_device **out, const kern_options *options, esp_error *err) {
    ESP_ASSERT(out && options && options->pool);
    *out = NULL;
    const cpu_level *level = NULL;
    esp_code code = check_options(options, err);
    if (code == ESP_OK) code = choose_level(options->level, &level, err);
    if (code != ESP_OK) return code;
    kern_device *dev = mem_new(1, sizeof *dev);
    dev->pool = options->pool;
    dev->level = level;
    dev->kv_dtype = options->kv_dtype;
    dev->tile_pages = level == &cpu_level_amx && options->kv_dtype == DT_BF16;
    dev->tokens_max = options->tokens_max;
    bool int8 = options->activations == ACT_INT8;
    dev->integer_form = int8 ? FORM_BYTES : level->by_rows ? FORM_ROWS : FORM_WORDS;
    dev->linear_integer = int8 ? choose_int8(level) : choose_int16(level);
    dev->exact_output = level == &cpu_level_amx && !int8;
    snprintf(dev->profile, sizeof dev->profile, "cpu:%s,act=%s,kv=%s", level->name,
             int8 ? "int8" : "bf16", options->kv_dtype == DT_BF16 ? "bf16" : "f32");
    dev->scratch = mem_map(pool_threads(dev->pool) * sizeof *dev->scratch);
    if (level->scratch_bytes)
        dev->level_scratch = mem_map(pool_threads(dev->pool) * level->scratch_bytes);
    dev->lora = cpu_lora_plan_open(dev);
    dev->lora_next = cpu_lora_plan_open(dev);
    if (!dev->scratch || !dev->lora || !dev->lora_next ||
        (level->scratch_bytes && !dev->level_scratch)) {
        cpu_close(dev);
        return esp_fail_field(err, ESP_EXHAUSTED, "--threads",
                              "no memory for the working space of %u threads; lower --threads",
                              pool_threads(options->pool));
    }
    *out = dev;
    return ESP_OK;
}

static const char *cpu_profile(const kern_device *dev) { return dev->profile; }

static const char *cpu_layout(const kern_device *dev) {
    if (dev->exact_output) return "cpu-rows-2";
    if (dev->level->by_rows) return "cpu-rows-1,bytes-1";
    return dev->integer_form == FORM_BYTES ? "cpu-tiles-1,bytes-1" : "cpu-tiles-2";
}

static size_t cpu_element_bytes(const kern_device *dev, kern_kind kind) {
    (void)dev;
    return kind == KIND_ACT ? sizeof(uint16_t) : sizeof(float);
}

static esp_code cpu_alloc(kern_device *dev, size_t bytes, void **out, esp_error *err) {
    (void)dev;
    *out = mem_map(bytes);
    if (!*out)
        return esp_fail(err, ESP_EXHAUSTED, "cpu: no memory for a buffer of %zu bytes", bytes);
    return ESP_OK;
}

static void cpu_release(kern_device *dev, void *memory, size_t bytes) {
    (void)dev;
    if (memory) mem_unmap(memory, bytes);
}

static void cpu_copy(kern_device *dev, void *to, const void *from, size_t bytes) {
    (void)dev;
    memcpy(to, from, bytes);
}

static const void *cpu_view(kern_device *dev, const void *from, size_t bytes, void *room) {
    (void)dev, (void)bytes, (void)room;
    return from;
}

/* Workspaces grow with what the ops ask for; every op of a step is called. */

static esp_code cpu_reserve(kern_device *dev, const kern_reserve *most, esp_error *err) {
    (void)dev, (void)most, (void)err;
    return ESP_OK;
}

static bool cpu_step_begin(kern_device *dev, const kern_step *step) {
    (void)dev, (void)step;
    return true;
}

static bool cpu_step_end(kern_device *dev) {
    (void)dev;
    return true;
}

static size_t cpu_frame_bytes(const kern_device *dev, const kern_kv_shape *shape) {
    return shape->layers * cpu_kv_layer_bytes(dev, shape);
}

static void cpu_norm(kern_device *dev, const kern_norm *op) { dev->level->norm(dev, op); }

static void run_linear(kern_device *dev, const kern_linear *op) {
    bool integer = false; /* any: the others of the op then go with it */
    if (op->matrix[0]->output) {
        output_linear_amx(dev, op);
        return;
    }
    for (uint32_t m = 0; m < op->matrix_count; m++)
        integer = integer || cpu_is_integer(op->matrix[m]);
    ESP_ASSERT(!integer || dev->linear_integer);
    (integer ? dev->linear_integer : dev->level->linear)(dev, op);
}

/* Tokens base .. base + count of the op as an op of their own. */
static kern_linear part_of_linear(const kern_linear *op, uint32_t base, uint32_t count) {
    kern_linear part = *op;
    size_t out_cols = op->matrix[0]->rows;
    for (uint32_t m = 1; m < op->matrix_count && !kern_is_gated(op->epilogue); m++)
        out_cols += op->matrix[m]->rows;
    size_t element = kern_gives_act(op->epilogue) ? sizeof(uint16_t) : sizeof(float);
    part.in = (const char *)op->in + (size_t)base * op->matrix[0]->cols * sizeof(uint16_t);
    part.out = (char *)op->out + base * out_cols * element;
    part.token_count = count;
    return part;
}

static void check_updates(const kern_linear *op) {
    uint32_t rows[LINEAR_MATRICES_MAX];
    for (uint32_t m = 0; m < op->matrix_count; m++)
        rows[m] = op->matrix[m]->rows;
    ESP_ASSERT(kern_lora_fits(op, rows, op->matrix[0]->cols));
}

/* As many tokens at a time as a plan has. */
static void run_updated(kern_device *dev, const kern_linear *op) {
    check_updates(op);
    for (uint32_t base = 0, count; base < op->token_count; base += count) {
        count = least(op->token_count - base, LORA_TOKENS);
        kern_linear part = part_of_linear(op, base, count);
        cpu_lora_plan_op(dev, op, base, count);
        part.lora_count = dev->lora->count; /* 0: the base alone */
        if (count == op->token_count) cpu_lora_plan_next(dev, op);
        run_linear(dev, &part);
    }
}

static void cpu_linear(kern_device *dev, const kern_linear *op) {
    ESP_ASSERT(op->matrix_count >= 1 && op->matrix_count <= LINEAR_MATRICES_MAX);
    for (uint32_t m = 1; m < op->matrix_count; m++)
        ESP_ASSERT(op->matrix[m]->cols == op->matrix[0]->cols);
    ESP_ASSERT(op->token_count <= dev->tokens_max); /* dev->inputs has room for as many */
    if (kern_is_gated(op->epilogue))
        ESP_ASSERT(op->matrix_count == 2 && op->matrix[0]->rows == op->matrix[1]->rows);
    if (op->token_count == 0) return;
    if (op->lora_count) {
        run_updated(dev, op);
        return;
    }
    dev->lora_next->count = 0; /* what it was of may change now */
    run_linear(dev, op);
}

static void cpu_rope_store(kern_device *dev, const kern_rope_store *op) {
    const kern_kv_shape *shape = op->kv.shape;
    ESP_ASSERT(shape->head_dim <= CPU_HEAD_DIM_MAX);
    ESP_ASSERT(op->rotary % 2 == 0 && op->rotary <= shape->head_dim);
    ESP_ASSERT(!op->q_norm == !op->k_norm);
    ESP_ASSERT(op->kv.layer < shape->layers && op->kv.group < op->batch->group_count);
    dev->level->rope_store(dev, op);
}

static void cpu_attention(kern_device *dev, const kern_attention *op) {
    const kern_kv_shape *shape = op->kv.shape;
    ESP_ASSERT(shape->head_dim <= CPU_HEAD_DIM_MAX && shape->head_dim % 2 == 0);
    ESP_ASSERT(op->heads % shape->kv_heads == 0);
    ESP_ASSERT(!(op->bidirectional && op->window));
    for (uint32_t s = 0; op->bidirectional && s < op->batch->seq_count; s++)
        ESP_ASSERT(op->batch->seq_cached[s] == 0);
    ESP_ASSERT(op->kv.layer < shape->layers && op->kv.group < op->batch->group_count);
    dev->level->attention(dev, op);
}

/* Logits are in the host's memory. */
static bool cpu_sample(kern_device *dev, const kern_sample *op) {
    (void)dev, (void)op;
    return false;
}

static bool cpu_sampled(kern_device *dev, const kern_sample *op) {
    (void)dev, (void)op;
    return false;
}

static esp_code cpu_check_layers(const kern_device *dev, const kern_kv_shape *shape,
                                 esp_error *err) {
    (void)dev;
    uint32_t dim = shape->head_dim;
    if (dim > 0 && dim <= CPU_HEAD_DIM_MAX && dim % 2 == 0) return ESP_OK;
    return esp_fail_field(err, ESP_INVALID, "--device",
                          "cpu: the model's heads have %u dims; the CPU backend wants an even "
                          "number of at most %d: use --device ref",
                          dim, CPU_HEAD_DIM_MAX);
}

static esp_code cpu_sync(kern_device *dev, esp_error *err) {
    (void)dev, (void)err;
    return ESP_OK;
}

const kern_ops kern_cpu = {
    .name = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .profile = cpu_profile,
    .layout = cpu_layout,
    .element_bytes = cpu_element_bytes,
    .alloc = cpu_alloc,
    .release = cpu_release,
    .upload = cpu_copy,
    .download = cpu_copy,
    .view = cpu_view,
    .host_take = kern_host_take,
    .host_give = kern_host_give,
    .upload_beside = cpu_copy,
    .memory = kern_host_memory,
    .reserve = cpu_reserve,
    .check_layers = cpu_check_layers,
    .pack = cpu_pack,
    .shape = cpu_shape,
    .image = cpu_image,
    .open_image = cpu_open_image,
    .matrix_close = cpu_matrix_close,
    .matrix_bytes = cpu_matrix_bytes,
    .lora_pieces = cpu_lora_pieces,
    .lora_pack = cpu_lora_pack,
    .frame_bytes = cpu_frame_bytes,
    .step_begin = cpu_step_begin,
    .step_end = cpu_step_end,
    .embed = cpu_embed,
    .norm = cpu_norm,
    .linear = cpu_linear,
    .rope_store = cpu_rope_store,
    .attention = cpu_attention,
    .pool_states = cpu_pool_states,
    .sample = cpu_sample,
    .sampled = cpu_sampled,
    .rank_sum = cpu_rank_sum,
    .place_columns = cpu_place_columns,
    .move_frames = kern_host_move_frames,
    .sync = cpu_sync,
};
