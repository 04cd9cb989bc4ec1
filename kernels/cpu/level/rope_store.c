/* rope_store.c - norms and rotates q and k; stores k and v into the pages.
 *
 * In      qkv [T, (heads + 2*kv_heads) * D] f32; cos_sin [positions, rotary/2, 2] f32;
 *         q_norm, k_norm [D] f32 or none
 * Out     q in place (k too, as scratch); pages as cpu.h says, bf16 or f32
 * Work    split over tokens, those of one sequence and page together; few stay on the caller
 * Source  RoFormer, arXiv:2104.09864 */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/level/simd.h"

enum {
    ALONE_TOKENS = 8,
    FETCH_TOKENS = 4, /* of a run that is fetched */
};

typedef struct rope_job {
    const kern_device *dev;
    const kern_rope_store *op;
    size_t stride; /* of a token in qkv */
} rope_job;

/* Neighbours turn together, in each of `count` heads. */
static void rotate_pairs(float *heads, uint32_t count, uint32_t dim, const float *cos_sin,
                         uint32_t pairs) {
    uint32_t i = 0;
    for (; i + LANES <= 2 * pairs; i += LANES) {
        vf angles = v_load(cos_sin + i), c = v_each_even(angles), s = v_each_odd(angles);
        for (float *x = heads + i; x < heads + (size_t)count * dim; x += dim) {
            vf a = v_load(x);
            v_store(x, v_sub_add(v_mul(a, c), v_mul(v_swap_pairs(a), s)));
        }
    }
    for (i /= 2; i < pairs; i++) {
        float c = cos_sin[2 * i], s = cos_sin[2 * i + 1];
        for (float *head = heads; head < heads + (size_t)count * dim; head += dim) {
            float x = head[2 * i], y = head[2 * i + 1];
            head[2 * i] = x * c - y * s;
            head[2 * i + 1] = y * c + x * s;
        }
    }
}

