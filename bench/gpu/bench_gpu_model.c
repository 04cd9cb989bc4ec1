/* bench_gpu_model.c - whole models of published shapes: a decode step as the engine calls it, beside the time that
 * reading its weights takes at copy bandwidth; and how long a step keeps the host busy. Gemma is computed as Gemma:
 * caps, windows, gates and norms are as the shape's config says. Norms' weights and the tables of angles are one
 * for all layers: they are no traffic to speak of. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>

#include "bench/gpu/bench_gpu.h"
#include "bench/gpu/gpu_batch.h"
#include "bench/gpu/gpu_matrix.h"
#include "engine/base/mem.h"

enum { CONTEXT = 512, SEQS_MAX = 16, CONTEXT_SMOKE = 40 };
static const double HOST_US_MAX = 200;

typedef struct layer {
    kern_matrix *qkv[3], *o[1], *gate_up[2], *down[1];
} layer;

typedef struct model {
    const synthetic_shape *shape;
    model_spec spec;
    bool post_norms; /* behind what attention and the MLP add */
    layer *layers;
    kern_matrix *head;
    double bytes; /* of weights that a step reads */
    step_batch batch;
    kern_kv_shape kv_shape;
    kern_kv_layer kv;
    size_t arena_bytes, wide_bytes;
    void *stream, *branch, *act, *wide, *inner, *weight, *angles, *logits;
} model;

/* ---- weights ---- */

/* The same bytes for all layers, each in memory of its own. */
static void put_matrices(const gpu_lab *lab, model *m, size_t field, uint32_t index,
                         esp_dtype dtype, uint32_t rows, uint32_t cols) {
    gpu_matrix source = gpu_matrix_make(lab, dtype, rows, cols, index + rows);
    for (uint32_t l = 0; l < m->shape->layers; l++) {
        kern_matrix **at = (kern_matrix **)(void *)((char *)&m->layers[l] + field);
        at[index] = gpu_matrix_again(lab, &source);
        m->bytes += (double)gpu_matrix_bytes(&source);
    }
    gpu_matrix_free(&source);
}

static void make_weights(const gpu_lab *lab, model *m, esp_dtype dtype) {
    const synthetic_shape *s = m->shape;
    uint32_t q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim;
    m->layers = mem_new(s->layers, sizeof *m->layers);
    put_matrices(lab, m, offsetof(layer, qkv), 0, dtype, q, s->hidden);
    put_matrices(lab, m, offsetof(layer, qkv), 1, dtype, kv, s->hidden);
    put_matrices(lab, m, offsetof(layer, qkv), 2, dtype, kv, s->hidden);
    put_matrices(lab, m, offsetof(layer, o), 0, dtype, s->hidden, q);
    put_matrices(lab, m, offsetof(layer, gate_up), 0, dtype, s->intermediate, s->hidden);
    put_matrices(lab, m, offsetof(layer, gate_up), 1, dtype, s->intermediate, s->hidden);
    put_matrices(lab, m, offsetof(layer, down), 0, dtype, s->hidden, s->intermediate);
    gpu_matrix head = gpu_matrix_make(lab, dtype, s->vocab, s->hidden, 1);
    m->head = gpu_matrix_again(lab, &head);
    m->bytes += (double)gpu_matrix_bytes(&head);
    gpu_matrix_free(&head);
}

static void drop_weights(const gpu_lab *lab, model *m) {
    for (uint32_t l = 0; l < m->shape->layers; l++) {
        kern_matrix **at = (kern_matrix **)&m->layers[l];
        for (size_t i = 0; i < sizeof(layer) / sizeof *at; i++)
            kern_cuda.matrix_close(lab->dev, at[i]);
    }
    kern_cuda.matrix_close(lab->dev, m->head);
    free(m->layers);
}

/* ---- a step, as engine/model/forward.c has it ---- */

static void norm(const gpu_lab *lab, const model *m, const uint32_t *rows, uint32_t count) {
    kern_norm op = {.in = m->stream,
                    .rows = rows,
                    .count = count,
                    .width = m->shape->hidden,
                    .weight = m->weight,
                    .eps = m->spec.norm_eps,
                    .out = m->act};
    kern_cuda.norm(lab->dev, &op);
}

static void linear(const gpu_lab *lab, const model *m, kern_matrix *const *matrices, uint32_t count,
                   kern_epilogue epilogue, const void *in, void *out) {
    kern_linear op = {.in = in,
                      .token_count = m->batch.token_count,
                      .matrix_count = count,
                      .epilogue = epilogue,
                      .softcap = m->spec.logit_softcap,
                      .out = out};
    for (uint32_t i = 0; i < count; i++)
        op.matrix[i] = matrices[i];
    kern_cuda.linear(lab->dev, &op);
}

