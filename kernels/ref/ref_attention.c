/* ref_attention.c - attention over pages.
 *
 *   out[t,h,:] = sum_j softmax_j(cap(scale * q[t,h] . k[j,h/G])) v[j,h/G],  j in (p - window, p]
 *   cap(s) = softcap * tanh(s / softcap), or s;  bidirectional: j in the whole sequence
 *
 * In      q in qkv [T, (heads + 2*kv_heads) * D] f32; pages as ref_rope_store writes them
 * Out     out [T, heads*D] f32
 * Work    split over tokens; keys are walked in position order with a running maximum
 * Source  online softmax, arXiv:1805.02867 */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <string.h>

#include "kernels/ref/ref.h"

static uint32_t last_position(const step_batch *batch, uint32_t t) {
    uint32_t seq = batch->token_seq[t];
    ESP_ASSERT(batch->seq_cached[seq] == 0);
    return batch->seq_tokens[seq] - 1;
}

static void attend(const kern_attention *op, uint32_t t, uint32_t h, float *out) {
    const step_batch *batch = op->batch;
    const kern_kv_shape *shape = op->kv.shape;
    uint32_t dim = shape->head_dim, kv_head = h / (op->heads / shape->kv_heads);
    const uint32_t *frames =
        batch->tables +
        (size_t)(op->kv.group * batch->seq_count + batch->token_seq[t]) * batch->table_stride;
    const float *q =
        (const float *)op->qkv + ((size_t)t * (op->heads + 2 * shape->kv_heads) + h) * dim;
    uint32_t last = op->bidirectional ? last_position(batch, t) : batch->positions[t];
    uint32_t first = op->window && last >= op->window ? last - op->window + 1 : 0;
    float top = -INFINITY, sum = 0.0f;
    memset(out, 0, dim * sizeof *out);
    for (uint32_t j = first; j <= last; j++) {
        uint32_t frame = frames[j / KV_PAGE_TOKENS];
        size_t at = (size_t)(j % KV_PAGE_TOKENS) * dim;
        const float *k = ref_kv_block(&op->kv, frame, 0, kv_head) + at;
        const float *v = ref_kv_block(&op->kv, frame, 1, kv_head) + at;
        float score = ref_softcap(op->scale * ref_dot(q, k, dim), op->softcap);
        if (score > top) {
            float shrink = expf(top - score);
            for (uint32_t i = 0; i < dim; i++)
                out[i] *= shrink;
            sum *= shrink;
            top = score;
        }
        float p = expf(score - top);
        sum += p;
        for (uint32_t i = 0; i < dim; i++)
            out[i] += p * v[i];
    }
    for (uint32_t i = 0; i < dim; i++)
        out[i] /= sum;
}

static void attention_rows(void *arg, uint32_t worker, uint32_t workers) {
    const kern_attention *op = *(const kern_attention **)arg;
    uint32_t dim = op->kv.shape->head_dim;
    for (uint32_t t = worker; t < op->batch->token_count; t += workers)
        for (uint32_t h = 0; h < op->heads; h++)
            attend(op, t, h, (float *)op->out + ((size_t)t * op->heads + h) * dim);
}

void ref_attention(kern_device *dev, const kern_attention *op) {
    ESP_ASSERT(op->heads % op->kv.shape->kv_heads == 0 && !(op->bidirectional && op->window));
    if (op->batch->token_count > 0) pool_run(dev->pool, attention_rows, &op);
}
