/* loop.c - engine_step, the loop of the whole product, and its stages in order.
 *
 * A decode step allocates nothing, holds no lock, and wakes the stream side once. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/engine_parts.h"

/* Returns the bucket. */
static uint32_t observe(atomic_histogram *h, int64_t us) {
    uint32_t bucket = histogram_bucket(us);
    atomic_fetch_add_explicit(&h->count[bucket], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum_us, (uint64_t)(us > 0 ? us : 0), memory_order_relaxed);
    return bucket;
}

static void count_up(_Atomic uint64_t *counter, uint64_t by) {
    atomic_fetch_add_explicit(counter, by, memory_order_relaxed);
}

/* Puts the request into the news queue unless it is there already. The queue holds as many as may
 * live. */
static void tell(engine *e, request *r) {
    if (!atomic_load_explicit(&e->news_wanted, memory_order_acquire)) {
        if (atomic_load_explicit(&r->done, memory_order_relaxed)) engine_return_slot(e, r);
        return;
    }
    if (atomic_exchange_explicit(&r->in_news, true, memory_order_acq_rel)) return;
    request_ref(r);
    bool pushed = queue_push(e->news, r);
    ESP_ASSERT(pushed);
    e->had_news = true;
}

static void unlink_live(engine *e, request *r) {
    if (r->live_previous)
        r->live_previous->live_next = r->live_next;
    else
        e->live = r->live_next;
    if (r->live_next) r->live_next->live_previous = r->live_previous;
}

/* How long a refused client should wait: until about one place is free, from the pace of recent
 * ends. */
static void learn_pace(engine *e, int64_t now_us) {
    int64_t gap_ms = (now_us - e->last_end_us) / 1000;
    e->last_end_us = now_us;
    if (gap_ms > 60000) gap_ms = 60000;
    e->end_gap_ms = e->end_gap_ms ? (7 * e->end_gap_ms + gap_ms) / 8 : gap_ms;
    int64_t hint = e->end_gap_ms < 10 ? 10 : e->end_gap_ms;
    atomic_store_explicit(&e->counters.retry_ms, (uint32_t)hint, memory_order_relaxed);
}

void engine_end_request(engine *e, request *r, finish_reason reason, const esp_error *error) {
    r->finish = reason;
    if (error) r->error = *error;
    r->done_us = clock_now_us();
    r->in_scheduler = false;
    request_leave_adapter(r);
    learn_pace(e, r->done_us);
    count_up(&e->counters.finished[reason], 1);
    observe(&e->counters.e2e, r->done_us - r->submitted_us);
    unlink_live(e, r);
    atomic_store_explicit(&r->done, true, memory_order_release);
    tell(e, r);
    request_unref(r);
}

/* Known only now: how large its adapter is was not when it was submitted. */
static void say_too_large(const engine *e, const request *r, esp_error *error) {
    char label[REQUEST_ADAPTER_LABEL_BYTES];
    esp_fail_field(error, ESP_INVALID, "max_tokens",
                   "%u prompt tokens plus max_tokens %u and the frames of adapter %s are more than "
                   "the %u pages of the KV cache; ask for less or raise --kv-memory",
                   r->prompt_count, r->output_max, request_adapter_label(&r->by, label),
                   e->page_count);
}

static void end_with(engine *e, request *r, esp_code code) {
    esp_error error = {0};
    finish_reason reason = FINISH_ERROR;
    if (code == ESP_UNAVAILABLE) { /* its adapter cannot be brought */
        adapter_error(r->adapter, &error);
    } else if (code == ESP_EXHAUSTED) {
        say_too_large(e, r, &error);
    } else if (code == ESP_DEADLINE) {
        reason = FINISH_DEADLINE;
        esp_fail(&error, code, "the deadline passed after %u of at most %u output tokens",
                 r->output_count, r->output_max);
    } else {
        reason = FINISH_CANCELLED;
        esp_fail(&error, code, "the request was cancelled after %u output tokens", r->output_count);
    }
    engine_end_request(e, r, reason, &error);
}

/* ---- stage 1: what other threads asked for ---- */

