/* ref_rope_store.c - norms and rotates q and k; stores k and v into the pages.
 *
 * In      qkv [T, (heads + 2*kv_heads) * D] f32; cos_sin [positions, rotary/2, 2] f32;
 *         q_norm, k_norm [D] f32 or none
 * Out     q in place; pages [KV_PAGE_TOKENS][D] f32 for each (frame, layer, k or v, head), of int8
 *         scale * code
 * Source  RoFormer, arXiv:2104.09864; half-split pairs as in GPT-NeoX */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "kernels/ref/ref.h"

static void rotate(const kern_rope_store *op, float *head, const float *cos_sin) {
    uint32_t half = op->rotary / 2;
    for (uint32_t i = 0; i < half; i++) {
        float *a = head + (op->interleaved ? 2 * i : i);
        float *b = op->interleaved ? a + 1 : a + half;
        float c = cos_sin[2 * i], s = cos_sin[2 * i + 1], x = *a, y = *b;
        *a = x * c - y * s;
        *b = y * c + x * s;
    }
}

static void norm_heads(const kern_rope_store *op, float *heads, uint32_t count,
                       const float *weight) {
    uint32_t dim = op->kv.shape->head_dim;
    if (!weight) return;
    for (float *head = heads; head < heads + (size_t)count * dim; head += dim) {
        float factor = ref_norm_factor(head, dim, op->norm_eps);
        for (uint32_t i = 0; i < dim; i++)
            head[i] = head[i] * factor * weight[i];
    }
}

/* (cos, sin) pairs of a token's position; NULL where nothing turns. */
static const float *angles_of(const kern_rope_store *op, uint32_t t) {
    const step_batch *batch = op->batch;
    if (op->rotary == 0) return NULL;
    bool outgrown = batch->seq_long && batch->seq_long[batch->token_seq[t]];
    ESP_ASSERT(!outgrown || op->long_cos_sin);
    return (const float *)(outgrown ? op->long_cos_sin : op->cos_sin) +
           (size_t)batch->positions[t] * op->rotary;
}

/* What codes and a scale stand for (kernels.h): the values of a row that is kept in 8 bits. */
static void round_to_codes(float *row, uint32_t dim) {
    uint32_t top = 0;
    for (uint32_t i = 0; i < dim; i++) {
        uint32_t size =
            bits_of_f32(row[i]) & 0x7fffffffu; /* NaN is above infinity, and that above all */
        top = size > top ? size : top;
    }
    float most = f32_of_bits(top), scale = most / 127, inverse = 127 / most;
    bool coded = isfinite(most) && most >= KV_INT8_LEAST;
    for (uint32_t i = 0; i < dim; i++)
        row[i] = coded ? scale * rintf(row[i] * inverse) : isfinite(most) ? 0 : scale * 0;
}

static void store(const kern_device *dev, const float *from, uint32_t dim, float *to) {
    memcpy(to, from, dim * sizeof *to);
    if (dev->kv_int8) round_to_codes(to, dim);
}

void ref_rope_store(kern_device *dev, const kern_rope_store *op) {
    const step_batch *batch = op->batch;
    const kern_kv_shape *shape = op->kv.shape;
    uint32_t dim = shape->head_dim, stride = (op->heads + 2 * shape->kv_heads) * dim;
    ESP_ASSERT(op->rotary % 2 == 0 && op->rotary <= dim && op->kv.layer < shape->layers);
    ESP_ASSERT(!op->q_norm == !op->k_norm);
    for (uint32_t t = 0; t < batch->token_count; t++) {
        uint32_t position = batch->positions[t], slot = position % KV_PAGE_TOKENS;
        uint32_t table = op->kv.group * batch->seq_count + batch->token_seq[t];
        uint32_t frame =
            batch->tables[(size_t)table * batch->table_stride + position / KV_PAGE_TOKENS];
        float *q = (float *)op->qkv + (size_t)t * stride, *k = q + (size_t)op->heads * dim;
        const float *v = k + (size_t)shape->kv_heads * dim;
        const float *angles = angles_of(op, t);
        norm_heads(op, q, op->heads, op->q_norm);
        norm_heads(op, k, shape->kv_heads, op->k_norm);
        for (uint32_t h = 0; h < op->heads + shape->kv_heads; h++)
            rotate(op, q + (size_t)h * dim, angles);
        for (uint32_t h = 0; h < shape->kv_heads; h++) {
            size_t at = (size_t)slot * dim, from = (size_t)h * dim;
            store(dev, k + from, dim, ref_kv_block(&op->kv, frame, 0, h) + at);
            store(dev, v + from, dim, ref_kv_block(&op->kv, frame, 1, h) + at);
        }
    }
}
