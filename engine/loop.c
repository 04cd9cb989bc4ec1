/* loop.c - engine_step, the loop of the whole product, and its stages in order (2 and 3: launch.c, 4: collect.c).
 *
 *   take, plan, launch, collect, publish
 *
 * On a device that runs beside the host a step is collected when the next one has been launched.
 * A decode step allocates nothing, holds no lock, and wakes the stream side once. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/engine_parts.h"

/* The queue holds as many as may live. */
void engine_tell(engine *e, request *r) {
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
    engine_count(&e->counters.finished[reason], 1);
    engine_observe(&e->counters.e2e, r->done_us - r->submitted_us);
    unlink_live(e, r);
    atomic_store_explicit(&r->done, true, memory_order_release);
    engine_tell(e, r);
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

void engine_end_with(engine *e, request *r, esp_code code) {
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
    engine_count(&e->counters.requests, 1);
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
        engine_end_with(e, r, ESP_CANCELLED);
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

/* ---- stage 5 ---- */

/* Returns whether there is more to do at once. A plan that did nothing with those who live does nothing
 * again before somebody posts, an adapter comes, or a request; unless a step was collected. */
static bool publish(engine *e, const sched_plan *plan) {
    sched_stats stats;
    sched_read_stats(e->sched, &stats);
    engine_counters *c = &e->counters;
    atomic_store_explicit(&c->preemptions, stats.preemptions_total, memory_order_relaxed);
    if (plan->work_count) {
        engine_count(&c->steps, 1);
        engine_count(&c->step_tokens, plan->token_count);
    }
    /* Behind what is counted: who sees that nothing runs sees all that was done. */
    uint32_t leased = kv_leased_count(sched_kv(e->sched)); /* adapters' */
    atomic_store_explicit(&c->pages_used, stats.pages_total - stats.pages_free - leased,
                          memory_order_release);
    /* Read the other way round: who starts is seen in one of the two. */
    atomic_store_explicit(&c->running, stats.running, memory_order_release);
    atomic_store_explicit(&c->waiting, stats.waiting, memory_order_release);
    atomic_store_explicit(&c->step_ended_us, clock_now_us(), memory_order_relaxed);
    atomic_store_explicit(&c->step_running, false, memory_order_release);
    if (e->had_news) {
        e->had_news = false;
        signal_wake(e->tells);
    }
    bool lives = stats.running + stats.waiting > 0, did = plan->work_count + plan->preempted > 0;
    return plan->dropped_count + e->flight_count > 0 || (lives && (did || e->collected));
}

/* A device fault: everyone who lives is told, once, and nothing runs any more, on no rank. */
static void break_down(engine *e, const esp_error *error) {
    e->broken = true;
    atomic_store_explicit(&e->counters.broken, true, memory_order_relaxed);
    e->fault = *error;
    e->fault.code = ESP_UNAVAILABLE;
    log_event(LOG_ERROR, "engine_broken", "reason=\"%s\"", error->message);
    if (e->comm) {
        comm_abort(e->comm, &e->fault);
        esp_code told =
            comm_check(e->comm, NULL); /* other processes, too: nothing is called later */
        ESP_ASSERT(told != ESP_OK);
    }
    while (e->flight_count > 0)
        engine_forget_flight(e);
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

/* ---- steps in flight ---- */

/* Collects until no more than so many are in flight. Only a step whose tokens the device picks stays there, and only
 * for requests that live. */
static esp_code collect_but(engine *e, uint32_t most, esp_error *err) {
    esp_code code = ESP_OK;
    while (code == ESP_OK && e->flight_count > 0) {
        uint32_t newest = (e->flight_first + e->flight_count - 1) % SCHED_FLIGHTS_MAX;
        bool stays = e->live && e->flights[newest].picked;
        if (stays && e->flight_count <= most) break;
        code = engine_collect(e, err);
    }
    return code;
}

void engine_settle(engine *e) {
    esp_error error = {0};
    if (collect_but(e, 0, &error) != ESP_OK) break_down(e, &error);
}

/* A plan that takes pages or adapters away from somebody is made of what is known, and so is one beside frames that are
 * being written. */
static bool may_lead(const engine *e) {
    return sched_may_lead(e->sched) && (!e->adapters || adapters_are_still(e->adapters));
}

bool engine_step(engine *e) {
    int64_t now_us = clock_now_us();
    atomic_store_explicit(&e->counters.step_began_us, now_us, memory_order_relaxed);
    atomic_store_explicit(&e->counters.step_running, true, memory_order_release);
    e->collected = false;

    take_submissions(e, now_us);
    take_cancels(e);
    if (e->flight_count > 0 && !may_lead(e)) engine_settle(e);
    if (e->adapters && e->flight_count == 0) adapters_step(e->adapters, now_us);

    sched_plan plan;
    sched_step(e->sched, now_us, &plan);
    for (uint32_t i = 0; i < plan.dropped_count; i++)
        engine_end_with(e, plan.dropped[i].owner, plan.dropped[i].why);

    esp_error error = {0};
    esp_code code = plan.work_count ? engine_launch(e, &plan, now_us, &error) : ESP_OK;
    if (code == ESP_OK) code = collect_but(e, plan.work_count ? e->lead : 0, &error);
    if (code == ESP_OK && e->comm && !e->broken) code = comm_check(e->comm, &error);
    if (code != ESP_OK) break_down(e, &error);
    return publish(e, &plan);
}