static void take_submission(engine *e, request *r, int64_t now_us) {
    r->live_previous = NULL;
    r->live_next = e->live;
    if (e->live) e->live->live_previous = r;
    e->live = r;
    count_up(&e->counters.requests, 1);
    esp_error error = {0};
    if (e->broken || atomic_load_explicit(&e->stopping, memory_order_relaxed)) {
        if (e->broken)
            error = e->fault;
        else
            esp_fail(&error, ESP_UNAVAILABLE, "the engine is stopping");
        engine_end_request(e, r, FINISH_ERROR, &error);
        return;
    }
    if (atomic_load_explicit(&r->cancel_asked, memory_order_acquire)) {
        end_with(e, r, ESP_CANCELLED);
        return;
    }
    sched_request want = {.owner = r,
                          .prompt_tokens = r->prompt_count,
                          .output_max = r->output_max,
                          .prompt_only = r->embedding_width > 0,
                          .whole = spec_runs_whole(model_get_spec(e->model)),
                          .adapter = r->adapter,
                          .priority = r->priority,
                          .deadline_us = r->deadline_us};
    if (sched_submit(e->sched, now_us, &want, &r->seq, &error) != ESP_OK) {
        engine_end_request(e, r, FINISH_ERROR, &error);
        return;
    }
    r->in_scheduler = true;
}

static void take_submissions(engine *e, int64_t now_us) {
    for (request *r; (r = queue_pop(e->inbox));)
        take_submission(e, r, now_us);
}

static void take_cancels(engine *e) {
    for (request *r; (r = queue_pop(e->cancels));) {
        if (r->in_scheduler) sched_cancel(e->sched, r->seq);
        request_unref(r);
    }
    if (atomic_exchange_explicit(&e->cancel_all, false, memory_order_acq_rel))
        for (request *r = e->live; r; r = r->live_next)
            if (r->in_scheduler) sched_cancel(e->sched, r->seq);
}

/* ---- stage 2: plan -> batch ---- */

static void add_work(engine *e, const sched_work *work, uint32_t index, int64_t now_us) {
    step_batch *b = &e->batch;
    request *r = work->owner;
    uint32_t s = b->seq_count++;
    if (!r->scheduled_us) {
        r->scheduled_us = now_us;
        count_up(&e->counters.prompt_tokens, r->prompt_count);
    }
    b->seq_first[s] = b->token_count;
    b->seq_tokens[s] = work->count;
    b->seq_cached[s] = work->first;
    b->seq_adapter[s] = e->order.slots[index];
    b->seq_long[s] = work->outgrown;
    for (uint32_t i = 0; i < work->count; i++, b->token_count++) {
        b->ids[b->token_count] = r->tokens[work->first + i];
        b->positions[b->token_count] = work->first + i;
        b->token_seq[b->token_count] = s;
    }
    if (work->row) {
        e->row_work[b->row_count] = index;
        b->rows[b->row_count++] = b->token_count - 1;
    }
}

static void fill_tables(engine *e, const sched_plan *plan) {
    step_batch *b = &e->batch;
    const kv_cache *kv = sched_kv(e->sched);
    for (uint32_t g = 0; g < b->group_count; g++)
        for (uint32_t s = 0; s < plan->work_count; s++) {
            kv_list list = kv_pages(kv, plan->work[e->order.order[s]].table, g);
            /* Kernels find table s of group g at (g * seq_count + s) * table_stride. */
            uint32_t *table = b->tables + ((size_t)g * plan->work_count + s) * b->table_stride;
            /* What lies behind a window is not copied, but for one KV_PAGE_NONE: who reads too far
             * back reads far outside the arena. */
            uint32_t first = list.begin - (list.begin > 0);
            memcpy(table + first, list.pages + first, (list.end - first) * sizeof *table);
        }
}

/* Sequences of one adapter side by side, the base's first; and what forward reads of each adapter. */
static void order_works(engine *e, const sched_plan *plan) {
    adapter_order_begin(&e->order);
    for (uint32_t i = 0; i < plan->work_count; i++) {
        const request *r = plan->work[i].owner;
        adapter_order_add(&e->order, i, r->adapter);
    }
    adapter_order_sort(&e->order, plan->work_count);
    e->step_adapter_count = e->order.slot_count;
    for (uint32_t i = 0; i < e->order.slot_count; i++) {
        e->step_adapters[i] = adapter_resident(e->order.adapters[i]);
        e->step_ids[i] = adapter_rank_id(e->order.adapters[i]);
    }
}

static void build_batch(engine *e, const sched_plan *plan, int64_t now_us) {
    step_batch *b = &e->batch;
    b->token_count = b->seq_count = b->row_count = 0;
    order_works(e, plan);
    for (uint32_t s = 0; s < plan->work_count; s++)
        add_work(e, &plan->work[e->order.order[s]], e->order.order[s], now_us);
    fill_tables(e, plan);
}

