/* collect.c - stage 4 of a step: the rows of the oldest step in flight become tokens, or vectors, and some requests end. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/engine_parts.h"

/* Why the request ends with this token, or FINISH_NONE. */
static finish_reason judge(engine *e, request *r, int32_t id) {
    const tokenizer *tok = r->tok ? r->tok : e->tok;
    if (!r->ignore_eos && tok_ends_generation(tok, id)) return FINISH_STOP;
    if (r->stops.count) {
        char text[TEXT_PIECE_MAX];
        text_next(&r->scan, tok, &r->stops, id, text);
        if (r->scan.stopped) return FINISH_STOP;
    }
    return r->output_count == r->output_max ? FINISH_LENGTH : FINISH_NONE;
}

static void keep_logprobs(request *r, const sample_result *result) {
    uint32_t i = r->output_count, width = r->policy.top_logprobs;
    if (r->logprobs) r->logprobs[i] = result->logprob;
    if (r->top) memcpy(r->top + (size_t)i * width, result->top, width * sizeof *r->top);
}

static void keep_token(engine *e, request *r, const sample_result *result, int64_t now_us) {
    keep_logprobs(r, result);
    r->tokens[r->prompt_count + r->output_count++] = result->id;
    engine_count(&e->counters.output_tokens, 1);
    if (!r->first_token_us) {
        r->first_token_us = now_us;
        engine_observe(&e->counters.ttft, now_us - r->submitted_us);
    } else {
        r->itl_count[engine_observe(&e->counters.itl, now_us - r->last_token_us)]++;
    }
    r->last_token_us = now_us;
    atomic_store_explicit(&r->published, r->output_count, memory_order_release);
}

/* Of the next token that is not known, where all before it are. */
static void ask_for_token(sample_row *row, const request *r) {
    row->policy = &r->policy;
    row->history = (sample_history){.tokens = r->tokens,
                                    .prompt_count = r->prompt_count,
                                    .count = r->prompt_count + r->output_count};
    row->digest = r->row_digests ? &r->row_digests[r->output_count] : NULL;
}

static void collect_row(engine *e, const sched_work *work, const sample_row *row, int64_t now_us) {
    request *r = work->owner;
    /* It ended with the step before, or meanwhile: computed for nothing. */
    if (!sched_lives(e->sched, work->seq)) return;
    r->ahead--;
    /* A fault inside one sequence ends that sequence only. */
    if (row->code != ESP_OK) {
        sched_finish(e->sched, now_us, work->seq);
        engine_end_request(e, r, FINISH_ERROR, &row->error);
        return;
    }
    keep_token(e, r, &row->result, now_us);
    finish_reason reason = judge(e, r, row->result.id);
    if (reason == FINISH_NONE && atomic_load_explicit(&r->cancel_asked, memory_order_relaxed)) {
        sched_finish(e->sched, now_us, work->seq);
        engine_end_with(e, r, ESP_CANCELLED);
        return;
    }
    if (reason == FINISH_NONE) {
        engine_tell(e, r);
    } else {
        sched_finish(e->sched, now_us, work->seq);
        engine_end_request(e, r, reason, NULL);
    }
}

static bool all_finite(const float *values, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        if (!isfinite(values[i])) return false;
    return true;
}

/* The text's vector, be it its labels' logits, and the end of its request. */
static void collect_embedding(engine *e, const sched_work *work, const float *row, int64_t now_us) {
    request *r = work->owner;
    esp_error error = {0};
    memcpy(r->embedding, row, r->embedding_width * sizeof *row);
    r->first_token_us = r->last_token_us = now_us;
    sched_finish(e->sched, now_us, work->seq);
    if (!all_finite(row, r->embedding_width)) {
        esp_fail(&error, ESP_INTERNAL, "the %s of this input %s not finite",
                 r->classifies ? "scores" : "embedding", r->classifies ? "are" : "is");
        engine_end_request(e, r, FINISH_ERROR, &error);
        return;
    }
    if (!r->classifies) engine_count(&e->counters.embeddings, 1);
    engine_end_request(e, r, FINISH_STOP, NULL);
}

