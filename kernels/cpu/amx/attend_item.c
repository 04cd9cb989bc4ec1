/* attend_item.c - see attend_item.h. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/amx/attend_item.h"

#include "kernels/cpu/level/simd.h"

uint32_t attend_last_key(const kern_attention *op, uint32_t seq, uint32_t position) {
    return op->bidirectional ? op->batch->seq_tokens[seq] - 1 : position;
}
uint32_t attend_first_key(const kern_attention *op, uint32_t position) {
    return op->window && position >= op->window ? position - op->window + 1 : 0;
}

/* --- queries ------------------------------------------------------------------------------ */

static void prefetch_row(const float *row, uint32_t dim) {
    for (size_t at = 0; at < dim * sizeof *row; at += CACHE_LINE_BYTES)
        _mm_prefetch((const char *)row + at, _MM_HINT_T0);
}

static void open_query(const attention_job *job, const attention_item *item, uint32_t index,
                       query_tile *tile) {
    const kern_attention *op = job->op;
    uint32_t dim = op->kv.shape->head_dim, i = tile->count++;
    uint32_t t = op->batch->seq_first[item->seq] + index / job->group;
    uint32_t head = item->kv_head * job->group + index % job->group;
    uint32_t stride = op->heads + 2 * op->kv.shape->kv_heads;
    tile->in[i] = (const float *)op->qkv + ((size_t)t * stride + head) * dim;
    tile->out[i] = (uint16_t *)op->out + ((size_t)t * op->heads + head) * dim;
    tile->first[i] = attend_first_key(op, op->batch->positions[t]);
    tile->last[i] = attend_last_key(op, item->seq, op->batch->positions[t]);
}

/* The rows of all queries are fetched while the first are split. */
void attend_open_tiles(const attention_job *job, const attention_item *item, amx_attention *scratch,
                       query_tile *tiles, uint32_t first, uint32_t count) {
    uint32_t dim = job->op->kv.shape->head_dim;
    size_t queries = 2 * (size_t)job->shape.key_width * AMX_QUERIES;
    size_t outs = (size_t)job->shape.value_width * AMX_QUERIES;
    for (uint32_t i = 0; i < count; i++) {
        tiles[i].count = 0;
        tiles[i].queries = scratch->queries + (first + i) * queries;
        tiles[i].outs = scratch->outs + (first + i) * outs;
    }
    for (uint32_t index = item->begin; index < item->end; index++) {
        query_tile *tile = &tiles[(index - item->begin) / AMX_QUERIES];
        open_query(job, item, index, tile);
        prefetch_row(tile->in[tile->count - 1], dim);
    }
    for (uint32_t i = 0; i < count; i++)
        query_tile_open(&tiles[i], dim, job->op->scale * LOG2_E);
}

/* --- pages -------------------------------------------------------------------------------- */

static const void *block_at(const attention_job *job, const attention_item *item, uint32_t page,
                            bool values) {
    const kern_attention *op = job->op;
    uint32_t frame = cpu_block_table(op->batch, &op->kv, item->seq)[page];
    return cpu_kv_block(job->dev, &op->kv, frame, values, item->kv_head);
}

key_span attend_span_at(const attention_job *job, const attention_item *item, page_range sees,
                        uint32_t page) {
    key_span span = {.begin = page * KV_PAGE_TOKENS};
    for (uint32_t i = 0; i < AMX_SPAN_PAGES; i++, page++) {
        if (page < sees.first || page >= sees.end) continue;
        span.keys[i] = block_at(job, item, page, false);
        span.values[i] = block_at(job, item, page, true);
    }
    return span;
}

key_span attend_first_span(const attention_job *job, const attention_item *item) {
    const kern_attention *op = job->op;
    uint32_t t = op->batch->seq_first[item->seq] + item->begin / job->group;
    uint32_t position = op->batch->positions[t];
    page_range sees = {.first = attend_first_key(op, position) / KV_PAGE_TOKENS,
                       .end = attend_last_key(op, item->seq, position) / KV_PAGE_TOKENS + 1};
    return attend_span_at(job, item, sees, attend_span_begin(sees.first));
}
