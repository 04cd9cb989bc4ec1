/* gpu_batch.c - step batches of equal sequences. */
// SPDX-License-Identifier: Apache-2.0
#include "bench/gpu/gpu_batch.h"

#include <stdlib.h>

#include "engine/base/mem.h"

static void take_arrays(step_batch *b) {
    b->ids = mem_new(b->token_count, sizeof *b->ids);
    b->positions = mem_new(b->token_count, sizeof *b->positions);
    b->token_seq = mem_new(b->token_count, sizeof *b->token_seq);
    b->seq_first = mem_new(b->seq_count, sizeof *b->seq_first);
    b->seq_tokens = mem_new(b->seq_count, sizeof *b->seq_tokens);
    b->seq_cached = mem_new(b->seq_count, sizeof *b->seq_cached);
    b->seq_adapter = mem_new(b->seq_count, sizeof *b->seq_adapter);
    b->rows = mem_new(b->row_count, sizeof *b->rows);
    b->tables = mem_new((size_t)b->seq_count * b->table_stride, sizeof *b->tables);
}

step_batch gpu_batch_of(uint32_t seqs, uint32_t cached, uint32_t tokens) {
    step_batch b = {.token_count = seqs * tokens,
                    .seq_count = seqs,
                    .row_count = seqs,
                    .group_count = 1,
                    .table_stride = (cached + tokens + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS};
    take_arrays(&b);
    for (uint32_t t = 0; t < b.token_count; t++) {
        b.ids[t] = (int32_t)(t % 200);
        b.positions[t] = cached + t % tokens;
        b.token_seq[t] = t / tokens;
    }
    for (uint32_t s = 0; s < seqs; s++) {
        b.seq_first[s] = s * tokens;
        b.seq_tokens[s] = tokens;
        b.seq_cached[s] = cached;
        b.seq_adapter[s] = BATCH_NO_ADAPTER;
        b.rows[s] = (s + 1) * tokens - 1;
    }
    for (uint32_t i = 0; i < gpu_batch_frames(&b); i++)
        b.tables[i] = i;
    return b;
}

uint32_t gpu_batch_frames(const step_batch *batch) {
    return batch->seq_count * batch->table_stride;
}

void gpu_batch_free(step_batch *b) {
    void *arrays[] = {b->ids,        b->positions,   b->token_seq, b->seq_first, b->seq_tokens,
                      b->seq_cached, b->seq_adapter, b->rows,      b->tables};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
}
