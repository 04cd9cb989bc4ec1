/* bench_load.c - one measurement: an engine under closed-loop load, and the time of each step; or several engines that
 * step by themselves, as a server has them, and when their tokens come.
 *
 * C requests live at any time; when one ends the next is sent. Prompts are random ids from a fixed
 * seed and the end-of-text token is ignored, so every run does the same work. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/commands/bench_parts.h"
#include "engine/commands/commands.h"

enum { BENCH_SEED = 1, NEWS_WAIT_US = 100000 };

typedef struct stream {
    request *r; /* NULL: free */
    uint32_t seen;
    int64_t last_us;
} stream;

typedef struct load {
    bench_run *r;
    progress *bar;
    stream *streams; /* [concurrency] */
    int32_t *prompt; /* [prompt_tokens] */
    uint32_t sent, finished;
} load;

/* Ids that a text could hold: control tokens are passed over. */
static void random_prompt(load *l, uint32_t index) {
    const tokenizer *tok = engine_tokenizer(l->r->e);
    const uint32_t key[2] = {BENCH_SEED, 0};
    for (uint32_t i = 0; i < l->r->o->prompt_tokens; i++) {
        uint32_t counter[4] = {i, index, 0, 0}, word[4];
        do {
            philox(counter, key, word);
            counter[2]++;
            l->prompt[i] = (int32_t)(word[0] % tok_count(tok));
        } while (tok_is_control(tok, l->prompt[i]));
    }
}

/* Requests go round the adapters, if there are any. */
static esp_code send_next(load *l, stream *s, esp_error *err) {
    engine *e = l->r->e;
    const model_config *config = &l->r->o->model;
    uint32_t index = l->sent++, adapters_given = config->adapters.count;
    request_options want = {.prompt = l->prompt,
                            .prompt_count = l->r->o->prompt_tokens,
                            .output_max = l->r->o->output_tokens,
                            .adapters = engine_adapters(e),
                            .ignore_eos = true};
    esp_code code = chosen_adapter(e, config, adapters_given ? index % adapters_given : 0,
                                   &want.adapter, err);
    if (code != ESP_OK) return code;
    random_prompt(l, index);
    s->seen = 0;
    code = request_new(&s->r, &want, engine_spec(e)->vocab, err);
    if (code == ESP_OK && l->r->all) return replicas_submit(l->r->all, s->r, err);
    if (code == ESP_OK) return engine_submit(e, s->r, err);
    adapter_release(engine_adapters(e), want.adapter);
    return code;
}

/* What a step gave: tokens, and those of them that were not the first of their request. */
typedef struct gained {
    uint32_t tokens, decoded;
} gained;

static esp_code collect(load *l, stream *s, int64_t now_us, gained *g, esp_error *err) {
    bench_run *r = l->r;
    bool done = atomic_load(&s->r->done);
    for (uint32_t published = atomic_load(&s->r->published); s->seen < published; s->seen++) {
        if (s->seen == 0) {
            r->ttft.us[r->ttft.count++] = now_us - s->r->submitted_us;
        } else {
            r->itl.us[r->itl.count++] = now_us - s->last_us;
            g->decoded++;
        }
        s->last_us = now_us;
        g->tokens++;
    }
    if (!done) return ESP_OK;
    if (s->r->finish == FINISH_ERROR) {
        *err = s->r->error;
        return err->code;
    }
    request_unref(s->r);
    s->r = NULL;
    progress_step(l->bar, ++l->finished, r->requests);
    return ESP_OK;
}

/* Of all streams. */
static esp_code collect_all(load *l, int64_t now_us, gained *g, esp_error *err) {
    esp_code code = ESP_OK;
    for (uint32_t i = 0; i < l->r->concurrency && code == ESP_OK; i++)
        if (l->streams[i].r) code = collect(l, &l->streams[i], now_us, g, err);
    l->r->output_tokens += g->tokens;
    return code;
}

/* Replicas tell of a request at least once after its last token. */
static esp_code wait_for_news(load *l, esp_error *err) {
    replicas *all = l->r->all;
    signal_word *news = replicas_news_signal(all);
    uint32_t seen = signal_seen(news), told = 0;
    gained g = {0};
    for (request *r; (r = replicas_news(all)); told++)
        request_unref(r);
    esp_code code = collect_all(l, clock_now_us(), &g, err);
    if (code == ESP_OK && !told) signal_wait(news, seen, NEWS_WAIT_US);
    return code;
}

static uint64_t tokens_computed(const engine *e) {
    engine_stats stats;
    engine_read_stats(e, &stats);
    return stats.step_tokens_total;
}

/* A step without ops computed nothing. */
static void add_ops(bench_sums *side, op_timer *timer, int64_t began_ns, int64_t ended_ns) {
    const op_times *times = op_timer_read(timer);
    if (!times->first_ns) return;
    op_times_add(&side->ops, times);
    side->before_ns += times->first_ns - began_ns;
    side->after_ns += ended_ns - times->last_ns;
}

/* One step, and its time to the side it belongs to. */
static esp_code step(load *l, esp_error *err) {
    bench_run *r = l->r;
    uint64_t before = tokens_computed(r->e);
    if (r->timer) op_timer_clear(r->timer);
    int64_t began_ns = clock_now_ns();
    engine_step(r->e);
    int64_t ended_ns = clock_now_ns();
    gained g = {0};
    esp_code code = collect_all(l, ended_ns / 1000, &g, err);
    if (code != ESP_OK) return code;
    uint64_t computed = tokens_computed(r->e) - before;
    bool prefill = computed > g.decoded;
    bench_sums *side = &r->side[prefill ? SIDE_PREFILL : SIDE_DECODE];
    side->steps++;
    side->tokens += prefill ? computed - g.decoded : g.decoded;
    side->computed += computed;
    side->rows += g.tokens;
    side->ns += ended_ns - began_ns;
    if (r->timer) add_ops(side, r->timer, began_ns, ended_ns);
    return ESP_OK;
}

static int by_value(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static esp_code drive(load *l, esp_error *err) {
    bench_run *r = l->r;
    int64_t began_ns = clock_now_ns();
    while (l->finished < r->requests) {
        for (uint32_t i = 0; i < r->concurrency && l->sent < r->requests; i++) {
            if (l->streams[i].r) continue;
            esp_code code = send_next(l, &l->streams[i], err);
            if (code != ESP_OK) return code;
        }
        esp_code code = (r->all ? wait_for_news : step)(l, err);
        if (code != ESP_OK) return code;
    }
    r->wall_ns = clock_now_ns() - began_ns;
    qsort(r->ttft.us, r->ttft.count, sizeof *r->ttft.us, by_value);
    qsort(r->itl.us, r->itl.count, sizeof *r->itl.us, by_value);
    return ESP_OK;
}

esp_code bench_load(bench_run *r, progress *bar, esp_error *err) {
    load l = {.r = r, .bar = bar};
    if (r->all) replicas_news_signal(r->all); /* from now on there is news */
    l.streams = mem_new(r->concurrency, sizeof *l.streams);
    l.prompt = mem_new(r->o->prompt_tokens, sizeof *l.prompt);
    r->ttft.us = mem_new(r->requests, sizeof *r->ttft.us);
    r->itl.us = mem_new((size_t)r->requests * r->o->output_tokens, sizeof *r->itl.us);
    esp_code code = drive(&l, err);
    for (uint32_t i = 0; i < r->concurrency; i++)
        request_unref(l.streams[i].r);
    free(l.streams);
    free(l.prompt);
    return code;
}

void bench_run_close(bench_run *r) {
    free(r->ttft.us);
    free(r->itl.us);
}
