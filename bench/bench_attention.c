/* bench_attention.c - rope_store and attention of one model shape; one JSON row each.
 *
 *   bench_attention [ref|avx2|avx512|amx] [THREADS]
 *
 * The shape is SmolLM2-135M: 30 layers of 9 heads over 3 kv heads of 64. us: of one step through
 * all layers, the best of each over many passes; gb_per_s: pages read once per sequence; gflop_per_s:
 * four a key, head, dim and query. Before each op other memory goes through the workers' caches, as the
 * weights of a layer do. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/clock.h"
#include "tests/unit/kernel_lab.h"

enum { HEADS = 9, KV_HEADS = 3, DIM = 64, LAYERS = 30, SEQS_MAX = 16, CONTEXT_MAX = 2048 };
enum { OTHER_BYTES = 96 << 20, LAYER_BYTES = 2 << 20 }; /* of a worker */
static const int64_t MEASURE_NS = 400000000;

typedef struct step {
    const char *name;
    uint32_t seqs, cached, tokens; /* tokens: of each sequence */
} step;

static const step steps[] = {
    {"decode", 1, 127, 1},  {"decode", 1, 511, 1},  {"decode", 1, 2047, 1},
    {"decode", 16, 127, 1}, {"decode", 16, 191, 1}, {"decode", 16, 511, 1},
    {"prefill", 1, 0, 128}, {"prefill", 1, 0, 512}, {"prefill", 1, 1536, 512},
};

static void fill(float *qkv, size_t count) {
    for (size_t i = 0; i < count; i++)
        qkv[i] = lab_value(11, i);
}

/* Keys and values of all positions before the measured step. */
static void fill_pages(const lab *l, kern_rope_store *rope, uint32_t seqs, uint32_t cached) {
    const uint32_t zero[SEQS_MAX] = {0};
    uint32_t tokens[SEQS_MAX];
    for (uint32_t s = 0; s < seqs; s++)
        tokens[s] = cached;
    lab_batch batch = lab_batch_of(seqs, zero, tokens, 1, CONTEXT_MAX / KV_PAGE_TOKENS);
    rope->batch = &batch.b;
    if (cached > 0)
        for (rope->kv.layer = 0; rope->kv.layer < LAYERS; rope->kv.layer++)
            l->ops->rope_store(l->dev, rope);
    lab_batch_free(&batch);
}

typedef struct other_memory {
    char *bytes;
    size_t at;
} other_memory;

static void read_other(void *arg, uint32_t worker, uint32_t workers) {
    const other_memory *other = arg;
    const volatile char *from = other->bytes + other->at + (size_t)worker * LAYER_BYTES;
    (void)workers;
    for (size_t i = 0; i < LAYER_BYTES; i += 64)
        (void)from[i];
}

/* The workers are awake then, too, as in a step. */
static void pass_weights(const lab *l, other_memory *other) {
    size_t bytes = (size_t)LAYER_BYTES * pool_threads(l->pool);
    if (other->at + bytes > OTHER_BYTES) other->at = 0;
    pool_run(l->pool, read_other, other);
    other->at += bytes;
}

static double flops(const step *s) {
    double keys = 0;
    for (uint32_t i = 0; i < s->tokens; i++)
        keys += s->cached + i + 1;
    return 4.0 * keys * s->seqs * HEADS * DIM * LAYERS;
}

static void print_row(const lab *l, const step *s, const char *op, double us, double gb,
                      double gflop) {
    printf(
        "{\"bench\":\"attention\",\"device\":\"%s\",\"threads\":%u,\"op\":\"%s\",\"step\":\"%s\","
        "\"sequences\":%u,\"cached\":%u,\"tokens\":%u,\"us\":%.1f,\"gb_per_s\":%.1f,"
        "\"gflop_per_s\":%.1f}\n",
        l->ops->profile(l->dev), pool_threads(l->pool), op, s->name, s->seqs, s->cached, s->tokens,
        us, gb / us / 1e3, gflop / us / 1e3);
    fflush(stdout);
}

/* One of the two ops. */
static double us_of(const lab *l, const kern_rope_store *rope, const kern_attention *attention,
                    other_memory *other) {
    pass_weights(l, other);
    int64_t begin = clock_now_ns();
    if (rope)
        l->ops->rope_store(l->dev, rope);
    else
        l->ops->attention(l->dev, attention);
    return (double)(clock_now_ns() - begin) / 1e3;
}