static esp_code collect_embeddings(engine *e, const step_flight *f, esp_error *err) {
    if (f->row_count == 0) return ESP_OK;
    const float *rows;
    esp_code code = model_pooled(e->model, &rows, err);
    if (code != ESP_OK) return code;
    uint32_t width = model_get_spec(e->model)->hidden;
    int64_t now_us = clock_now_us();
    for (uint32_t i = 0; i < f->row_count; i++)
        collect_embedding(e, &f->works[f->row_work[i]], rows + (size_t)i * width, now_us);
    return ESP_OK;
}

bool engine_is_classifier(const request *r) {
    return r->adapter && adapter_label_count(r->adapter);
}

/* A row of a classifier: its labels' logits, which is no row to pick a token from. That an adapter is one is
 * not known before it is read, so that some ask it for tokens. */
static void collect_scores(engine *e, const sched_work *work, const float *row, int64_t now_us) {
    request *r = work->owner;
    esp_error error = {0};
    if (r->classifies) {
        collect_embedding(e, work, row, now_us);
        return;
    }
    sched_finish(e->sched, now_us, work->seq);
    engine_refuse_classifier(r, &error);
    engine_end_request(e, r, FINISH_ERROR, &error);
}

/* At most MODEL_LOGITS_ROWS rows, from `first` on, that the host picks. Those of classifiers are none to pick from. */
static esp_code collect_logits(engine *e, const step_flight *f, uint32_t first, uint32_t count,
                               esp_error *err) {
    sample_row *rows = sample_rows_at(e->sampling);
    const sched_work *works[MODEL_LOGITS_ROWS];
    logits_row logits[MODEL_LOGITS_ROWS];
    uint32_t asked = 0;
    esp_code code = model_logits(e->model, first, count, logits, err);
    if (code != ESP_OK) return code;
    int64_t now_us = clock_now_us();
    for (uint32_t i = 0; i < count; i++) {
        const sched_work *work = &f->works[f->row_work[first + i]];
        request *r = work->owner;
        if (!sched_lives(e->sched, work->seq)) continue;
        if (engine_is_classifier(r)) {
            collect_scores(e, work, logits[i].at, now_us);
            continue;
        }
        ask_for_token(&rows[asked], r);
        rows[asked].logits = logits[i].at;
        rows[asked].vocab = logits[i].vocab;
        works[asked++] = work;
    }
    sample_rows_pick(e->sampling, asked);
    now_us = clock_now_us();
    for (uint32_t i = 0; i < asked; i++)
        collect_row(e, works[i], &rows[i], now_us);
    return ESP_OK;
}

/* The same of rows that the device picked. */
static esp_code collect_picks(engine *e, const step_flight *f, uint32_t first, uint32_t count,
                              esp_error *err) {
    sample_row *rows = sample_rows_at(e->sampling);
    for (uint32_t i = 0; i < count; i++) {
        const sched_work *work = &f->works[f->row_work[first + i]];
        rows[i] = (sample_row){0};
        if (sched_lives(e->sched, work->seq)) ask_for_token(&rows[i], work->owner);
    }
    esp_code code = model_picked(e->model, f->row_count, first, count, rows, err);
    if (code != ESP_OK) return code;
    int64_t now_us = clock_now_us();
    for (uint32_t i = 0; i < count; i++)
        collect_row(e, &f->works[f->row_work[first + i]], &rows[i], now_us);
    return ESP_OK;
}

static esp_code collect_tokens(engine *e, const step_flight *f, esp_error *err) {
    for (uint32_t first = 0; first < f->row_count; first += MODEL_LOGITS_ROWS) {
        uint32_t left = f->row_count - first;
        uint32_t count = left < MODEL_LOGITS_ROWS ? left : MODEL_LOGITS_ROWS;
        esp_code code = (f->picked ? collect_picks : collect_logits)(e, f, first, count, err);
        if (code != ESP_OK) return code;
    }
    return ESP_OK;
}

esp_code engine_collect(engine *e, esp_error *err) {
    ESP_ASSERT(e->flight_count > 0);
    const step_flight *f = &e->flights[e->flight_first];
    esp_code code = (engine_embeds(e) ? collect_embeddings : collect_tokens)(e, f, err);
    engine_forget_flight(e);
    return code;
}

void engine_forget_flight(engine *e) {
    const step_flight *f = &e->flights[e->flight_first];
    sched_collected(e->sched, f->works, f->work_count);
    e->flight_first = (e->flight_first + 1) % SCHED_FLIGHTS_MAX;
    e->flight_count--;
    e->collected = true;
}