/* stream += matrix . in, or the norm of that. */
static void add_branch(const gpu_lab *lab, const model *m, kern_matrix *const *matrix,
                       const void *in) {
    kern_norm behind = {.in = m->branch,
                        .count = m->batch.token_count,
                        .width = m->shape->hidden,
                        .weight = m->weight,
                        .eps = m->spec.norm_eps,
                        .residual = true,
                        .out = m->stream};
    linear(lab, m, matrix, 1, m->post_norms ? EPI_STORE : EPI_RESIDUAL, in,
           m->post_norms ? m->branch : m->stream);
    if (m->post_norms) kern_cuda.norm(lab->dev, &behind);
}

/* All layers' pages are of one group: tables of windows would name fewer frames and cost the same. */
static void attend(const gpu_lab *lab, const model *m, uint32_t l) {
    const model_spec *s = &m->spec;
    kern_rope_store rope = {.batch = &m->batch,
                            .qkv = m->wide,
                            .heads = s->heads,
                            .rotary = s->rotary,
                            .cos_sin = m->angles,
                            .kv = m->kv};
    kern_attention attention = {.batch = &m->batch,
                                .qkv = m->wide,
                                .heads = s->heads,
                                .scale = s->attention_scale,
                                .softcap = s->attention_softcap,
                                .window = s->slides[l] ? s->window : 0,
                                .kv = m->kv,
                                .out = m->act};
    rope.kv.layer = attention.kv.layer = l;
    kern_cuda.rope_store(lab->dev, &rope);
    kern_cuda.attention(lab->dev, &attention);
}

static void step_work(const gpu_lab *lab, void *arg) {
    const model *m = arg;
    const step_batch *b = &m->batch;
    bool gelu = m->spec.activation == ACTIVATION_GELU_TANH;
    kern_embed embed = {.table = m->head,
                        .ids = b->ids,
                        .token_count = b->token_count,
                        .scale = m->spec.embedding_scale,
                        .out = m->stream};
    kern_cuda.embed(lab->dev, &embed);
    for (uint32_t l = 0; l < m->shape->layers; l++) {
        const layer *w = &m->layers[l];
        norm(lab, m, NULL, b->token_count);
        linear(lab, m, w->qkv, 3, EPI_STORE, m->act, m->wide);
        attend(lab, m, l);
        add_branch(lab, m, w->o, m->act);
        norm(lab, m, NULL, b->token_count);
        linear(lab, m, w->gate_up, 2, gelu ? EPI_GELU_MUL : EPI_SILU_MUL, m->act, m->inner);
        add_branch(lab, m, w->down, m->inner);
    }
    norm(lab, m, b->rows, b->row_count);
    linear(lab, m, &m->head, 1, m->spec.logit_softcap > 0 ? EPI_SOFTCAP : EPI_STORE, m->act,
           m->logits);
}

/* ---- memory ---- */

static size_t bytes_of(const model *m, uint32_t width) {
    return (size_t)m->batch.token_count * width * sizeof(float);
}

static uint32_t widest(const synthetic_shape *s) {
    uint32_t qkv = (s->heads + 2 * s->kv_heads) * s->head_dim;
    return qkv > s->intermediate ? qkv : s->intermediate;
}

static size_t angle_bytes(const model *m) {
    return (size_t)m->batch.table_stride * KV_PAGE_TOKENS * m->shape->head_dim * sizeof(float);
}

static void take_memory(const gpu_lab *lab, model *m) {
    const synthetic_shape *s = m->shape;
    m->kv_shape = (kern_kv_shape){s->layers, s->kv_heads, s->head_dim};
    m->kv = (kern_kv_layer){.shape = &m->kv_shape,
                            .frame_bytes = kern_cuda.frame_bytes(lab->dev, &m->kv_shape)};
    m->arena_bytes = gpu_batch_frames(&m->batch) * m->kv.frame_bytes;
    m->kv.arena = gpu_alloc_filled(lab, m->arena_bytes);
    m->wide_bytes = bytes_of(m, widest(s));
    m->stream = gpu_alloc(lab, bytes_of(m, s->hidden));
    m->branch = gpu_alloc(lab, bytes_of(m, s->hidden));
    m->act = gpu_alloc(lab, m->wide_bytes);
    m->wide = gpu_alloc(lab, m->wide_bytes);
    m->inner = gpu_alloc(lab, m->wide_bytes);
    m->logits = gpu_alloc(lab, bytes_of(m, s->vocab));
    m->weight = gpu_alloc_filled(lab, s->hidden * sizeof(float));
    m->angles = gpu_alloc_filled(lab, angle_bytes(m));
    esp_error err = {0};
    kern_reserve most = {.tokens = m->batch.token_count,
                         .seqs = m->batch.seq_count,
                         .rows = m->batch.row_count,
                         .groups = 1,
                         .table_stride = m->batch.table_stride,
                         .heads = s->heads,
                         .kv_heads = s->kv_heads,
                         .head_dim = s->head_dim};
    gpu_expect(kern_cuda.reserve(lab->dev, &most, &err), &err);
}

