/* bench_gpu_lora.c - what adapters cost: a decode step's linears over 32 sequences, each with an adapter of its own
 * of rank 16 on all of them; beside the same step with none in it; beside a device that knows of none. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>

#include "bench/gpu/bench_gpu.h"
#include "bench/gpu/gpu_batch.h"
#include "bench/gpu/gpu_linears.h"
#include "engine/base/mem.h"

enum { SEQS = 32, RANK = 16, LAYERS = 4, PIECE_BYTES = 1 << 26 };

/* One adapter's update of one linear, on the device. */
typedef struct update {
    kern_lora lora;
    void *pieces[1];
    size_t bytes;
} update;

typedef struct lora_case {
    gpu_linears linears;
    update *updates; /* [parts][SEQS] */
    kern_lora_segment segments[GPU_LINEAR_PARTS][SEQS];
    bool with;
} lora_case;

static float *some_floats(size_t count) {
    float *values = mem_new(count, sizeof *values);
    for (size_t i = 0; i < count; i++)
        values[i] = (float)(i % 31) * 0.001f - 0.015f;
    return values;
}

static void make_update(const gpu_lab *lab, const gpu_linear_part *p, update *u) {
    kern_lora_desc desc = {.cols = p->cols, .part_count = p->matrices};
    float *a = some_floats((size_t)RANK * p->cols);
    float *b = some_floats((size_t)RANK * gpu_linear_rows(p));
    for (uint32_t i = 0; i < p->matrices; i++)
        desc.part[i] =
            (kern_lora_part){.rank = RANK, .rows = p->rows[i], .scale = 1, .a = a, .b = b};
    uint32_t pieces = kern_cuda.lora_pieces(lab->dev, &desc, PIECE_BYTES, NULL);
    if (pieces != 1) gpu_die("an adapter's update", "it takes more than one piece");
    (void)kern_cuda.lora_pieces(lab->dev, &desc, PIECE_BYTES, &u->bytes);
    void *host = aligned_alloc(64, (u->bytes + 63) / 64 * 64);
    if (!host) gpu_die("an adapter's update", "no memory");
    kern_cuda.lora_pack(lab->dev, &desc, PIECE_BYTES, &host);
    u->pieces[0] = gpu_alloc(lab, u->bytes);
    kern_cuda.upload(lab->dev, u->pieces[0], host, u->bytes);
    u->lora = kern_lora_of(&desc, PIECE_BYTES, u->pieces);
    free(host);
    free(a);
    free(b);
}

static void make_updates(const gpu_lab *lab, lora_case *c) {
    c->updates = mem_new((size_t)GPU_LINEAR_PARTS * SEQS, sizeof *c->updates);
    for (uint32_t p = 0; p < GPU_LINEAR_PARTS; p++)
        for (uint32_t s = 0; s < SEQS; s++) {
            update *u = &c->updates[p * SEQS + s];
            make_update(lab, &c->linears.part[p], u);
            c->segments[p][s] = (kern_lora_segment){.first = s, .count = 1, .lora = &u->lora};
        }
}

static void drop_updates(const gpu_lab *lab, lora_case *c) {
    for (uint32_t i = 0; c->updates && i < GPU_LINEAR_PARTS * SEQS; i++)
        gpu_free(lab, c->updates[i].pieces[0], c->updates[i].bytes);
    free(c->updates);
}

static void step_work(const gpu_lab *lab, void *arg) {
    lora_case *c = arg;
    for (uint32_t copy = 0; copy < c->linears.copies; copy++)
        for (uint32_t p = 0; p < GPU_LINEAR_PARTS; p++) {
            kern_linear op = c->linears.op[p][copy];
            if (c->with) op.lora = c->segments[p], op.lora_count = SEQS;
            kern_cuda.linear(lab->dev, &op);
        }
}

typedef enum company { NO_SUPPORT, NONE_IN_STEP, ALL } company;

/* Seconds of a layer's linears, on a device of its own: it remembers steps. */
static double measure(const gpu_lab *of, const synthetic_shape *shape, company who) {
    gpu_lab lab = gpu_lab_open(of->index, SEQS, of->smoke);
    lora_case c = {.with = who == ALL};
    step_batch batch = gpu_batch_of(SEQS, 15, 1);
    kern_reserve most = {.tokens = SEQS,
                         .seqs = SEQS,
                         .rows = SEQS,
                         .groups = 1,
                         .table_stride = batch.table_stride,
                         .heads = shape->heads,
                         .kv_heads = shape->kv_heads,
                         .head_dim = shape->head_dim};
    esp_error err = {0};
    gpu_linears_make(&lab, shape, DT_BF16, SEQS, lab.smoke ? 1 : LAYERS, &c.linears);
    if (who != NO_SUPPORT) {
        most.lora_outputs = (uint64_t)SEQS * 2 * shape->intermediate;
        most.lora_cols = shape->intermediate;
        make_updates(&lab, &c);
    }
    gpu_expect(kern_cuda.reserve(lab.dev, &most, &err), &err);
    kern_step step = {.batch = &batch, .adapters = who == ALL, .repeats = true};
    double seconds = gpu_step_seconds(&lab, &step, step_work, &c) / c.linears.copies;
    drop_updates(&lab, &c);
    gpu_linears_drop(&lab, &c.linears);
    gpu_batch_free(&batch);
    gpu_lab_close(&lab);
    return seconds;
}

static void print_row(const synthetic_shape *shape, const char *what, double seconds, double base,
                      double bar) {
    char of[96];
    snprintf(of, sizeof of, "%s layer, %s", shape->name, what);
    gpu_print(&(gpu_row){.bench = "lora",
                         .of = of,
                         .format = "bf16",
                         .tokens = SEQS,
                         .us = seconds * 1e6,
                         .value = seconds / base - 1,
                         .unit = "over the base",
                         .bar = bar,
                         .at_most = true});
}

void bench_gpu_lora(gpu_lab *lab) {
    for (uint32_t i = 0; bench_gpu_shape(lab, i); i++) {
        const synthetic_shape *shape = bench_gpu_shape(lab, i);
        double base = measure(lab, shape, NO_SUPPORT);
        print_row(shape, "no adapter in the step", measure(lab, shape, NONE_IN_STEP), base, 0.01);
        print_row(shape, "32 adapters of rank 16", measure(lab, shape, ALL), base, 0.10);
    }
}
