/* ref.h - what the files of the reference backend share.
 *
 * float32 throughout, KV included: of int8 it keeps what codes and scales stand for; weights are dequantised a row at a time exactly as their format
 * says. Written to be read: one loop nest an op. The pool splits outputs, never a sum, so the
 * thread count changes no bit. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_REF_H
#define ESPALIER_REF_H

#include <math.h>
#include <string.h>

#include "engine/base/pool.h"
#include "kernels/kernels.h"

enum { REF_SCRATCH_ROWS = 3 }; /* gate, up; a row before its columns are put in order */

struct kern_device {
    thread_pool *pool;
    float *row_scratch;  /* [threads][REF_SCRATCH_ROWS][cols_max] dequantised weight rows */
    uint32_t cols_max;   /* widest matrix packed so far */
    uint32_t tokens_max; /* of a batch */
    bool kv_int8;
    float *lora_states;  /* [tokens_max][REF_LORA_RANKS]: scale * A x of updates (ref_lora.h) */
};

struct kern_matrix {
    esp_dtype dtype;
    uint32_t rows, cols;
    size_t row_bytes;
    uint32_t *order;       /* kern_matrix_desc's, or NULL */
    const uint8_t *blocks; /* as in the file: own, or an image's */
    uint8_t own[];
};

static inline const void *ref_row_blocks(const kern_matrix *matrix, uint32_t row) {
    return matrix->blocks + row * matrix->row_bytes;
}

/* out[k] = the weight that meets input k; spare: a row of scratch. */
static inline void ref_read_row(const kern_matrix *matrix, uint32_t row, float *spare, float *out) {
    float *blocks_out = matrix->order ? spare : out;
    dtype_info(matrix->dtype)->dequantise(ref_row_blocks(matrix, row), blocks_out, matrix->cols);
    for (uint32_t c = 0; matrix->order && c < matrix->cols; c++)
        out[matrix->order[c]] = spare[c];
}

typedef float ref_lanes __attribute__((vector_size(16)));

static inline ref_lanes ref_load(const float *values) {
    ref_lanes lanes;
    memcpy(&lanes, values, sizeof lanes);
    return lanes;
}

/* Four times four partial sums, then a fixed tree: the order that the vector units of any x86-64
 * can follow, spelled out, because the compiler may not reorder float sums by itself. */
static inline float ref_dot(const float *a, const float *b, uint32_t count) {
    ref_lanes part[4] = {{0}, {0}, {0}, {0}};
    uint32_t i = 0;
    for (; i + 16 <= count; i += 16)
        for (uint32_t j = 0; j < 4; j++)
            part[j] += ref_load(a + i + 4 * j) * ref_load(b + i + 4 * j);
    ref_lanes sum = (part[0] + part[1]) + (part[2] + part[3]);
    for (; i < count; i++)
        sum[0] += a[i] * b[i];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* Two by two, as kern_parts has it; what is not there is 0. */
static inline float ref_tree(const float part[KERN_PARTS_MAX]) {
    return ((part[0] + part[1]) + (part[2] + part[3])) +
           ((part[4] + part[5]) + (part[6] + part[7]));
}

/* 1 / sqrt(mean(x^2) + eps) */
static inline float ref_norm_factor(const float *x, uint32_t width, float eps) {
    return 1.0f / sqrtf(ref_dot(x, x, width) / (float)width + eps);
}

/* cap * tanh(x / cap); cap 0 leaves x. */
static inline float ref_softcap(float x, float cap) { return cap > 0 ? cap * tanhf(x / cap) : x; }

/* The float32 block of one (frame, layer, k or v, kv head): [KV_PAGE_TOKENS][head_dim]. */
static inline float *ref_kv_block(const kern_kv_layer *kv, uint32_t frame, uint32_t is_v,
                                  uint32_t head) {
    const kern_kv_shape *shape = kv->shape;
    size_t block = ((size_t)kv->layer * 2 + is_v) * shape->kv_heads + head;
    return (float *)((char *)kv->arena + frame * kv->frame_bytes) +
           block * KV_PAGE_TOKENS * shape->head_dim;
}

void ref_embed(kern_device *dev, const kern_embed *op);
void ref_norm(kern_device *dev, const kern_norm *op);
void ref_linear(kern_device *dev, const kern_linear *op);
void ref_rope_store(kern_device *dev, const kern_rope_store *op);
void ref_attention(kern_device *dev, const kern_attention *op);
void ref_pool_states(kern_device *dev, const kern_pool_states *op);
void ref_rank_sum(kern_device *dev, const kern_rank_sum *op);
void ref_place_columns(kern_device *dev, const kern_place_columns *op);

#endif
