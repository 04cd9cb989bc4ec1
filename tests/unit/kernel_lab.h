/* kernel_lab.h - a device with its pool, random matrices and ragged batches, for kernel tests and
 * benches. Everything random comes from a seed, so a failure repeats. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_KERNEL_LAB_H
#define ESPALIER_KERNEL_LAB_H

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/pool.h"
#include "engine/base/quant_blocks.h"
#include "kernels/kernels.h"

static inline uint64_t lab_hash(uint64_t x) {
    x ^= x >> 31;
    x *= 0x7fb5d329728ea185u;
    x ^= x >> 27;
    x *= 0x81dadef4bc2dd44du;
    return x ^ x >> 33;
}

/* In [-1, 1), a function of seed and index alone. */
static inline float lab_value(uint64_t seed, uint64_t index) {
    uint64_t bits = lab_hash(seed * 0x9e3779b97f4a7c15u + index + 1);
    return (float)(int64_t)(bits >> 40) * 0x1p-23f - 1.0f;
}

typedef struct lab {
    const kern_ops *ops;
    kern_device *dev;
    thread_pool *pool;
    esp_dtype kv_dtype;
} lab;

static inline lab lab_open_for(kern_activations activations, const kern_ops *ops, kern_level level,
                               esp_dtype kv, uint32_t threads) {
    lab l = {.ops = ops, .kv_dtype = kv};
    esp_error err = {0};
    esp_code code = pool_open(&l.pool, threads, &err);
    ESP_ASSERT(code == ESP_OK);
    kern_options options = {.pool = l.pool,
                            .level = level,
                            .kv_dtype = kv,
                            .activations = activations,
                            .tokens_max = 1024};
    code = ops->open(&l.dev, &options, &err);
    ESP_ASSERT(code == ESP_OK);
    return l;
}

static inline lab lab_open(const kern_ops *ops, kern_level level, esp_dtype kv, uint32_t threads) {
    return lab_open_for(ACT_BF16, ops, level, kv, threads);
}

static inline void lab_close(lab *l) {
    l->ops->close(l->dev);
    pool_close(l->pool);
}

static inline void *lab_alloc(const lab *l, size_t bytes) {
    void *memory = NULL;
    esp_error err = {0};
    esp_code code = l->ops->alloc(l->dev, bytes, &memory, &err);
    ESP_ASSERT(code == ESP_OK);
    return memory;
}

/* Device memory with count values rounded to bf16, so that every backend sees the same. */
static inline void *lab_upload(const lab *l, kern_kind kind, const float *values, size_t count) {
    size_t element = l->ops->element_bytes(l->dev, kind);
    char *host = malloc(count * element), *memory = lab_alloc(l, count * element);
    for (size_t i = 0; i < count; i++) {
        uint16_t half = bf16_of_f32(values[i]);
        float wide = kind == KIND_ACT ? f32_of_bf16(half) : values[i];
        memcpy(host + i * element, element == 2 ? (void *)&half : (void *)&wide, element);
    }
    l->ops->upload(l->dev, memory, host, count * element);
    free(host);
    return memory;
}

static inline float *lab_random(uint64_t seed, size_t count) {
    float *values = malloc(count * sizeof *values);
    for (size_t i = 0; i < count; i++)
        values[i] = lab_value(seed, i);
    return values;
}

static inline void *lab_upload_random(const lab *l, kern_kind kind, uint64_t seed, size_t count) {
    float *values = lab_random(seed, count);
    void *memory = lab_upload(l, kind, values, count);
    free(values);
    return memory;
}

/* count elements as floats; free() them. */
static inline float *lab_download(const lab *l, kern_kind kind, const void *memory, size_t count) {
    size_t element = l->ops->element_bytes(l->dev, kind);
    char *host = malloc(count * element);
    float *values = malloc(count * sizeof *values);
    l->ops->download(l->dev, host, memory, count * element);
    for (size_t i = 0; i < count; i++) {
        uint16_t half;
        memcpy(&half, host + i * element, sizeof half);
        if (element == 2)
            values[i] = f32_of_bf16(half);
        else
            memcpy(&values[i], host + i * element, sizeof values[i]);
    }
    free(host);
    return values;
}