/* ---- stage 4: logits -> tokens, or pooled states -> vectors ---- */

/* Why the request ends with this token, or FINISH_NONE. */
static finish_reason judge(engine *e, request *r, int32_t id) {
    if (!r->ignore_eos && tok_ends_generation(e->tok, id)) return FINISH_STOP;
    if (r->stops.count) {
        char text[TEXT_PIECE_MAX];
        text_next(&r->scan, e->tok, &r->stops, id, text);
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
    count_up(&e->counters.output_tokens, 1);
    if (!r->first_token_us) {
        r->first_token_us = now_us;
        observe(&e->counters.ttft, now_us - r->submitted_us);
    } else {
        r->itl_count[observe(&e->counters.itl, now_us - r->last_token_us)]++;
    }
    r->last_token_us = now_us;
    atomic_store_explicit(&r->published, r->output_count, memory_order_release);
}

static void ask_for_token(sample_row *row, const request *r) {
    row->policy = &r->policy;
    row->history = (sample_history){.tokens = r->tokens,
                                    .prompt_count = r->prompt_count,
                                    .count = r->prompt_count + r->output_count};
    row->digest = r->row_digests ? &r->row_digests[r->output_count] : NULL;
}

static void collect_row(engine *e, const sched_work *work, const sample_row *row, int64_t now_us) {
    request *r = work->owner;
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
        end_with(e, r, ESP_CANCELLED);
        return;
    }
    if (reason == FINISH_NONE) {
        sched_append(e->sched, work->seq);
        tell(e, r);
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
    if (!r->classifies) count_up(&e->counters.embeddings, 1);
    engine_end_request(e, r, FINISH_STOP, NULL);
}

static esp_code collect_embeddings(engine *e, const sched_plan *plan, esp_error *err) {
    if (e->batch.row_count == 0) return ESP_OK;
    const float *rows;
    esp_code code = model_pooled(e->model, &rows, err);
    if (code != ESP_OK) return code;
    uint32_t width = model_get_spec(e->model)->hidden;
    int64_t now_us = clock_now_us();
    for (uint32_t i = 0; i < e->batch.row_count; i++)
        collect_embedding(e, &plan->work[e->row_work[i]], rows + (size_t)i * width, now_us);
    return ESP_OK;
}

/* A token for each of these, by the device or here. */
static esp_code pick_tokens(engine *e, uint32_t first, const sched_work *const *works,
                            uint32_t count, esp_error *err) {
    sample_row *rows = sample_rows_at(e->sampling);
    const float *logits;
    for (uint32_t i = 0; i < count; i++)
        ask_for_token(&rows[i], works[i]->owner);
    esp_code code = model_tokens(e->model, first, count, rows, &logits, err);
    if (code != ESP_OK || !logits) return code;
    for (uint32_t i = 0; i < count; i++)
        rows[i].logits = logits + (size_t)i * e->model_vocab;
    sample_rows_pick(e->sampling, count);
    return ESP_OK;
}

static bool is_classifier(const request *r) {
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

/* The same where some rows are classifiers', which end here; the works that want a token stay, *count of them. */
static esp_code pick_beside_scores(engine *e, uint32_t first, const sched_work **works,
                                   uint32_t *count, esp_error *err) {
    sample_row *rows = sample_rows_at(e->sampling);
    const float *logits;
    uint32_t all = *count, asked = 0;
    esp_code code = model_logits(e->model, first, all, &logits, err);
    if (code != ESP_OK) return code;
    int64_t now_us = clock_now_us();
    for (uint32_t i = 0; i < all; i++) {
        const float *row = logits + (size_t)i * e->model_vocab;
        if (is_classifier(works[i]->owner)) {
            collect_scores(e, works[i], row, now_us);
            continue;
        }
        ask_for_token(&rows[asked], works[i]->owner);
        rows[asked].logits = row;
        works[asked++] = works[i];
    }
    *count = asked;
    sample_rows_pick(e->sampling, asked);
    return ESP_OK;
}

/* At most MODEL_LOGITS_ROWS rows, from `first` on. */
static esp_code collect_some(engine *e, const sched_plan *plan, uint32_t first, uint32_t count,
                             esp_error *err) {
    const sample_row *picked = sample_rows_at(e->sampling);
    const sched_work *works[MODEL_LOGITS_ROWS];
    bool scores = false;
    for (uint32_t i = 0; i < count; i++) {
        works[i] = &plan->work[e->row_work[first + i]];
        scores |= is_classifier(works[i]->owner);
    }
    esp_code code = scores ? pick_beside_scores(e, first, works, &count, err)
                           : pick_tokens(e, first, works, count, err);
    if (code != ESP_OK) return code;
    int64_t now_us = clock_now_us();
    for (uint32_t i = 0; i < count; i++)
        collect_row(e, works[i], &picked[i], now_us);
    return ESP_OK;
}

static esp_code collect_tokens(engine *e, const sched_plan *plan, esp_error *err) {
    uint32_t rows = e->batch.row_count;
    for (uint32_t first = 0; first < rows; first += MODEL_LOGITS_ROWS) {
        uint32_t count = rows - first < MODEL_LOGITS_ROWS ? rows - first : MODEL_LOGITS_ROWS;
        esp_code code = collect_some(e, plan, first, count, err);
        if (code != ESP_OK) return code;
    }
    return ESP_OK;
}

/* ---- stage 5 ---- */

/* Returns whether there is more to do at once. A plan that did nothing with those who live does nothing
 * again before somebody posts: an adapter comes, or a request. */
static bool publish(engine *e, const sched_plan *plan) {
    sched_stats stats;
    sched_read_stats(e->sched, &stats);
    engine_counters *c = &e->counters;
    atomic_store_explicit(&c->waiting, stats.waiting, memory_order_relaxed);
    atomic_store_explicit(&c->running, stats.running, memory_order_relaxed);
    uint32_t leased = kv_leased_count(sched_kv(e->sched)); /* adapters' */
    atomic_store_explicit(&c->pages_used, stats.pages_total - stats.pages_free - leased,
                          memory_order_relaxed);
    atomic_store_explicit(&c->preemptions, stats.preemptions_total, memory_order_relaxed);
    if (plan->work_count) {
        count_up(&c->steps, 1);
        count_up(&c->step_tokens, plan->token_count);
    }
    atomic_store_explicit(&c->step_ended_us, clock_now_us(), memory_order_relaxed);
    atomic_store_explicit(&c->step_running, false, memory_order_release);
    if (e->had_news) {
        e->had_news = false;
        signal_wake(e->tells);
    }
    bool lives = stats.running + stats.waiting > 0, did = plan->work_count + plan->preempted > 0;
    return plan->dropped_count > 0 || (lives && did);
}

/* A device fault: everyone who lives is told, and nothing runs any more. */
static void break_down(engine *e, const esp_error *error) {
    e->broken = true;
    atomic_store_explicit(&e->counters.broken, true, memory_order_relaxed);
    e->fault = *error;
    e->fault.code = ESP_UNAVAILABLE;
    log_event(LOG_ERROR, "engine_broken", "reason=\"%s\"", error->message);
    while (e->live) {
        request *r = e->live;
        if (r->in_scheduler) sched_finish(e->sched, clock_now_us(), r->seq);
        engine_end_request(e, r, FINISH_ERROR, &e->fault);
    }
}

void engine_end_users(engine *e, const adapter *ad, const esp_error *why) {
    for (request *r = e->live, *next; r; r = next) {
        next = r->live_next;
        if (r->adapter != ad) continue;
        if (r->in_scheduler) sched_finish(e->sched, clock_now_us(), r->seq);
        engine_end_request(e, r, FINISH_ERROR, why);
    }
}

bool engine_step(engine *e) {
    int64_t now_us = clock_now_us();
    atomic_store_explicit(&e->counters.step_began_us, now_us, memory_order_relaxed);
    atomic_store_explicit(&e->counters.step_running, true, memory_order_release);

    take_submissions(e, now_us);
    take_cancels(e);
    if (e->adapters) adapters_step(e->adapters, now_us);

    sched_plan plan;
    sched_step(e->sched, now_us, &plan);
    for (uint32_t i = 0; i < plan.dropped_count; i++)
        end_with(e, plan.dropped[i].owner, plan.dropped[i].why);

    esp_error error = {0};
    esp_code code = ESP_OK;
    if (plan.work_count) {
        build_batch(e, &plan, now_us);
        if (e->comm) ranks_send(e, &e->batch);
        code = model_forward(e->model, &e->batch, e->step_adapters, e->arena, &error);
        if (code == ESP_OK) {
            sched_computed(e->sched);
            code = (engine_embeds(e) ? collect_embeddings : collect_tokens)(e, &plan, &error);
        }
    }
    if (code == ESP_OK && e->comm && !e->broken) code = comm_check(e->comm, &error);
    if (code != ESP_OK) break_down(e, &error);
    return publish(e, &plan);
}