/* Dim i turns with dim i + pairs. */
static void rotate_halves(float *heads, uint32_t count, uint32_t dim, const float *cos_sin,
                          uint32_t pairs) {
    uint32_t i = 0;
    for (; i + LANES <= pairs; i += LANES) {
        vf first = v_load(cos_sin + 2 * i), second = v_load(cos_sin + 2 * i + LANES);
        vf c = v_evens(first, second), s = v_odds(first, second);
        for (float *low = heads + i; low < heads + (size_t)count * dim; low += dim) {
            vf x = v_load(low), y = v_load(low + pairs);
            v_store(low, v_sub(v_mul(x, c), v_mul(y, s)));
            v_store(low + pairs, v_add(v_mul(y, c), v_mul(x, s)));
        }
    }
    for (; i < pairs; i++) {
        float c = cos_sin[2 * i], s = cos_sin[2 * i + 1];
        for (float *low = heads + i; low < heads + (size_t)count * dim; low += dim) {
            float x = low[0], y = low[pairs];
            low[0] = x * c - y * s;
            low[pairs] = y * c + x * s;
        }
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

static void turn_token(const rope_job *job, uint32_t t) {
    const kern_rope_store *op = job->op;
    uint32_t dim = op->kv.shape->head_dim, kv_heads = op->kv.shape->kv_heads;
    float *q = (float *)op->qkv + t * job->stride, *k = q + (size_t)op->heads * dim;
    norm_heads(op, q, op->heads, op->q_norm);
    norm_heads(op, k, kv_heads, op->k_norm);
    if (op->rotary == 0) return;
    (op->interleaved ? rotate_pairs : rotate_halves)(q, op->heads + kv_heads, dim, angles_of(op, t),
                                                     op->rotary / 2);
}

/* --- pages -------------------------------------------------------------------------------- */

/* Tokens of one sequence whose slots lie side by side in a page. */
typedef struct page_run {
    uint32_t first, count; /* tokens */
    uint32_t frame, slot;
} page_run;

/* Rounds count floats and puts zeros behind them, up to width. */
static void halve_row(const float *in, uint32_t count, uint16_t *out, uint32_t width) {
    uint32_t i = 0;
    for (; i + LANES <= count; i += LANES)
        v_store_bf16(out + i, v_load(in + i));
    for (; i < count; i++)
        out[i] = bf16_of_f32(in[i]);
    memset(out + count, 0, (width - count) * sizeof *out);
}

/* in: the first token's head. A row of the block is a slot. */
static void store_rows(const rope_job *job, const page_run *run, const float *in, void *block,
                       uint32_t width) {
    uint32_t dim = job->op->kv.shape->head_dim;
    for (uint32_t i = 0; i < run->count; i++, in += job->stride) {
        size_t at = (size_t)(run->slot + i) * width;
        if (job->dev->kv_dtype == DT_BF16)
            halve_row(in, dim, (uint16_t *)block + at, width);
        else
            memcpy((float *)block + at, in, dim * sizeof *in);
    }
}

/* 8 x 8 words. Rows i and i + 4 interleaved become rows 2i and 2i + 1: that moves the top bit of a
 * word's row below its column, and the column's top bit below the row; three times, and they have
 * changed places. */
static void transpose_words(const uint16_t *in, uint16_t *out) {
    __m128i rows[8], mixed[8];
    for (int i = 0; i < 8; i++)
        rows[i] = _mm_loadu_si128((const __m128i *)(in + i * TILE_ROWS));
    for (int pass = 0; pass < 3; pass++) {
        for (int i = 0; i < 4; i++) {
            mixed[2 * i] = _mm_unpacklo_epi16(rows[i], rows[i + 4]);
            mixed[2 * i + 1] = _mm_unpackhi_epi16(rows[i], rows[i + 4]);
        }
        memcpy(rows, mixed, sizeof rows);
    }
    for (int i = 0; i < 8; i++)
        _mm_storeu_si128((__m128i *)(out + i * KV_PAGE_TOKENS), rows[i]);
}

/* rows: [16 slots][16 dims]; out: [16 dims][16 slots]. */
static void transpose_page(const uint16_t *rows, uint16_t *out) {
    for (int slot = 0; slot < KV_PAGE_TOKENS; slot += 8)
        for (int d = 0; d < TILE_ROWS; d += 8)
            transpose_words(rows + slot * TILE_ROWS + d, out + d * KV_PAGE_TOKENS + slot);
}

/* Sixteen dims of each token, then token after token beside each other. Dims from D to the block's
 * width hold anything. */
static void store_columns_bf16(const page_run *run, const float *in, size_t stride, uint16_t *block,
                               uint32_t dim) {
    uint16_t rows[KV_PAGE_TOKENS][TILE_ROWS];
    for (uint32_t d = 0; d < dim; d += TILE_ROWS) {
        uint32_t count = dim - d < TILE_ROWS ? dim - d : TILE_ROWS;
        for (uint32_t i = 0; i < run->count; i++)
            halve_row(in + i * stride + d, count, rows[i], TILE_ROWS);
        uint16_t *out = block + d * KV_PAGE_TOKENS;
        if (run->count == KV_PAGE_TOKENS) {
            transpose_page(rows[0], out);
            continue;
        }
        for (uint32_t k = 0; k < count; k++, out += KV_PAGE_TOKENS)
            for (uint32_t i = 0; i < run->count; i++)
                out[run->slot + i] = rows[i][k];
    }
}

/* A row of the block is a dim. */
static void store_columns(const rope_job *job, const page_run *run, const float *in, void *block) {
    uint32_t dim = job->op->kv.shape->head_dim;
    if (job->dev->kv_dtype == DT_BF16) {
        store_columns_bf16(run, in, job->stride, block, dim);
        return;
    }
    float *out = (float *)block + run->slot;
    for (uint32_t d = 0; d < dim; d++, out += KV_PAGE_TOKENS)
        for (uint32_t i = 0; i < run->count; i++)
            out[i] = in[i * job->stride + d];
}

/* The AMX level multiplies values of all slots, those to come by 0: what was there before goes. */
static void store_tile_head(const rope_job *job, const page_run *run, const float *k,
                            const float *v, void *keys, void *values) {
    const kern_kv_shape *shape = job->op->kv.shape;
    if (run->slot == 0 && run->count < KV_PAGE_TOKENS)
        memset(values, 0, (size_t)cpu_value_width(shape) * KV_PAGE_TOKENS * sizeof(uint16_t));
    store_rows(job, run, k, keys, cpu_key_width(job->dev, shape));
    store_columns(job, run, v, values);
}

static void store_run(const rope_job *job, const page_run *run) {
    const kern_rope_store *op = job->op;
    const kern_kv_shape *shape = op->kv.shape;
    uint32_t dim = shape->head_dim;
    const float *k = (const float *)op->qkv + run->first * job->stride + (size_t)op->heads * dim;
    const float *v = k + (size_t)shape->kv_heads * dim;
    for (uint32_t h = 0; h < shape->kv_heads; h++, k += dim, v += dim) {
        void *keys = cpu_kv_block(job->dev, &op->kv, run->frame, false, h);
        void *values = cpu_kv_block(job->dev, &op->kv, run->frame, true, h);
        if (job->dev->tile_pages) {
            store_tile_head(job, run, k, v, keys, values);
        } else {
            store_columns(job, run, k, keys);
            store_rows(job, run, v, values, cpu_value_width(shape));
        }
    }
}

/* --- the op ------------------------------------------------------------------------------- */

static bool begins_run(const step_batch *batch, uint32_t t) {
    return t == batch->seq_first[batch->token_seq[t]] || batch->positions[t] % KV_PAGE_TOKENS == 0;
}

static uint32_t next_run(const step_batch *batch, uint32_t t) {
    while (t < batch->token_count && !begins_run(batch, t))
        t++;
    return t;
}

static page_run run_at(const rope_job *job, uint32_t t) {
    const step_batch *batch = job->op->batch;
    uint32_t position = batch->positions[t];
    const uint32_t *table = cpu_block_table(batch, &job->op->kv, batch->token_seq[t]);
    return (page_run){.first = t,
                      .count = next_run(batch, t + 1) - t,
                      .frame = table[position / KV_PAGE_TOKENS],
                      .slot = position % KV_PAGE_TOKENS};
}

static void fetch_lines(const void *at, size_t bytes) {
    for (size_t i = 0; i < bytes; i += CACHE_LINE_BYTES)
        __builtin_prefetch((const char *)at + i, 1);
}

/* What a run of few tokens changes: a line for each two dims of a slot, which nobody has touched since the
 * sequence's last token. Longer ones fill whole lines. */
static void fetch_run(const rope_job *job, const page_run *run) {
    const kern_rope_store *op = job->op;
    const kern_kv_shape *shape = op->kv.shape;
    const size_t element = cpu_kv_element_bytes(job->dev);
    const size_t row =
        (job->dev->tile_pages ? cpu_key_width(job->dev, shape) : cpu_value_width(shape)) * element;
    if (run->count > FETCH_TOKENS) return;
    fetch_lines((const float *)op->qkv + run->first * job->stride, job->stride * sizeof(float));
    for (uint32_t h = 0; h < shape->kv_heads; h++)
        for (uint32_t values = 0; values < 2; values++) {
            const char *block = cpu_kv_block(job->dev, &op->kv, run->frame, values, h);
            bool columns = values == job->dev->tile_pages;
            size_t bytes = columns ? shape->head_dim * KV_PAGE_TOKENS * element : row;
            fetch_lines(columns ? block : block + run->slot * row, bytes);
        }
}

/* The runs that begin among a worker's tokens, each of which is fetched while the one before is worked on. */
static void rope_tokens(void *arg, uint32_t worker, uint32_t workers) {
    const rope_job *job = arg;
    uint32_t begin, end;
    pool_share(job->op->batch->token_count, 1, worker, workers, &begin, &end);
    uint32_t t = next_run(job->op->batch, begin);
    if (t >= end) return;
    page_run next = run_at(job, t);
    fetch_run(job, &next);
    while (t < end) {
        page_run run = next;
        if (run.first + run.count < end) {
            next = run_at(job, run.first + run.count);
            fetch_run(job, &next);
        }
        for (uint32_t last = t + run.count; t < last; t++)
            turn_token(job, t);
        store_run(job, &run);
    }
}

void LEVEL_NAME(level_rope_store)(kern_device *dev, const kern_rope_store *op) {
    const kern_kv_shape *shape = op->kv.shape;
    rope_job job = {.dev = dev,
                    .op = op,
                    .stride = (size_t)(op->heads + 2 * shape->kv_heads) * shape->head_dim};
    if (op->batch->token_count <= ALONE_TOKENS)
        rope_tokens(&job, 0, 1);
    else
        pool_run(dev->pool, rope_tokens, &job);
}
