/* gpu_linears.c - the linears of a layer with random weights. */
// SPDX-License-Identifier: Apache-2.0
#include "bench/gpu/gpu_linears.h"

enum { L2_FILLED = 5 };

uint32_t gpu_linear_rows(const gpu_linear_part *part) {
    uint32_t rows = 0;
    for (uint32_t i = 0; i < part->matrices; i++)
        rows += part->rows[i];
    return rows;
}

static kern_epilogue gate_of(const synthetic_shape *s) {
    model_spec spec;
    esp_error err = {0};
    gpu_expect(synthetic_spec(s, &spec, &err), &err);
    return spec.activation == ACTIVATION_GELU_TANH ? EPI_GELU_MUL : EPI_SILU_MUL;
}

static void name_parts(const synthetic_shape *s, gpu_linear_part out[GPU_LINEAR_PARTS]) {
    uint32_t q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim, inner = s->intermediate;
    out[0] = (gpu_linear_part){"qkv", {q, kv, kv}, 3, s->hidden, EPI_STORE, ROLE_QKV};
    out[1] = (gpu_linear_part){"o", {s->hidden}, 1, q, EPI_RESIDUAL, ROLE_ATTENTION_OUT};
    out[2] = (gpu_linear_part){"gate_up", {inner, inner}, 2, s->hidden, gate_of(s), ROLE_GATE_UP};
    out[3] = (gpu_linear_part){"down", {s->hidden}, 1, inner, EPI_RESIDUAL, ROLE_DOWN};
}

static void take_memory(const gpu_lab *lab, uint32_t tokens_max, gpu_linears *l) {
    for (uint32_t p = 0; p < GPU_LINEAR_PARTS; p++) {
        size_t in = (size_t)tokens_max * l->part[p].cols * sizeof(uint16_t);
        size_t out = (size_t)tokens_max * gpu_linear_rows(&l->part[p]) * sizeof(float);
        if (in > l->in_bytes) l->in_bytes = in;
        if (out > l->out_bytes) l->out_bytes = out;
    }
    l->in = gpu_alloc_filled(lab, l->in_bytes);
    l->out = gpu_alloc(lab, l->out_bytes);
}

static uint32_t copies_of(const gpu_lab *lab, const gpu_linears *l) {
    double least = l->bytes[0];
    for (uint32_t p = 1; p < GPU_LINEAR_PARTS; p++)
        if (l->bytes[p] < least) least = l->bytes[p];
    double wanted = L2_FILLED * (double)lab->l2_bytes / least + 1;
    return wanted < GPU_LINEAR_COPIES_MAX ? (uint32_t)wanted : GPU_LINEAR_COPIES_MAX;
}

static void put_matrices(const gpu_lab *lab, gpu_linears *l, uint32_t p, uint32_t i,
                         const gpu_matrix *source) {
    for (uint32_t copy = 0; copy < l->copies; copy++)
        l->op[p][copy].matrix[i] = gpu_matrix_again(lab, source);
}

void gpu_linears_make(const gpu_lab *lab, const synthetic_shape *shape, esp_dtype dtype,
                      uint32_t tokens_max, uint32_t copies, gpu_linears *l) {
    gpu_matrix source[GPU_LINEAR_PARTS][LINEAR_MATRICES_MAX];
    *l = (gpu_linears){.copies = copies};
    name_parts(shape, l->part);
    take_memory(lab, tokens_max, l);
    for (uint32_t p = 0; p < GPU_LINEAR_PARTS; p++)
        for (uint32_t i = 0; i < l->part[p].matrices; i++) {
            const gpu_linear_part *part = &l->part[p];
            source[p][i] = gpu_matrix_make(lab, dtype, part->rows[i], part->cols, p * 8 + i);
            l->bytes[p] += (double)gpu_matrix_bytes(&source[p][i]);
        }
    if (!copies) l->copies = copies_of(lab, l);
    for (uint32_t p = 0; p < GPU_LINEAR_PARTS; p++) {
        for (uint32_t copy = 0; copy < l->copies; copy++)
            l->op[p][copy] = (kern_linear){.in = l->in,
                                           .out = l->out,
                                           .token_count = tokens_max,
                                           .matrix_count = l->part[p].matrices,
                                           .epilogue = l->part[p].epilogue,
                                           .role = l->part[p].role};
        for (uint32_t i = 0; i < l->part[p].matrices; i++) {
            put_matrices(lab, l, p, i, &source[p][i]);
            gpu_matrix_free(&source[p][i]);
        }
    }
}

void gpu_linears_tokens(gpu_linears *l, uint32_t tokens) {
    for (uint32_t p = 0; p < GPU_LINEAR_PARTS; p++)
        for (uint32_t copy = 0; copy < l->copies; copy++)
            l->op[p][copy].token_count = tokens;
}

void gpu_linears_drop(const gpu_lab *lab, gpu_linears *l) {
    for (uint32_t p = 0; p < GPU_LINEAR_PARTS; p++)
        for (uint32_t copy = 0; copy < l->copies; copy++)
            for (uint32_t i = 0; i < l->part[p].matrices; i++)
                kern_cuda.matrix_close(lab->dev, (kern_matrix *)l->op[p][copy].matrix[i]);
    gpu_free(lab, l->in, l->in_bytes);
    gpu_free(lab, l->out, l->out_bytes);
}
