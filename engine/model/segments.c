/* segments.c - runs of equal adapters in a batch -> segments of one linear. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/segments.h"

#include <stdlib.h>

#include "engine/base/mem.h"

void segments_open(segments *s, uint32_t tokens_max, uint32_t rows_max) {
    s->tokens.at = mem_new(tokens_max, sizeof *s->tokens.at);
    s->rows.at = mem_new(rows_max, sizeof *s->rows.at);
    for (uint32_t i = 0; i < 2; i++)
        s->made[i] = mem_new(tokens_max > rows_max ? tokens_max : rows_max, sizeof *s->made[i]);
}

void segments_close(segments *s) {
    free(s->tokens.at);
    free(s->rows.at);
    free(s->made[0]);
    free(s->made[1]);
}

/* ---- runs ---- */

static void add(adapter_runs *runs, uint32_t first, uint32_t count, const model_adapter *adapter) {
    adapter_run *last = runs->count ? &runs->at[runs->count - 1] : NULL;
    if (last && last->adapter == adapter)
        last->count += count;
    else
        runs->at[runs->count++] = (adapter_run){first, count, adapter};
}

static const model_adapter *adapter_of(const step_batch *batch, uint32_t seq,
                                       const model_adapter *const *adapters) {
    int32_t slot = batch->seq_adapter[seq];
    return slot == BATCH_NO_ADAPTER ? NULL : adapters[slot];
}

static bool has_adapters(const step_batch *batch) {
    for (uint32_t s = 0; s < batch->seq_count; s++)
        if (batch->seq_adapter[s] != BATCH_NO_ADAPTER) return true;
    return false;
}

void segments_plan(segments *s, const step_batch *batch, const model_adapter *const *adapters) {
    s->tokens.count = s->rows.count = 0;
    if (!has_adapters(batch)) return;
    ESP_ASSERT(adapters);
    for (uint32_t q = 0; q < batch->seq_count; q++)
        add(&s->tokens, batch->seq_first[q], batch->seq_tokens[q], adapter_of(batch, q, adapters));
    for (uint32_t r = 0; r < batch->row_count; r++)
        add(&s->rows, r, 1, adapter_of(batch, batch->token_seq[batch->rows[r]], adapters));
}

/* ---- segments ---- */

static const kern_lora *update_of(const model_adapter *a, kern_role role, uint32_t layer) {
    if (!a) return NULL;
    if (role == ROLE_HEAD) return a->head;
    const kern_lora *const *of_layers = a->linears[role - ROLE_QKV];
    return of_layers ? of_layers[layer] : NULL;
}

/* The updates of those runs that lie in [first, first + count). */
static lora_segments make(segments *s, const adapter_runs *runs, kern_role role, uint32_t layer,
                          uint32_t first, uint32_t count) {
    kern_lora_segment *at = s->made[s->turn];
    uint32_t made = 0;
    s->turn ^= 1;
    for (uint32_t i = 0; i < runs->count; i++) {
        const adapter_run *run = &runs->at[i];
        const kern_lora *update = update_of(run->adapter, role, layer);
        uint32_t begin = run->first > first ? run->first : first;
        uint32_t end = run->first + run->count;
        if (end > first + count) end = first + count;
        if (update && begin < end)
            at[made++] = (kern_lora_segment){begin - first, end - begin, update};
    }
    return (lora_segments){made ? at : NULL, made};
}

lora_segments segments_of_layer(segments *s, kern_role role, uint32_t layer) {
    ESP_ASSERT(role >= ROLE_QKV && role <= ROLE_DOWN);
    return make(s, &s->tokens, role, layer, 0, UINT32_MAX);
}

lora_segments segments_behind(segments *s, kern_role role, uint32_t layer, uint32_t layers) {
    if (role != ROLE_DOWN) return segments_of_layer(s, role + 1, layer);
    return layer + 1 < layers ? segments_of_layer(s, ROLE_QKV, layer + 1) : (lora_segments){0};
}

lora_segments segments_of_head(segments *s, uint32_t first, uint32_t count) {
    return make(s, &s->rows, ROLE_HEAD, 0, first, count);
}
