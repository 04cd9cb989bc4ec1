/* page_lab.h - sequences whose tokens are stored into pages and attended to, step by step, by ref and by
 * the launchers; for tests of rope_store and attention.
 *
 * q, k and v of a token are a function of its sequence and position, so that results may be compared
 * however the sequences were cut into steps. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_PAGE_LAB_H
#define ESPALIER_PAGE_LAB_H

#include <math.h>

#include "device_memory.h"
#include "kernels/cuda/cuda_attention_plan.h"
#include "kernels/cuda/cuda_kv.h"
#include "tests/unit/kernel_lab.h"

enum { PAGE_SEQS = 3, PAGE_GROUPS = 2, PAGE_LAYERS = 2, PAGE_LONGEST = 1000 };

typedef struct page_case {
    uint32_t heads, kv_heads, dim, rotary, window;
    bool interleaved, bidirectional;
    bool head_norm;   /* of q and k */
    bool second_long; /* the second sequence is turned by the long table */
    bool int8;        /* pages */
    bool ref_exact;   /* ref's are float32 all the same */
    float softcap;
    uint32_t lengths[PAGE_SEQS];
} page_case;

/* In order of (sequence, position); free() both. */
typedef struct page_result {
    float *out; /* [tokens][heads * dim] */
    float *q;   /* the same shape: rotated queries */
    size_t count;
} page_result;

/* How a run goes. */
typedef struct page_way {
    uint64_t seed;       /* of the number of tokens of each step */
    uint32_t step_max;   /* at most so many of each sequence; 0: all at once */
    uint32_t singly;     /* so many of a sequence's last tokens one by one */
    uint64_t work_bytes; /* of attention */
    bool captured; /* steps of one token of each sequence have the grids of captured launches */
} page_way;

static inline size_t page_row(const page_case *c, uint32_t seq, uint32_t position) {
    size_t row = position;
    for (uint32_t s = 0; s < seq; s++)
        row += c->lengths[s];
    return row;
}