static void run(const lab *l, const step *s, kern_rope_store *rope, kern_attention *attention,
                other_memory *other) {
    fill_pages(l, rope, s->seqs, s->cached);
    uint32_t cached[SEQS_MAX], tokens[SEQS_MAX];
    for (uint32_t i = 0; i < s->seqs; i++) {
        cached[i] = s->cached;
        tokens[i] = s->tokens;
    }
    lab_batch batch = lab_batch_of(s->seqs, cached, tokens, 1, CONTEXT_MAX / KV_PAGE_TOKENS);
    rope->batch = attention->batch = &batch.b;
    double rope_best[LAYERS], attention_best[LAYERS], rope_us = 0, attention_us = 0;
    for (uint32_t i = 0; i < LAYERS; i++)
        rope_best[i] = attention_best[i] = INFINITY;
    int64_t begin = clock_now_ns(), now = begin;
    for (uint32_t pass = 0; pass < 3 || now - begin < MEASURE_NS; pass++) {
        for (uint32_t i = 0; i < LAYERS; i++) {
            rope->kv.layer = i;
            rope_best[i] = fmin(rope_best[i], us_of(l, rope, NULL, other));
        }
        for (uint32_t i = 0; i < LAYERS; i++) {
            attention->kv.layer = i;
            attention_best[i] = fmin(attention_best[i], us_of(l, NULL, attention, other));
        }
        now = clock_now_ns();
    }
    for (uint32_t i = 0; i < LAYERS; i++)
        rope_us += rope_best[i], attention_us += attention_best[i];
    size_t element = l->kv_dtype == DT_BF16 ? 2 : 4;
    double token_bytes = 2.0 * (double)element * KV_HEADS * DIM * LAYERS * s->seqs;
    print_row(l, s, "rope_store", rope_us, token_bytes * s->tokens, 0);
    print_row(l, s, "attention", attention_us, token_bytes * (s->cached + s->tokens), flops(s));
    lab_batch_free(&batch);
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "auto";
    bool ref = strcmp(name, "ref") == 0;
    kern_level level = strcmp(name, "avx2") == 0     ? LEVEL_AVX2
                       : strcmp(name, "avx512") == 0 ? LEVEL_AVX512
                                                     : LEVEL_AUTO;
    lab l = lab_open(ref ? &kern_ref : &kern_cpu, level, ref ? DT_F32 : DT_BF16,
                     argc > 2 ? (uint32_t)atoi(argv[2]) : 0);
    kern_kv_shape shape = {.layers = LAYERS, .kv_heads = KV_HEADS, .head_dim = DIM};
    kern_kv_layer kv = {.shape = &shape, .frame_bytes = l.ops->frame_bytes(l.dev, &shape)};
    kv.arena = lab_alloc(&l, SEQS_MAX * (CONTEXT_MAX / KV_PAGE_TOKENS) * kv.frame_bytes);
    size_t count = (size_t)SEQS_MAX * CONTEXT_MAX * (HEADS + 2 * KV_HEADS) * DIM;
    float *qkv = lab_alloc(&l, count * sizeof *qkv);
    fill(qkv, count);
    float *angles = lab_random(12, (size_t)CONTEXT_MAX * DIM);
    for (size_t i = 0; i < (size_t)CONTEXT_MAX * DIM; i++)
        angles[i] = i % 2 ? 0 : 1; /* no turn: values stay bounded over repeated passes */
    kern_rope_store rope = {.qkv = qkv,
                            .heads = HEADS,
                            .rotary = DIM,
                            .interleaved = true,
                            .cos_sin = angles,
                            .kv = kv};
    kern_attention attention = {.qkv = qkv,
                                .heads = HEADS,
                                .scale = 0.125f,
                                .kv = kv,
                                .out = lab_alloc(&l, count * sizeof(float))};
    other_memory other = {.bytes = lab_alloc(&l, OTHER_BYTES)};
    memset(other.bytes, 1, OTHER_BYTES);
    for (uint32_t i = 0; i < sizeof steps / sizeof steps[0]; i++)
        run(&l, &steps[i], &rope, &attention, &other);
    return 0;
}