static inline void lab_release(const lab *l, kern_kind kind, void *memory, size_t count) {
    l->ops->release(l->dev, memory, count * l->ops->element_bytes(l->dev, kind));
}

static inline void lab_put_half(uint8_t *at, float value) {
    uint16_t half = f16_of_f32(value);
    memcpy(at, &half, sizeof half);
}

/* A zero point from 0 to 2^bits. */
static inline void lab_put_zero(uint8_t *at, uint64_t random, uint32_t bits) {
    uint16_t zero = (uint16_t)(random % ((1u << bits) + 1));
    memcpy(at, &zero, sizeof zero);
}

/* rows x cols weights of about unit size, as in a file; free() them. */
static inline uint8_t *lab_blocks(esp_dtype dtype, uint32_t rows, uint32_t cols, uint64_t seed) {
    const dtype_row *info = dtype_info(dtype);
    size_t count = (size_t)rows * cols / info->block_elements, bytes = count * info->block_bytes;
    uint8_t *blocks = malloc(bytes);
    for (size_t i = 0; i < bytes; i++)
        blocks[i] = (uint8_t)(lab_hash(seed + i) >> 20);
    for (size_t i = 0; i < count; i++) {
        uint8_t *block = blocks + i * info->block_bytes;
        float value = lab_value(seed, i);
        uint16_t half = bf16_of_f32(value);
        switch (dtype) {
        case DT_F32:
            memcpy(block, &value, sizeof value);
            break;
        case DT_BF16:
            memcpy(block, &half, sizeof half);
            break;
        case DT_F16:
            lab_put_half(block, value);
            break;
        case DT_Q8_0:
            lab_put_half(block, value / 127);
            break;
        case DT_Q4_0:
            lab_put_half(block, value / 8);
            break;
        case DT_Q4_1:
        case DT_Q5_1:
            lab_put_half(block, value / (dtype == DT_Q4_1 ? 8 : 16));
            lab_put_half(block + 2, lab_value(~seed, i));
            break;
        case DT_Q5_0:
            lab_put_half(block, value / 16);
            break;
        case DT_IQ4_NL:
            lab_put_half(block, value / 127);
            break;
        case DT_Q2_K: /* scales up to 15, codes to 3 */
            lab_put_half(block + offsetof(block_q2_k, d), value / 45);
            lab_put_half(block + offsetof(block_q2_k, m), lab_value(~seed, i) / 15);
            break;
        case DT_Q3_K: /* 32 and 4 */
            lab_put_half(block + offsetof(block_q3_k, d), value / 128);
            break;
        case DT_Q4_K: /* 63 and 15 */
        case DT_Q5_K: /* 63 and 31 */
            lab_put_half(block, value / (dtype == DT_Q4_K ? 945 : 1953));
            lab_put_half(block + 2, lab_value(~seed, i) / 63);
            break;
        case DT_Q6_K: /* 128 and 32 */
            lab_put_half(block + offsetof(block_q6_k, d), value / 4096);
            break;
        case DT_G2:
        case DT_G3:
        case DT_G4:
        case DT_G8:
            value /= (float)(1u << info->coding->code_bits);
            memcpy(block, &value, sizeof value);
            lab_put_zero(block + 4, lab_hash(~seed + i), info->coding->code_bits);
            break;
        case DT_F8_E4M3: /* 448 */
            value /= 448;
            memcpy(block, &value, sizeof value);
            for (uint32_t j = 4; j < info->block_bytes; j++)
                if ((block[j] & 0x7f) == 0x7f) block[j] ^= 1; /* no NaN */
            break;
        case DT_IQ4_XS: /* 32 and 127 */
        default:
            lab_put_half(block, value / 4064);
            break;
        }
    }
    return blocks;
}