static inline uint32_t page_stride(const page_case *c) {
    uint32_t longest = 0;
    for (uint32_t s = 0; s < PAGE_SEQS; s++)
        longest = c->lengths[s] > longest ? c->lengths[s] : longest;
    return (longest + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
}

static inline uint32_t qkv_width(const page_case *c) {
    return (c->heads + 2 * c->kv_heads) * c->dim;
}

/* free() it. */
static inline float *page_angles(const page_case *c, float theta) {
    float *angles = malloc((size_t)PAGE_LONGEST * c->rotary * sizeof *angles + 1);
    for (uint32_t p = 0; p < PAGE_LONGEST; p++)
        for (uint32_t i = 0; i < c->rotary / 2; i++) {
            float angle = (float)p * powf(theta, -2.0f * (float)i / (float)c->rotary);
            angles[(size_t)p * c->rotary + 2 * i] = cosf(angle);
            angles[(size_t)p * c->rotary + 2 * i + 1] = sinf(angle);
        }
    return angles;
}

/* Of int8 each key and each value has a size of its own, and thus a scale. */
static inline float page_size(const page_case *c, uint32_t seq, uint32_t position, uint32_t head) {
    if (!c->int8 || head < c->heads) return 2;
    uint32_t kind = (uint32_t)(lab_hash(1000 * position + 10 * head + seq) % 5);
    return 2.0f / (float)(1u << 2 * kind); /* from 2 to 1/128 */
}

/* free() it. */
static inline float *page_qkv(const page_case *c, const lab_batch *batch) {
    uint32_t width = qkv_width(c);
    float *qkv = malloc((size_t)batch->b.token_count * width * sizeof *qkv);
    for (uint32_t t = 0; t < batch->b.token_count; t++) {
        uint32_t seq = batch->seq_of[batch->b.token_seq[t]];
        uint32_t position = batch->b.positions[t];
        for (uint32_t i = 0; i < width; i++)
            qkv[(size_t)t * width + i] =
                page_size(c, seq, position, i / c->dim) * lab_value(1000 * seq + position + 1, i);
    }
    return qkv;
}

static inline void page_seq_long(const page_case *c, const lab_batch *batch, uint8_t *seq_long) {
    for (uint32_t s = 0; s < batch->b.seq_count; s++)
        seq_long[s] = c->second_long && batch->seq_of[s] == 1;
}

static inline page_result page_result_new(const page_case *c) {
    size_t count = page_row(c, PAGE_SEQS, 0) * c->heads * c->dim;
    return (page_result){malloc(count * sizeof(float)), malloc(count * sizeof(float)), count};
}

static inline void page_result_free(page_result *result) {
    free(result->out);
    free(result->q);
}

/* Puts the rows of a step where they belong in the result. */
static inline void page_collect(const page_case *c, const lab_batch *batch, const float *out,
                                const float *qkv, page_result *result) {
    uint32_t width = c->heads * c->dim;
    for (uint32_t t = 0; t < batch->b.token_count; t++) {
        size_t row = page_row(c, batch->seq_of[batch->b.token_seq[t]], batch->b.positions[t]);
        memcpy(result->out + row * width, out + (size_t)t * width, width * sizeof *out);
        memcpy(result->q + row * width, qkv + (size_t)t * qkv_width(c), width * sizeof *qkv);
    }
}

/* --- ref -------------------------------------------------------------------------------------- */

/* Keys and values as the device's pages have them: attention is then held to what ref makes of the same. */
static inline void page_round(float *values, size_t count) {
    for (size_t i = 0; i < count; i++)
        values[i] = f32_of_bf16(bf16_of_f32(values[i]));
}

/* All sequences at once. */
static inline page_result page_run_ref(const page_case *c) {
    lab l = lab_open(&kern_ref, LEVEL_AUTO, c->int8 && !c->ref_exact ? DT_KV_INT8 : DT_F32, 2);
    uint32_t cached[PAGE_SEQS] = {0};
    lab_batch batch = lab_batch_of(PAGE_SEQS, cached, c->lengths, PAGE_GROUPS, page_stride(c));
    kern_kv_shape shape = {.layers = PAGE_LAYERS, .kv_heads = c->kv_heads, .head_dim = c->dim};
    kern_kv_layer kv = {
        .shape = &shape, .group = 1, .layer = 1, .frame_bytes = l.ops->frame_bytes(l.dev, &shape)};
    size_t arena = batch.frame_count * kv.frame_bytes;
    size_t out_bytes = (size_t)batch.b.token_count * c->heads * c->dim * sizeof(float);
    kv.arena = lab_alloc(&l, arena);
    float *angles = page_angles(c, 10000), *long_angles = page_angles(c, 70000);
    float *qkv = page_qkv(c, &batch), *norms[2] = {lab_random(21, c->dim), lab_random(22, c->dim)};
    uint8_t seq_long[PAGE_SEQS];
    page_seq_long(c, &batch, seq_long);
    batch.b.seq_long = seq_long;
    kern_rope_store rope = {.batch = &batch.b,
                            .qkv = qkv,
                            .heads = c->heads,
                            .rotary = c->rotary,
                            .interleaved = c->interleaved,
                            .cos_sin = angles,
                            .long_cos_sin = long_angles,
                            .q_norm = c->head_norm ? norms[0] : NULL,
                            .k_norm = c->head_norm ? norms[1] : NULL,
                            .norm_eps = 1e-5f,
                            .kv = kv};
    l.ops->rope_store(l.dev, &rope);
    page_round(kv.arena, arena / sizeof(float));
    kern_attention attention = {.batch = &batch.b,
                                .qkv = qkv,
                                .heads = c->heads,
                                .scale = 1 / sqrtf((float)c->dim),
                                .softcap = c->softcap,
                                .window = c->window,
                                .bidirectional = c->bidirectional,
                                .kv = kv,
                                .out = lab_alloc(&l, out_bytes)};
    l.ops->attention(l.dev, &attention);
    page_result result = page_result_new(c);
    page_collect(c, &batch, attention.out, qkv, &result);
    l.ops->release(l.dev, attention.out, out_bytes);
    l.ops->release(l.dev, kv.arena, arena);
    free(angles);
    free(long_angles);
    free(qkv);
    free(norms[0]);
    free(norms[1]);
    lab_batch_free(&batch);
    lab_close(&l);
    return result;
}

/* --- the launchers ---------------------------------------------------------------------------- */

/* What outlives a step. */
typedef struct page_device {
    kern_kv_shape shape;
    cuda_kv_layer kv;
    cuda_attention_kind kind;
    float *angles, *long_angles, *norms[2];
    void *work;
} page_device;

static inline float *device_floats(float *host, size_t count) {
    float *memory = device_copy(host, count * sizeof *host);
    free(host);
    return memory;
}

/* Pages start out as NaN. */
static inline page_device page_device_new(const page_case *c, uint64_t work_bytes,
                                          uint32_t frame_count) {
    page_device d = {.shape = {.layers = PAGE_LAYERS, .kv_heads = c->kv_heads, .head_dim = c->dim},
                     .kind = {.heads = c->heads,
                              .kv_heads = c->kv_heads,
                              .head_dim = c->dim,
                              .window = c->window,
                              .bidirectional = c->bidirectional,
                              .work_bytes = work_bytes}};
    size_t frame = cuda_kv_frame_bytes(&d.shape, c->int8),
           angles = (size_t)PAGE_LONGEST * c->rotary;
    assert_int_equal(frame % 64, 0);
    d.kv = (cuda_kv_layer){.arena = device_new(frame * frame_count),
                           .frame_bytes = frame,
                           .k_offset = cuda_kv_offset(&d.shape, c->int8, 1, 0),
                           .v_offset = cuda_kv_offset(&d.shape, c->int8, 1, 1),
                           .kv_heads = c->kv_heads,
                           .head_dim = c->dim,
                           .group = 1,
                           .int8 = c->int8};
    d.angles = device_floats(page_angles(c, 10000), angles);
    d.long_angles = device_floats(page_angles(c, 70000), angles);
    d.norms[0] = device_floats(lab_random(21, c->dim), c->dim);
    d.norms[1] = device_floats(lab_random(22, c->dim), c->dim);
    d.work = device_new(work_bytes);
    return d;
}

static inline void page_device_free(page_device *d) {
    device_free(d->kv.arena);
    device_free(d->angles);
    device_free(d->long_angles);
    device_free(d->norms[0]);
    device_free(d->norms[1]);
    device_free(d->work);
}

static inline uint32_t *device_words(const uint32_t *host, size_t count) {
    return device_copy(host, count * sizeof *host);
}

/* The arrays that rope_store and attention read. Table entries behind the window point to nowhere. */
static inline cuda_batch page_batch_put(const page_case *c, const lab_batch *batch) {
    const step_batch *b = &batch->b;
    uint8_t seq_long[PAGE_SEQS];
    page_seq_long(c, batch, seq_long);
    for (uint32_t s = 0; s < b->seq_count; s++) {
        uint32_t *table = b->tables + (size_t)(b->seq_count + s) * b->table_stride;
        for (uint32_t i = 0; c->window && b->seq_cached[s] + 1 >= (i + 1) * 16 + c->window; i++)
            table[i] = 0x7fffffff;
    }
    return (cuda_batch){
        .token_count = b->token_count,
        .seq_count = b->seq_count,
        .group_count = b->group_count,
        .table_stride = b->table_stride,
        .positions = device_words(b->positions, b->token_count),
        .token_seq = device_words(b->token_seq, b->token_count),
        .seq_long = device_copy(seq_long, b->seq_count),
        .tables = device_words(b->tables, (size_t)b->group_count * b->seq_count * b->table_stride)};
}

static inline void page_batch_free(cuda_batch *batch) {
    device_free(batch->positions);
    device_free(batch->token_seq);
    device_free(batch->seq_long);
    device_free(batch->tables);
}

static inline cuda_rope_store_args page_rope(const page_case *c, const page_device *d,
                                             const cuda_batch *batch, float *qkv) {
    return (cuda_rope_store_args){.batch = *batch,
                                  .qkv = qkv,
                                  .heads = c->heads,
                                  .rotary = c->rotary,
                                  .interleaved = c->interleaved,
                                  .cos_sin = d->angles,
                                  .long_cos_sin = c->second_long ? d->long_angles : NULL,
                                  .q_norm = c->head_norm ? d->norms[0] : NULL,
                                  .k_norm = c->head_norm ? d->norms[1] : NULL,
                                  .norm_eps = 1e-5f,
                                  .kv = d->kv};
}

static inline bool is_decode(const step_batch *batch) {
    return batch->token_count == batch->seq_count;
}

static inline void page_step(const page_case *c, const page_way *way, const page_device *d,
                             const lab_batch *batch, page_result *result) {
    const step_batch *b = &batch->b;
    size_t width = c->heads * c->dim, qkv_count = (size_t)b->token_count * qkv_width(c);
    size_t out_count = b->token_count * width;
    float *host_qkv = page_qkv(c, batch), *host_out = malloc(out_count * sizeof *host_out);
    float *qkv = device_copy(host_qkv, qkv_count * sizeof *qkv);
    cuda_batch staged = page_batch_put(c, batch);
    cuda_rope_store_args rope = page_rope(c, d, &staged, qkv);
    assert_int_equal(cuda_rope_store(&rope, NULL), cudaSuccess);
    uint64_t plan_max = cuda_attention_plan_max(&d->kind, b->token_count);
    void *host_plan = malloc(plan_max);
    uint64_t plan_bytes = cuda_attention_plan_make(&d->kind, b, host_plan);
    assert_true(plan_bytes <= plan_max);
    cuda_attention_args attention = {.batch = staged,
                                     .kind = d->kind,
                                     .qkv = qkv,
                                     .scale = 1 / sqrtf((float)c->dim),
                                     .softcap = c->softcap,
                                     .kv = d->kv,
                                     .plan = device_copy(host_plan, plan_bytes),
                                     .host_plan = way->captured && is_decode(b) ? NULL : host_plan,
                                     .work = d->work,
                                     .out = device_new(out_count * sizeof(uint16_t))};
    assert_int_equal(cuda_attention(&attention, NULL), cudaSuccess);
    device_read(host_qkv, qkv, qkv_count * sizeof *qkv);
    uint16_t *halves = malloc(out_count * sizeof *halves);
    device_read(halves, attention.out, out_count * sizeof *halves);
    for (size_t i = 0; i < out_count; i++)
        host_out[i] = f32_of_bf16(halves[i]);
    page_collect(c, batch, host_out, host_qkv, result);
    device_free(attention.out);
    device_free(attention.plan);
    device_free(qkv);
    page_batch_free(&staged);
    free(halves);
    free(host_plan);
    free(host_qkv);
    free(host_out);
}

/* How many tokens a sequence has in a step: sometimes none. */
static inline uint32_t page_tokens(const page_way *way, uint32_t step, uint32_t seq,
                                   uint32_t left) {
    if (left <= way->singly) return left > 0;
    left -= way->singly;
    if (way->step_max == 0) return left;
    uint32_t tokens = way->step_max;
    if (way->seed)
        tokens = (uint32_t)(lab_hash(way->seed * 1000003 + step * 7 + seq) % (tokens + 1));
    return tokens < left ? tokens : left;
}

static inline page_result page_run(const page_case *c, const page_way *way) {
    uint32_t cached[PAGE_SEQS] = {0}, tokens[PAGE_SEQS], stride = page_stride(c);
    page_device d = page_device_new(c, way->work_bytes, PAGE_GROUPS * PAGE_SEQS * stride);
    page_result result = page_result_new(c);
    bool left = true;
    for (uint32_t step = 0; left; step++) {
        left = false;
        uint32_t total = 0;
        for (uint32_t s = 0; s < PAGE_SEQS; s++) {
            tokens[s] = page_tokens(way, step, s, c->lengths[s] - cached[s]);
            total += tokens[s];
            left = left || cached[s] + tokens[s] < c->lengths[s];
        }
        lab_batch batch = lab_batch_of(PAGE_SEQS, cached, tokens, PAGE_GROUPS, stride);
        if (total > 0) page_step(c, way, &d, &batch, &result);
        lab_batch_free(&batch);
        for (uint32_t s = 0; s < PAGE_SEQS; s++)
            cached[s] += tokens[s];
    }
    page_device_free(&d);
    return result;
}

/* |got - want| <= tolerance * (|want| + floor); a NaN on either side fails. */
static inline void page_assert_close(const float *got, const float *want, size_t count,
                                     float tolerance, float floor, const char *what) {
    for (size_t i = 0; i < count; i++)
        if (!(fabsf(got[i] - want[i]) <= tolerance * (fabsf(want[i]) + floor)))
            fail_msg("%s: element %zu is %g, ref has %g", what, i, (double)got[i], (double)want[i]);
}

static inline void page_assert_bits(const float *got, const float *want, size_t count,
                                    const char *what) {
    for (size_t i = 0; i < count; i++)
        if (bits_of_f32(got[i]) != bits_of_f32(want[i]))
            fail_msg("%s: element %zu is %a, was %a", what, i, (double)got[i], (double)want[i]);
}

#endif
