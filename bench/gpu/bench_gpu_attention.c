/* bench_gpu_attention.c - attention alone, over pages of bf16 and of int8, of layers that see everything: decode should
 * take as long as reading the keys and values. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>

#include "bench/gpu/bench_gpu.h"
#include "bench/gpu/gpu_batch.h"
#include "kernels/op_cost.h"

enum { LAYERS = 4 }; /* together far more than the L2 holds */

typedef struct attention_case {
    const synthetic_shape *shape;
    step_batch batch;
    kern_kv_shape kv_shape;
    kern_attention op;
    uint32_t layers;
    bool int8; /* pages */
} attention_case;

static void attention_work(const gpu_lab *lab, void *arg) {
    attention_case *c = arg;
    for (c->op.kv.layer = 0; c->op.kv.layer < c->layers; c->op.kv.layer++)
        kern_cuda.attention(lab->dev, &c->op);
}

typedef struct attention_size {
    uint32_t seqs, cached, tokens;
} attention_size;

static void reserve(const gpu_lab *lab, const attention_case *c) {
    const step_batch *b = &c->batch;
    esp_error err = {0};
    kern_reserve most = {.tokens = b->token_count,
                         .seqs = b->seq_count,
                         .rows = b->row_count,
                         .groups = 1,
                         .table_stride = b->table_stride,
                         .heads = c->shape->heads,
                         .kv_heads = c->shape->kv_heads,
                         .head_dim = c->shape->head_dim};
    gpu_expect(kern_cuda.reserve(lab->dev, &most, &err), &err);
}

/* Seconds of one layer. */
static double time_case(const gpu_lab *lab, attention_case *c) {
    const synthetic_shape *s = c->shape;
    size_t qkv_bytes =
        (size_t)c->batch.token_count * (s->heads + 2 * s->kv_heads) * s->head_dim * sizeof(float);
    size_t out_bytes = (size_t)c->batch.token_count * s->heads * s->head_dim * sizeof(uint16_t);
    size_t frame_bytes = kern_cuda.frame_bytes(lab->dev, &c->kv_shape);
    size_t arena_bytes = gpu_batch_frames(&c->batch) * frame_bytes;
    c->op.qkv = gpu_alloc_filled(lab, qkv_bytes);
    c->op.out = gpu_alloc(lab, out_bytes);
    c->op.kv = (kern_kv_layer){.arena = gpu_alloc_filled(lab, arena_bytes),
                               .frame_bytes = frame_bytes,
                               .shape = &c->kv_shape};
    reserve(lab, c);
    kern_step step = {.batch = &c->batch, .repeats = true};
    double seconds = gpu_step_seconds(lab, &step, attention_work, c) / c->layers;
    gpu_free(lab, (void *)c->op.qkv, qkv_bytes);
    gpu_free(lab, c->op.out, out_bytes);
    gpu_free(lab, c->op.kv.arena, arena_bytes);
    return seconds;
}

static void print_row(const gpu_lab *lab, const attention_case *c, const attention_size *size,
                      double seconds) {
    const synthetic_shape *s = c->shape;
    bool prefill = size->tokens > 1;
    double keys = size->cached + size->tokens;
    double row = c->int8 ? s->head_dim + sizeof(float) : s->head_dim * sizeof(uint16_t);
    double bytes = 2 * keys * s->kv_heads * row * size->seqs;
    double flops = 4 * op_cost_seen(size->cached, size->tokens, 0) * s->heads * s->head_dim;
    char of[96];
    snprintf(of, sizeof of, "%s %u x %.0f", s->name, size->seqs, keys);
    gpu_print(&(gpu_row){.bench = "attention",
                         .of = of,
                         .format = c->int8 ? "int8" : "bf16",
                         .tokens = size->seqs * size->tokens,
                         .us = seconds * 1e6,
                         .value = prefill ? flops * size->seqs / seconds / lab->mma_flop_per_s
                                          : bytes / seconds / lab->copy_bytes_per_s,
                         .unit = prefill ? "of the mma rate" : "of copy bandwidth",
                         .bar = prefill || c->int8 ? 0 : 0.85});
}

/* A device of its own: it remembers the step. */
static void measure(const gpu_lab *of, const synthetic_shape *shape, const attention_size *size,
                    bool int8) {
    model_spec spec;
    esp_error err = {0};
    gpu_lab lab = gpu_lab_open_kv(int8 ? DT_KV_INT8 : DT_BF16, of->index, size->seqs * size->tokens,
                                  of->smoke);
    lab.copy_bytes_per_s = of->copy_bytes_per_s;
    lab.mma_flop_per_s = of->mma_flop_per_s;
    attention_case c = {.shape = shape,
                        .batch = gpu_batch_of(size->seqs, size->cached, size->tokens),
                        .layers = lab.smoke ? 1 : LAYERS,
                        .int8 = int8};
    c.kv_shape = (kern_kv_shape){c.layers, shape->kv_heads, shape->head_dim};
    gpu_expect(synthetic_spec(shape, &spec, &err), &err);
    c.op = (kern_attention){.batch = &c.batch,
                            .heads = shape->heads,
                            .scale = spec.attention_scale,
                            .softcap = spec.attention_softcap};
    print_row(&lab, &c, size, time_case(&lab, &c));
    gpu_batch_free(&c.batch);
    gpu_lab_close(&lab);
}

void bench_gpu_attention(gpu_lab *lab) {
    static const attention_size sizes[] = {
        {1, 8191, 1}, {4, 8191, 1}, {16, 8191, 1}, {1, 0, 2048}, {1, 6144, 2048}};
    static const attention_size small[] = {{2, 300, 1}, {1, 16, 20}};
    const attention_size *list = lab->smoke ? small : sizes;
    size_t count = lab->smoke ? sizeof small / sizeof *small : sizeof sizes / sizeof *sizes;
    for (uint32_t i = 0; bench_gpu_shape(lab, i); i++)
        for (size_t n = 0; n < 2 * count; n++)
            measure(lab, bench_gpu_shape(lab, i), &list[n / 2], n % 2);
}