/* desc: all but the weights. */
static inline kern_matrix *lab_random_matrix(const lab *l, kern_matrix_desc desc, uint64_t seed) {
    uint8_t *blocks = lab_blocks(desc.dtype, desc.rows, desc.cols, seed);
    desc.data = blocks;
    kern_matrix *matrix = NULL;
    esp_error err = {0};
    esp_code code = l->ops->pack(l->dev, &desc, &matrix, &err);
    ESP_ASSERT(code == ESP_OK);
    free(blocks);
    return matrix;
}

/* order: of the columns' inputs, or NULL. */
static inline kern_matrix *lab_ordered_matrix(const lab *l, esp_dtype dtype, uint32_t rows,
                                              uint32_t cols, const uint32_t *order, uint64_t seed) {
    kern_matrix_desc desc = {.dtype = dtype, .rows = rows, .cols = cols, .order = order};
    return lab_random_matrix(l, desc, seed);
}

static inline kern_matrix *lab_matrix(const lab *l, esp_dtype dtype, uint32_t rows, uint32_t cols,
                                      uint64_t seed) {
    return lab_ordered_matrix(l, dtype, rows, cols, NULL, seed);
}

/* Each of 0 .. count - 1 once, a shuffle that the seed decides; free() it. */
static inline uint32_t *lab_shuffle(uint64_t seed, uint32_t count) {
    uint32_t *order = malloc(count * sizeof *order);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t j = (uint32_t)(lab_hash(seed + i) % (i + 1));
        order[i] = order[j];
        order[j] = i;
    }
    return order;
}

/* A batch of seq_count sequences, each with its tokens [cached, cached + tokens). Sequences with 0
 * tokens are left out. Frames are dealt out so that neighbours in a table are not neighbours in
 * memory, and each group has its own. */
typedef struct lab_batch {
    step_batch b;
    uint32_t seq_of[64]; /* index in the caller's arrays of each sequence here */
    uint32_t frame_count;
} lab_batch;

static inline lab_batch lab_batch_of(uint32_t seq_count, const uint32_t *cached,
                                     const uint32_t *tokens, uint32_t groups, uint32_t stride) {
    lab_batch out = {.b = {.group_count = groups, .table_stride = stride}};
    step_batch *b = &out.b;
    uint32_t total = 0;
    ESP_ASSERT(seq_count <= 64);
    for (uint32_t s = 0; s < seq_count; s++)
        total += tokens[s];
    b->positions = mem_new(total, sizeof *b->positions);
    b->token_seq = mem_new(total, sizeof *b->token_seq);
    b->seq_first = mem_new(seq_count, sizeof *b->seq_first);
    b->seq_tokens = mem_new(seq_count, sizeof *b->seq_tokens);
    b->seq_cached = mem_new(seq_count, sizeof *b->seq_cached);
    for (uint32_t s = 0; s < seq_count; s++) {
        if (tokens[s] == 0) continue;
        uint32_t here = b->seq_count++;
        out.seq_of[here] = s;
        b->seq_first[here] = b->token_count;
        b->seq_tokens[here] = tokens[s];
        b->seq_cached[here] = cached[s];
        for (uint32_t i = 0; i < tokens[s]; i++, b->token_count++) {
            b->positions[b->token_count] = cached[s] + i;
            b->token_seq[b->token_count] = here;
        }
    }
    b->tables = mem_new((size_t)groups * seq_count * stride, sizeof *b->tables);
    /* 7919 is prime: multiples of it visit every frame once, whatever frame_count is below it. */
    out.frame_count = groups * seq_count * stride;
    for (uint32_t g = 0; g < groups; g++)
        for (uint32_t s = 0; s < b->seq_count; s++)
            for (uint32_t i = 0; i < stride; i++) {
                uint32_t number = (g * seq_count + out.seq_of[s]) * stride + i;
                b->tables[((size_t)g * b->seq_count + s) * stride + i] =
                    (uint32_t)((uint64_t)number * 7919 % out.frame_count);
            }
    return out;
}

static inline void lab_batch_free(lab_batch *batch) {
    free(batch->b.positions);
    free(batch->b.token_seq);
    free(batch->b.seq_first);
    free(batch->b.seq_tokens);
    free(batch->b.seq_cached);
    free(batch->b.tables);
}

#endif
