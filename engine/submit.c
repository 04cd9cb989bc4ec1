/* submit.c - the doors through which other threads reach an engine: requests in, news out. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/engine_parts.h"

esp_code engine_refuse_classifier(const request *r, esp_error *err) {
    return esp_fail_field(
        err, ESP_PRECONDITION, "model",
        "model: adapter \"%s\" classifies texts and generates none; use Classify, "
        "or espalier classify",
        r->by.name);
}

static esp_code check_kind(const engine *e, const request *r, esp_error *err) {
    if (r->classifies) {
        ESP_ASSERT(r->adapter && r->embedding_width == adapter_label_count(r->adapter));
        return ESP_OK;
    }
    if (r->adapter && adapter_label_count(r->adapter)) return engine_refuse_classifier(r, err);
    if (engine_embeds(e) == (r->embedding_width > 0)) return ESP_OK;
    if (engine_embeds(e))
        return esp_fail_field(err, ESP_PRECONDITION, "model",
                              "model: \"%s\" embeds texts and generates none; use Embed, or "
                              "espalier embed",
                              e->name);
    return esp_fail_field(err, ESP_PRECONDITION, "model",
                          "model: \"%s\" generates text and embeds none; use Generate, or espalier "
                          "generate",
                          e->name);
}

/* The scheduler judges the rest of an input to embed: it has no output to leave room for. */
static esp_code check_input(const engine *e, const request *r, esp_error *err) {
    uint32_t width = model_get_spec(e->model)->hidden;
    ESP_ASSERT(r->classifies || r->embedding_width == width);
    if (r->prompt_count > e->config.max_context)
        return esp_fail_field(err, ESP_INVALID, "inputs",
                              "inputs: %u tokens; at most %u are taken (--max-context)",
                              r->prompt_count, e->config.max_context);
    uint32_t pages = (r->prompt_count + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    if ((uint64_t)pages * e->batch.group_count > e->page_count)
        return esp_fail_field(err, ESP_INVALID, "inputs",
                              "inputs: %u tokens need %u pages, the cache has %u (--kv-memory)",
                              r->prompt_count, pages * e->batch.group_count, e->page_count);
    return ESP_OK;
}

static esp_code check_fits(const engine *e, const request *r, esp_error *err) {
    uint64_t tokens = (uint64_t)r->prompt_count + r->output_max;
    if (r->embedding_width) return check_input(e, r, err);
    if (r->prompt_count >= e->config.max_context)
        return esp_fail_field(err, ESP_INVALID, "prompt",
                              "prompt: %u tokens leave no room for output in a context of %u "
                              "(--max-context)",
                              r->prompt_count, e->config.max_context);
    if (tokens > e->config.max_context)
        return esp_fail_field(err, ESP_INVALID, "max_tokens",
                              "max_tokens: %u after a prompt of %u tokens is over the context of "
                              "%u (--max-context); at most %u fit",
                              r->output_max, r->prompt_count, e->config.max_context,
                              e->config.max_context - r->prompt_count);
    uint64_t pages = kv_pages_for(sched_kv(e->sched), (uint32_t)tokens);
    if (pages > e->page_count)
        return esp_fail_field(err, ESP_INVALID, "max_tokens",
                              "max_tokens: %llu tokens in all need %llu pages, the cache has %u "
                              "(--kv-memory)",
                              (unsigned long long)tokens, (unsigned long long)pages, e->page_count);
    return ESP_OK;
}

static esp_code check_room(engine *e, esp_error *err) {
    if (atomic_load_explicit(&e->draining, memory_order_relaxed)) {
        esp_fail(err, ESP_UNAVAILABLE, "the server is draining and takes no new requests");
        return ESP_UNAVAILABLE;
    }
    uint32_t before = atomic_fetch_add_explicit(&e->live_count, 1, memory_order_relaxed);
    if (before < e->live_max) return ESP_OK;
    atomic_fetch_sub_explicit(&e->live_count, 1, memory_order_relaxed);
    esp_fail(err, ESP_EXHAUSTED, "%u requests are running or waiting, which is the limit", before);
    if (err) {
        uint32_t ms = atomic_load_explicit(&e->counters.retry_ms, memory_order_relaxed);
        err->retry_ms = ms ? ms : 1000;
    }
    return ESP_EXHAUSTED;
}

esp_code engine_submit(engine *e, request *r, esp_error *err) {
    esp_code code = check_kind(e, r, err);
    if (code == ESP_OK) code = check_fits(e, r, err);
    if (code == ESP_OK) code = check_room(e, err);
    if (code != ESP_OK) return code;
    if (!r->submitted_us) r->submitted_us = clock_now_us();
    request_ref(r);
    bool pushed = queue_push(e->inbox, r);
    ESP_ASSERT(pushed); /* the inbox holds as many as may live */
    signal_wake(&e->inbox_signal);
    return ESP_OK;
}

void engine_cancel(engine *e, request *r) {
    if (atomic_exchange_explicit(&r->cancel_asked, true, memory_order_acq_rel)) return;
    if (atomic_load_explicit(&r->done, memory_order_acquire)) return;
    request_ref(r);
    /* Full of requests that ended meanwhile: the flag is seen when its next token is picked. */
    if (!queue_push(e->cancels, r)) request_unref(r);
    signal_wake(&e->inbox_signal);
}

void engine_cancel_all(engine *e) {
    atomic_store_explicit(&e->cancel_all, true, memory_order_release);
    signal_wake(&e->inbox_signal);
}

void engine_drain(engine *e) { atomic_store(&e->draining, true); }

void engine_return_slot(engine *e, request *r) {
    if (!atomic_exchange_explicit(&r->slot_returned, true, memory_order_relaxed))
        atomic_fetch_sub_explicit(&e->live_count, 1, memory_order_relaxed);
}

request *engine_news(engine *e) {
    request *r = queue_pop(e->news);
    if (!r) return NULL;
    /* Lowered before the caller reads `published`: whatever comes later is news again. */
    atomic_exchange_explicit(&r->in_news, false, memory_order_acq_rel);
    if (atomic_load_explicit(&r->done, memory_order_acquire)) engine_return_slot(e, r);
    return r;
}

bool engine_told_end(const request *r) {
    return atomic_load_explicit(&r->slot_returned, memory_order_relaxed);
}

signal_word *engine_news_signal(engine *e) {
    atomic_store_explicit(&e->news_wanted, true, memory_order_release);
    return e->tells;
}

void engine_share_news(engine *e, signal_word *with) { e->tells = with; }
