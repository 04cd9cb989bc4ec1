/* rope_store.c - norms and rotates q and k; stores k and v into the pages.
 *
 * In      qkv [T, (heads + 2*kv_heads) * D] f32; cos_sin [positions, rotary/2, 2] f32;
 *         q_norm, k_norm [D] f32 or none
 * Out     q in place (k too, as scratch); pages: k [D][16], v [16][D rounded up to 16], bf16 or f32
 * Work    split over tokens; few stay on the caller
 * Source  RoFormer, arXiv:2104.09864 */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/level/simd.h"

enum { ALONE_TOKENS = 8 };

typedef struct rope_job {
    const kern_device *dev;
    const kern_rope_store *op;
} rope_job;

static void rotate_pairs(float *head, const float *cos_sin, uint32_t pairs) {
    for (uint32_t i = 0; i < pairs; i++) {
        float c = cos_sin[2 * i], s = cos_sin[2 * i + 1], x = head[2 * i], y = head[2 * i + 1];
        head[2 * i] = x * c - y * s;
        head[2 * i + 1] = y * c + x * s;
    }
}

static void rotate_halves(float *restrict low, float *restrict high, const float *cos_sin,
                          uint32_t pairs) {
    for (uint32_t i = 0; i < pairs; i++) {
        float c = cos_sin[2 * i], s = cos_sin[2 * i + 1], x = low[i], y = high[i];
        low[i] = x * c - y * s;
        high[i] = y * c + x * s;
    }
}

/* RMSNorm of each head by itself, in place. */
static void norm_heads(const kern_rope_store *op, float *heads, uint32_t count,
                       const float *weight) {
    uint32_t dim = op->kv.shape->head_dim;
    if (!weight) return;
    for (float *head = heads; head < heads + (size_t)count * dim; head += dim) {
        float mean = v_sum_of_squares(head, dim) / (float)dim;
        float factor = 1.0f / sqrtf(mean + op->norm_eps);
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

static void row_to_bf16(const float *row, uint16_t *out, uint32_t dim) {
    uint32_t i = 0;
    for (; i + LANES <= dim; i += LANES)
        v_store_bf16(out + i, v_load(row + i));
    for (; i < dim; i++)
        out[i] = bf16_of_f32(row[i]);
}

static void store_bf16(uint16_t *k_block, uint16_t *v_block, const float *k, const float *v,
                       uint32_t slot, uint32_t dim) {
    uint16_t key[CPU_HEAD_DIM_MAX];
    row_to_bf16(v, v_block + (size_t)slot * cpu_round_up(dim, TILE_ROWS), dim);
    row_to_bf16(k, key, dim);
    for (uint32_t i = 0; i < dim; i++)
        k_block[i * KV_PAGE_TOKENS + slot] = key[i];
}

static void store_f32(float *k_block, float *v_block, const float *k, const float *v, uint32_t slot,
                      uint32_t dim) {
    float *v_row = v_block + (size_t)slot * cpu_round_up(dim, TILE_ROWS);
    for (uint32_t i = 0; i < dim; i++) {
        k_block[i * KV_PAGE_TOKENS + slot] = k[i];
        v_row[i] = v[i];
    }
}

static void rope_token(const rope_job *job, uint32_t t) {
    const kern_rope_store *op = job->op;
    const kern_kv_shape *shape = op->kv.shape;
    uint32_t dim = shape->head_dim, position = op->batch->positions[t];
    uint32_t slot = position % KV_PAGE_TOKENS, pairs = op->rotary / 2;
    uint32_t frame =
        cpu_block_table(op->batch, &op->kv, op->batch->token_seq[t])[position / KV_PAGE_TOKENS];
    float *q = (float *)op->qkv + (size_t)t * (op->heads + 2 * shape->kv_heads) * dim;
    float *k = q + (size_t)op->heads * dim, *v = k + (size_t)shape->kv_heads * dim;
    const float *angles = angles_of(op, t);
    norm_heads(op, q, op->heads, op->q_norm);
    norm_heads(op, k, shape->kv_heads, op->k_norm);
    for (float *head = q; head < v && pairs > 0; head += dim) {
        if (op->interleaved)
            rotate_pairs(head, angles, pairs);
        else
            rotate_halves(head, head + pairs, angles, pairs);
    }
    for (uint32_t h = 0; h < shape->kv_heads; h++, k += dim, v += dim) {
        void *k_block = cpu_kv_block(job->dev, &op->kv, frame, 0, h);
        void *v_block = cpu_kv_block(job->dev, &op->kv, frame, 1, h);
        if (job->dev->kv_dtype == DT_BF16)
            store_bf16(k_block, v_block, k, v, slot, dim);
        else
            store_f32(k_block, v_block, k, v, slot, dim);
    }
}

static void rope_tokens(void *arg, uint32_t worker, uint32_t workers) {
    const rope_job *job = arg;
    uint32_t begin, end;
    pool_share(job->op->batch->token_count, 1, worker, workers, &begin, &end);
    for (uint32_t t = begin; t < end; t++)
        rope_token(job, t);
}

void LEVEL_NAME(level_rope_store)(kern_device *dev, const kern_rope_store *op) {
    rope_job job = {.dev = dev, .op = op};
    if (op->batch->token_count <= ALONE_TOKENS)
        rope_tokens(&job, 0, 1);
    else
        pool_run(dev->pool, rope_tokens, &job);
}
