/* prompt_logits.c - the logits of every position of one prompt, by an engine that does nothing else. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/engine_parts.h"

enum { WAIT_US = 1000000 };

/* One prompt on its way. */
typedef struct prompt {
    engine *e;
    const int32_t *ids;
    uint32_t count;
    adapter *ad;                  /* NULL: the base */
    const model_adapter *through; /* what forward reads of it */
    uint32_t *frames;             /* [frame_count] its pages, leased */
    uint32_t frame_count;
} prompt;

static uint32_t group_pages(const prompt *p, uint32_t g) {
    uint32_t window = model_page_groups(p->e->model)->windows[g];
    return kv_group_pages(window, p->e->config.step_tokens, p->count);
}

/* A ring of pages for each group, long enough for all tokens or for what one step touches. */
static void fill_tables(const prompt *p) {
    step_batch *b = &p->e->batch;
    const uint32_t *frames = p->frames;
    for (uint32_t g = 0; g < b->group_count; g++) {
        uint32_t pages = group_pages(p, g);
        for (uint32_t i = 0; i < b->table_stride; i++)
            b->tables[g * b->table_stride + i] = frames[i % pages];
        frames += pages;
    }
}

/* Tokens [first, first + count). */
static void fill_batch(const prompt *p, uint32_t first, uint32_t count) {
    step_batch *b = &p->e->batch;
    b->token_count = b->row_count = count;
    b->seq_count = 1;
    b->seq_first[0] = 0;
    b->seq_tokens[0] = count;
    b->seq_cached[0] = first;
    b->seq_adapter[0] = p->through ? 0 : BATCH_NO_ADAPTER;
    p->e->step_adapter_count = p->through ? 1 : 0;
    if (p->through) p->e->step_ids[0] = adapter_rank_id(p->ad);
    b->seq_long[0] = p->count > spec_short_context(model_get_spec(p->e->model));
    for (uint32_t i = 0; i < count; i++) {
        b->ids[i] = p->ids[first + i];
        b->positions[i] = first + i;
        b->token_seq[i] = 0;
        b->rows[i] = i;
    }
    fill_tables(p);
}

static esp_code check(engine *e, uint32_t count, esp_error *err) {
    if (engine_embeds(e))
        return esp_fail_field(err, ESP_PRECONDITION, "--model",
                              "--model: \"%s\" embeds texts; it has no logits", e->name);
    if (count == 0 || count > e->config.max_context ||
        kv_pages_for(sched_kv(e->sched), count) > e->page_count)
        return esp_fail_field(err, ESP_INVALID, "--ids",
                              "--ids: %u ids given; 1 to %u fit (--max-context, --kv-memory)",
                              count, e->config.max_context);
    return ESP_OK;
}

/* The adapter is there: it may have tokens of its own. */
static esp_code check_ids(const prompt *p, esp_error *err) {
    uint32_t vocab = p->through && p->through->vocab ? p->through->vocab : p->e->model_vocab;
    for (uint32_t i = 0; i < p->count; i++)
        if (p->ids[i] < 0 || (uint32_t)p->ids[i] >= vocab)
            return esp_fail_field(err, ESP_INVALID, "--ids",
                                  "--ids: %d at index %u is not in 0..%u", p->ids[i], i, vocab - 1);
    return ESP_OK;
}

/* Frames of its own, so that those of adapters stay as they are. */
static esp_code lease(prompt *p, esp_error *err) {
    for (uint32_t g = 0; g < p->e->batch.group_count; g++)
        p->frame_count += group_pages(p, g);
    p->frames = mem_new(p->frame_count, sizeof *p->frames);
    if (sched_lease(p->e->sched, p->frame_count, p->frames)) return ESP_OK;
    free(p->frames);
    p->frames = NULL;
    return esp_fail_field(err, ESP_INVALID, "--ids",
                          "--ids: %u ids take %u pages, of which adapters leave too few "
                          "(--kv-memory)",
                          p->count, p->frame_count);
}

/* Waits until the adapter has been brought. */
static esp_code hold(prompt *p, esp_error *err) {
    engine *e = p->e;
    sched_adapters how = adapters_for_scheduler(e->adapters);
    for (;;) {
        uint32_t seen = signal_seen(&e->inbox_signal);
        adapters_step(e->adapters, clock_now_us());
        sched_turn turn = how.hold(how.arg, p->ad, clock_now_us());
        if (turn == SCHED_HELD) break;
        if (turn == SCHED_NEVER) return adapter_error(p->ad, err);
        signal_wait(&e->inbox_signal, seen, WAIT_US);
    }
    p->through = adapter_resident(p->ad);
    if (p->through->score)
        return esp_fail_field(err, ESP_PRECONDITION, "--adapter",
                              "--adapter: %s is a classifier, and has no logits of tokens; use "
                              "espalier classify",
                              adapter_name(p->ad));
    return ESP_OK;
}

static void let_go(prompt *p) {
    if (p->through) {
        sched_adapters how = adapters_for_scheduler(p->e->adapters);
        how.drop(how.arg, p->ad);
    }
    if (p->frames) sched_return(p->e->sched, p->frame_count, p->frames);
    free(p->frames);
}

static esp_code run(const prompt *p, logits_sink sink, void *arg, esp_error *err) {
    engine *e = p->e;
    esp_code code = ESP_OK;
    uint32_t step = e->config.step_tokens;
    uint32_t chunk_max = step < MODEL_LOGITS_ROWS ? step : MODEL_LOGITS_ROWS;
    for (uint32_t first = 0; first < p->count && code == ESP_OK; first += chunk_max) {
        uint32_t left = p->count - first, chunk = left < chunk_max ? left : chunk_max;
        logits_row logits[MODEL_LOGITS_ROWS];
        fill_batch(p, first, chunk);
        if (e->comm) ranks_send(e, &e->batch);
        code = model_forward(e->model, &e->batch, &p->through, e->arena, err);
        if (code == ESP_OK) code = model_logits(e->model, 0, chunk, logits, err);
        for (uint32_t i = 0; i < chunk && code == ESP_OK; i++)
            code = sink(arg, first + i, logits[i].at, err);
    }
    return code;
}

esp_code engine_logits(engine *e, adapter *ad, const int32_t *ids, uint32_t count, logits_sink sink,
                       void *arg, esp_error *err) {
    ESP_ASSERT(!e->started && sched_idle(e->sched));
    prompt p = {.e = e, .ids = ids, .count = count, .ad = ad};
    esp_code code = check(e, count, err);
    if (code == ESP_OK && ad) code = hold(&p, err);
    if (code == ESP_OK) code = check_ids(&p, err);
    if (code == ESP_OK) code = lease(&p, err);
    if (code == ESP_OK) code = run(&p, sink, arg, err);
    let_go(&p);
    return code;
}
