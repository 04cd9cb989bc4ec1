/* replicas.c - requests to engines, and engines' news back. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/replicas.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/replicas_inner.h"

/* ---- lifetime ---- */

void replicas_join(replicas *all) {
    adapters *of[REPLICAS_MAX];
    for (uint32_t i = 0; i < all->count; i++) {
        of[i] = engine_adapters(all->of[i].e);
        engine_share_news(all->of[i].e, &all->news);
    }
    if (of[0]) all->adapters = group_open(of, all->count);
}

replicas *replicas_around(engine *e) {
    replicas *all = mem_new(1, sizeof *all);
    all->count = 1;
    all->of[0].e = e;
    replicas_join(all);
    return all;
}

void replicas_close(replicas *all) {
    if (!all) return;
    group_close(all->adapters);
    for (uint32_t i = 0; i < all->count; i++)
        engine_close(all->of[i].e);
    free(all->gpus);
    free(all);
}

uint32_t replicas_count(const replicas *all) { return all->count; }
engine *replicas_first(const replicas *all) { return all->of[0].e; }
adapter_group *replicas_adapters(const replicas *all) { return all->adapters; }

engine *replicas_engine(const replicas *all, uint32_t index) {
    ESP_ASSERT(index < all->count);
    return all->of[index].e;
}

/* ---- who is up ---- */

bool replicas_is_up(const replicas *all, uint32_t index) {
    const replica *one = &all->of[index];
    return !engine_broken(one->e) && !atomic_load_explicit(&one->stuck, memory_order_relaxed);
}

uint32_t replicas_up(const replicas *all) {
    uint32_t up = 0;
    for (uint32_t i = 0; i < all->count; i++)
        up += replicas_is_up(all, i);
    return up;
}

void replicas_set_stuck(replicas *all, uint32_t index, bool stuck) {
    atomic_store_explicit(&all->of[index].stuck, stuck, memory_order_relaxed);
}

/* ---- submitting ---- */

static replica_adapter adapter_at(const engine *e, const request *r) {
    static const replica_adapter by_tier[] = {[ADAPTER_DISK] = REPLICA_ADAPTER_DISK,
                                              [ADAPTER_HOST] = REPLICA_ADAPTER_HOST,
                                              [ADAPTER_DEVICE] = REPLICA_ADAPTER_HERE};
    if (!r->adapter) return REPLICA_ADAPTER_HERE;
    return by_tier[adapters_tier(engine_adapters(e), r->by.name, r->by.digest)];
}

/* Who is up is read once, for it changes at any time: one at least is not out. */
static void look(const replicas *all, const request *r, replica_view views[REPLICAS_MAX]) {
    uint32_t up = 0;
    for (uint32_t i = 0; i < all->count; i++) {
        views[i] = (replica_view){.out = !replicas_is_up(all, i),
                                  .live = engine_live(all->of[i].e),
                                  .adapter = adapter_at(all->of[i].e, r)};
        up += !views[i].out;
    }
    for (uint32_t i = 0; i < all->count && !up; i++)
        views[i].out = false; /* then they say why */
}

/* The tokens or labels that the request was made with are those that are found there, too. Where it was made with none,
 * which is of most adapters, nothing is read there: it is a thread that others wait for. */
static esp_code check_words(const request *r, adapters *there, adapter *ad, esp_error *err) {
    bool here = adapter_may_have_tokens(r->adapter), same = here == adapter_may_have_tokens(ad);
    if (!r->classifies && !here && same) return ESP_OK;
    if (!adapter_has_words(r->adapter) && same) return ESP_OK; /* nobody asked for them */
    esp_code code = adapters_read_same_words(there, ad, r->adapter, err);
    if (code == ESP_OK || !adapter_has_words(ad)) return code;
    adapters_doubt(r->adapters, r->adapter); /* whose are right nobody knows yet */
    adapters_doubt(there, ad);
    return code;
}

/* The request's adapter becomes the one of that engine: the same content under the same name. */
static esp_code bring_adapter(request *r, engine *to, esp_error *err) {
    adapters *there = engine_adapters(to);
    adapter *found = NULL;
    if (!r->adapter) return ESP_OK;
    if (r->adapters == there)
        return adapter_is_broken(r->adapter) ? adapter_error(r->adapter, err) : ESP_OK;
    esp_code code = adapters_find_content(there, r->by.name, r->by.digest, &found, err);
    if (code == ESP_OK) code = check_words(r, there, found, err);
    if (code != ESP_OK) {
        adapter_release(there, found);
        return code;
    }
    request_leave_adapter(r);
    r->adapters = there;
    r->adapter = found;
    return ESP_OK;
}

