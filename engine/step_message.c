/* step_message.c - arrays side by side. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/step_message.h"

#include <string.h>

#include "engine/base/status.h"

enum { TOKEN_ARRAYS = 3, SEQ_ARRAYS = 4 };

static size_t table_words(const step_header *h) {
    return (size_t)h->group_count * h->seq_count * h->table_stride;
}

size_t step_message_bytes(const step_header *h) {
    size_t words = (size_t)TOKEN_ARRAYS * h->token_count + (size_t)SEQ_ARRAYS * h->seq_count +
                   h->row_count + table_words(h) + h->adapter_count;
    return words * sizeof(uint32_t) + h->seq_count;
}

/* Pages of the longest sequence. */
static uint32_t pages_used(const step_batch *b) {
    uint32_t most = 0;
    for (uint32_t s = 0; s < b->seq_count; s++) {
        uint32_t tokens = b->seq_cached[s] + b->seq_tokens[s];
        uint32_t pages = (tokens + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
        if (pages > most) most = pages;
    }
    ESP_ASSERT(most <= b->table_stride);
    return most;
}

step_header step_header_of(const step_batch *b, uint32_t adapter_count) {
    return (step_header){.kind = STEP_RUN,
                         .token_count = b->token_count,
                         .seq_count = b->seq_count,
                         .row_count = b->row_count,
                         .group_count = b->group_count,
                         .table_stride = pages_used(b),
                         .adapter_count = adapter_count};
}

/* Copies count words and returns where the next array begins. */
static uint32_t *put(uint32_t *to, const void *from, size_t count) {
    memcpy(to, from, count * sizeof *to);
    return to + count;
}

void step_message_write(const step_batch *b, const uint32_t *adapters, const step_header *h,
                        void *to) {
    uint32_t *at = to;
    at = put(at, b->ids, h->token_count);
    at = put(at, b->positions, h->token_count);
    at = put(at, b->token_seq, h->token_count);
    at = put(at, b->seq_first, h->seq_count);
    at = put(at, b->seq_tokens, h->seq_count);
    at = put(at, b->seq_cached, h->seq_count);
    at = put(at, b->seq_adapter, h->seq_count);
    at = put(at, b->rows, h->row_count);
    for (uint32_t i = 0; i < h->group_count * h->seq_count; i++)
        at = put(at, b->tables + (size_t)i * b->table_stride, h->table_stride);
    if (h->adapter_count) at = put(at, adapters, h->adapter_count);
    if (b->seq_long)
        memcpy(at, b->seq_long, h->seq_count);
    else
        memset(at, 0, h->seq_count);
}

bool step_header_fits(const step_header *h, const step_header *most) {
    return h->kind == STEP_RUN && h->token_count > 0 && h->token_count <= most->token_count &&
           h->seq_count > 0 && h->seq_count <= most->seq_count && h->row_count <= most->row_count &&
           h->group_count == most->group_count && h->table_stride <= most->table_stride &&
           h->adapter_count <= most->adapter_count;
}

static uint32_t *take(uint32_t **at, size_t count) {
    uint32_t *own = *at;
    *at += count;
    return own;
}

step_batch step_message_read(const step_header *h, void *message, const uint32_t **adapters) {
    uint32_t *at = message;
    step_batch b = {.token_count = h->token_count,
                    .seq_count = h->seq_count,
                    .row_count = h->row_count,
                    .group_count = h->group_count,
                    .table_stride = h->table_stride};
    b.ids = (int32_t *)take(&at, h->token_count);
    b.positions = take(&at, h->token_count);
    b.token_seq = take(&at, h->token_count);
    b.seq_first = take(&at, h->seq_count);
    b.seq_tokens = take(&at, h->seq_count);
    b.seq_cached = take(&at, h->seq_count);
    b.seq_adapter = (int32_t *)take(&at, h->seq_count);
    b.rows = take(&at, h->row_count);
    b.tables = take(&at, table_words(h));
    *adapters = take(&at, h->adapter_count);
    b.seq_long = (uint8_t *)at;
    return b;
}
