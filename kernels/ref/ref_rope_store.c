/* ref_rope_store.c - rotates q and k by position; stores k and v into the pages.
 *
 * In      qkv [T, (heads + 2*kv_heads) * D] f32; cos_sin [positions, rotary/2, 2] f32
 * Out     q in place; pages [KV_PAGE_TOKENS][D] f32 for each (frame, layer, k or v, head)
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

void ref_rope_store(kern_device *dev, const kern_rope_store *op) {
    const step_batch *batch = op->batch;
    const kern_kv_shape *shape = op->kv.shape;
    uint32_t dim = shape->head_dim, stride = (op->heads + 2 * shape->kv_heads) * dim;
    (void)dev;
    ESP_ASSERT(op->rotary % 2 == 0 && op->rotary <= dim && op->kv.layer < shape->layers);
    for (uint32_t t = 0; t < batch->token_count; t++) {
        uint32_t position = batch->positions[t], slot = position % KV_PAGE_TOKENS;
        uint32_t table = op->kv.group * batch->seq_count + batch->token_seq[t];
        uint32_t frame =
            batch->tables[(size_t)table * batch->table_stride + position / KV_PAGE_TOKENS];
        float *q = (float *)op->qkv + (size_t)t * stride, *k = q + (size_t)op->heads * dim;
        const float *v = k + (size_t)shape->kv_heads * dim;
        const float *angles = (const float *)op->cos_sin + (size_t)position * op->rotary;
        for (uint32_t h = 0; h < op->heads + shape->kv_heads; h++)
            rotate(op, q + (size_t)h * dim, angles);
        for (uint32_t h = 0; h < shape->kv_heads; h++) {
            size_t at = (size_t)slot * dim, bytes = dim * sizeof(float);
            memcpy(ref_kv_block(&op->kv, frame, 0, h) + at, k + (size_t)h * dim, bytes);
            memcpy(ref_kv_block(&op->kv, frame, 1, h) + at, v + (size_t)h * dim, bytes);
        }
    }
}