static void give_memory(const gpu_lab *lab, model *m) {
    gpu_free(lab, m->kv.arena, m->arena_bytes);
    gpu_free(lab, m->stream, bytes_of(m, m->shape->hidden));
    gpu_free(lab, m->branch, bytes_of(m, m->shape->hidden));
    gpu_free(lab, m->act, m->wide_bytes);
    gpu_free(lab, m->wide, m->wide_bytes);
    gpu_free(lab, m->inner, m->wide_bytes);
    gpu_free(lab, m->logits, bytes_of(m, m->shape->vocab));
    gpu_free(lab, m->weight, m->shape->hidden * sizeof(float));
    gpu_free(lab, m->angles, angle_bytes(m));
}

/* ---- rows ---- */

static void print_rows(const gpu_lab *lab, const model *m, esp_dtype dtype, double seconds,
                       double host_us) {
    uint32_t seqs = m->batch.seq_count;
    char of[96];
    snprintf(of, sizeof of, "%s decode step", m->shape->name);
    gpu_print(&(gpu_row){.bench = "model",
                         .of = of,
                         .format = dtype_info(dtype)->name,
                         .tokens = seqs,
                         .us = seconds * 1e6,
                         .value = m->bytes / seconds / lab->copy_bytes_per_s,
                         .unit = "of copy bandwidth",
                         .bar = dtype != DT_BF16 ? 0.80
                                : seqs == 1      ? 0.85
                                                 : 0});
    snprintf(of, sizeof of, "%s host", m->shape->name);
    gpu_print(&(gpu_row){.bench = "model",
                         .of = of,
                         .format = dtype_info(dtype)->name,
                         .tokens = seqs,
                         .us = host_us,
                         .value = host_us,
                         .unit = "us of the host a step",
                         .bar = HOST_US_MAX,
                         .at_most = true});
}

static void read_spec(model *m) {
    esp_error err = {0};
    gpu_expect(synthetic_spec(m->shape, &m->spec, &err), &err);
    m->post_norms = m->shape->family->config_tensor_names[TENSOR_ATTN_POST_NORM] != NULL;
}

/* A device of its own: it remembers the step. */
static void measure(const gpu_lab *of, const synthetic_shape *shape, esp_dtype dtype,
                    uint32_t seqs) {
    gpu_lab lab = gpu_lab_open(of->index, seqs, of->smoke);
    lab.copy_bytes_per_s = of->copy_bytes_per_s;
    model m = {.shape = shape,
               .batch = gpu_batch_of(seqs, (lab.smoke ? CONTEXT_SMOKE : CONTEXT) - 1, 1)};
    read_spec(&m);
    make_weights(&lab, &m, dtype);
    take_memory(&lab, &m);
    kern_step step = {.batch = &m.batch, .repeats = true};
    double seconds = gpu_step_seconds(&lab, &step, step_work, &m);
    print_rows(&lab, &m, dtype, seconds, gpu_step_host_us(&lab, &step, step_work, &m));
    give_memory(&lab, &m);
    drop_weights(&lab, &m);
    gpu_batch_free(&m.batch);
    gpu_lab_close(&lab);
}

void bench_gpu_model(gpu_lab *lab) {
    for (uint32_t i = 0; bench_gpu_shape(lab, i); i++) {
        measure(lab, bench_gpu_shape(lab, i), DT_BF16, 1);
        measure(lab, bench_gpu_shape(lab, i), DT_Q4_K, 1);
        if (!lab->smoke) measure(lab, bench_gpu_shape(lab, i), DT_BF16, SEQS_MAX);
        if (!lab->smoke) measure(lab, bench_gpu_shape(lab, i), DT_Q4_K, SEQS_MAX);
    }
}