static esp_code submit_to(replicas *all, uint32_t index, request *r, esp_error *err) {
    engine *e = all->of[index].e;
    esp_code code = bring_adapter(r, e, err);
    if (code != ESP_OK) return code;
    r->replica = index;
    return engine_submit(e, r, err);
}

/* Who can be asked again, or has the adapter, says more than who misses it. */
static bool says_more(const esp_error *why, const esp_error *than) {
    if (than->code == ESP_OK) return true;
    if (than->retry_ms) return false;
    return why->retry_ms || (than->code == ESP_NOT_FOUND && why->code != ESP_NOT_FOUND);
}

esp_code replicas_submit(replicas *all, request *r, esp_error *err) {
    if (all->count == 1) return engine_submit(all->of[0].e, r, err);
    replica_view views[REPLICAS_MAX];
    esp_error refusal = {0};
    uint32_t turn = atomic_fetch_add_explicit(&all->turn, 1, memory_order_relaxed), at;
    look(all, r, views);
    while ((at = replica_choose(views, all->count, turn)) != REPLICA_NONE) {
        esp_error why = {0};
        if (submit_to(all, at, r, &why) == ESP_OK) return ESP_OK;
        if (says_more(&why, &refusal)) refusal = why;
        views[at].out = true;
    }
    ESP_ASSERT(refusal.code != ESP_OK);
    if (err) *err = refusal;
    return refusal.code;
}

void replicas_cancel(replicas *all, request *r) { engine_cancel(all->of[r->replica].e, r); }

/* ---- news ---- */

/* Of each in turn, so that the news of none wait until all others have none. */
request *replicas_news(replicas *all) {
    uint32_t turn = atomic_load_explicit(&all->news_turn, memory_order_relaxed);
    for (uint32_t i = 0; i < all->count; i++) {
        uint32_t at = (turn + i) % all->count;
        request *r = engine_news(all->of[at].e);
        if (!r) continue;
        atomic_store_explicit(&all->news_turn, (at + 1) % all->count, memory_order_relaxed);
        return r;
    }
    return NULL;
}

signal_word *replicas_news_signal(replicas *all) {
    for (uint32_t i = 0; i < all->count; i++)
        (void)engine_news_signal(all->of[i].e);
    return &all->news;
}

/* ---- all of them ---- */

void replicas_drain(replicas *all) {
    for (uint32_t i = 0; i < all->count; i++)
        engine_drain(all->of[i].e);
}

void replicas_cancel_all(replicas *all) {
    for (uint32_t i = 0; i < all->count; i++)
        engine_cancel_all(all->of[i].e);
}

static void add_histogram(histogram *to, const histogram *from) {
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++)
        to->count[i] += from->count[i];
    to->sum += from->sum;
}

void replicas_add_stats(engine_stats *to, const engine_stats *from) {
    to->live += from->live;
    to->waiting += from->waiting;
    to->running += from->running;
    to->pages_used += from->pages_used;
    to->pages_total += from->pages_total;
    to->requests_total += from->requests_total;
    to->prompt_tokens_total += from->prompt_tokens_total;
    to->output_tokens_total += from->output_tokens_total;
    to->preemptions_total += from->preemptions_total;
    to->steps_total += from->steps_total;
    to->step_tokens_total += from->step_tokens_total;
    to->steps_ahead_total += from->steps_ahead_total;
    to->embeddings_total += from->embeddings_total;
    to->broken &= from->broken;
    for (uint32_t i = 0; i <= FINISH_ERROR; i++)
        to->finished_total[i] += from->finished_total[i];
    add_histogram(&to->ttft, &from->ttft);
    add_histogram(&to->itl, &from->itl);
    add_histogram(&to->e2e, &from->e2e);
}

void replicas_read_stats(const replicas *all, engine_stats *out) {
    engine_read_stats(all->of[0].e, out);
    for (uint32_t i = 1; i < all->count; i++) {
        engine_stats one;
        engine_read_stats(all->of[i].e, &one);
        replicas_add_stats(out, &one);
    }
}
