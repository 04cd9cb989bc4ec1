/* generation.c - running answers; the picture is in generation.h. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/serve/generation.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/record/recorder.h"
#include "engine/serve/adapter_metrics.h"
#include "engine/serve/answer.h"
#include "engine/serve/embedding.h"
#include "engine/serve/generate_input.h"
#include "engine/serve/text_buffer.h"

enum { NEWS_WAIT_US = 1000000, CLOSE_WAIT_US = 1000 };

struct generations {
    generations_options options;
    pthread_t thread;
    bool started;
    _Atomic bool stop, draining;
    _Atomic uint32_t live;
};

typedef struct generation {
    generations *all;
    rpc_call *call;   /* held */
    request *request; /* ours; constant after submit */
    _Atomic uint32_t references;

    pthread_mutex_t lock; /* everything below */
    bool closed, cut, finished;
    bool sending;        /* a message is under way */
    size_t under_way;    /* its bytes */
    uint32_t read, sent; /* output tokens turned into text; given to the call */
    bool text_ended;
    text_stream stream;
    text_buffer text; /* of tokens [sent, read) */
} generation;

/* ---- lifetime ---- */

static generation *make(generations *all, rpc_call *call) {
    generation *g = mem_new(1, sizeof *g);
    g->all = all;
    g->call = call;
    rpc_call_hold(call);
    atomic_init(&g->references, 1);
    pthread_mutex_init(&g->lock, NULL);
    generations_enter(all);
    return g;
}

static void hold(generation *g) { atomic_fetch_add(&g->references, 1); }

static void release(generation *g) {
    if (atomic_fetch_sub_explicit(&g->references, 1, memory_order_acq_rel) != 1) return;
    if (g->request) request_unref(g->request);
    rpc_call_release(g->call);
    pthread_mutex_destroy(&g->lock);
    free(g->text.at);
    generations_leave(g->all);
    free(g);
}

/* ---- under the generation's lock ---- */

static size_t unsent_bytes(const generation *g) {
    return g->under_way + g->text.bytes + (g->read - g->sent) * answer_token_bytes(g->request);
}

static void cut_slow_reader(generation *g) {
    char sentence[128];
    snprintf(sentence, sizeof sentence, "slow reader: %zu bytes are unsent, %u are kept at most",
             unsent_bytes(g), g->all->options.unsent_bytes_max);
    g->cut = true;
    rpc_cut(g->call, ESP_EXHAUSTED, sentence);
    replicas_cancel(g->all->options.replicas, g->request);
}

/* Of the request's adapter, if it has its own. */
static const tokenizer *tokenizer_of(const generation *g) {
    return g->request->tok ? g->request->tok : engine_tokenizer(generations_engine(g->all));
}

static void read_tokens(generation *g, uint32_t published, bool done) {
    const request *r = g->request;
    char piece[TEXT_PIECE_MAX];
    const tokenizer *tok = tokenizer_of(g);
    for (; g->read < published; g->read++) {
        size_t bytes =
            text_next(&g->stream, tok, &r->stops, r->tokens[r->prompt_count + g->read], piece);
        text_buffer_add(&g->text, piece, bytes);
    }
    if (!done || g->text_ended) return;
    g->text_ended = true;
    if (!g->stream.stopped) text_buffer_add(&g->text, piece, text_end(&g->stream, piece));
}

/* Room for the structs of logprobs: a few times their bytes on the wire. */
static mem_arena *answer_arena(const generation *g) {
    return mem_arena_open(4096 + 16 * (g->read - g->sent) * answer_token_bytes(g->request));
}

static Espalier__V1__GenerateResponse *build(generation *g, mem_arena *arena) {
    answer_piece piece = {.r = g->request,
                          .tok = tokenizer_of(g),
                          .first = g->sent,
                          .end = g->read,
                          .text = g->text.at};
    Espalier__V1__GenerateResponse *answer = answer_build(&piece, arena);
    ESP_ASSERT(answer);
    return answer;
}

static void send_piece(generation *g) {
    mem_arena *arena = answer_arena(g);
    g->under_way = rpc_send(g->call, &build(g, arena)->base);
    g->sending = g->under_way > 0;
    g->sent = g->read;
    text_buffer_clear(&g->text);
    mem_arena_close(arena);
}

void generations_explain(const generations *all, const request *r, esp_error *error) {
    *error = r->error;
    if (r->finish == FINISH_CANCELLED && atomic_load(&all->draining))
        (void)esp_fail(error, ESP_UNAVAILABLE,
                       "the server is shutting down; ask another one for the rest");
    if (error->code == ESP_OK)
        (void)esp_fail(error, ESP_INTERNAL, "the request ended as %s",
                       finish_reason_name(r->finish));
}

/* What is left, and the status. Tokens made before an error are given out too. */
static void finish(generation *g) {
    engine *e = generations_engine(g->all);
    mem_arena *arena = answer_arena(g);
    Espalier__V1__GenerateResponse *answer = build(g, arena);
    g->finished = true;
    if (g->request->finish == FINISH_STOP || g->request->finish == FINISH_LENGTH) {
        answer_final final;
        answer_fill_final(&final, g->request, engine_name(e), engine_profile(e));
        answer->final = &final.final;
        rpc_finish(g->call, &answer->base, NULL);
    } else {
        esp_error error;
        generations_explain(g->all, g->request, &error);
        rpc_finish(g->call, g->read > g->sent || g->text.bytes ? &answer->base : NULL, &error);
    }
    mem_arena_close(arena);
}

/* Brings the call up to date with the request. ended: so its last news said, and published is final. */
static void pump(generation *g, bool ended) {
    uint32_t published = atomic_load_explicit(&g->request->published, memory_order_acquire);
    if (g->closed || g->cut || g->finished) return;
    read_tokens(g, published, ended);
    if (ended)
        finish(g);
    else if (g->sending && unsent_bytes(g) > g->all->options.unsent_bytes_max)
        cut_slow_reader(g);
    else if (!g->sending && g->read > g->sent)
        send_piece(g);
}

/* ---- events of the call ---- */

static void on_event(void *user, rpc_call *call, rpc_event event) {
    generation *g = user;
    (void)call;
    pthread_mutex_lock(&g->lock);
    request *cancel = NULL;
    if (event == RPC_SENT) {
        g->sending = false;
        g->under_way = 0;
        pump(g, false); /* its end is the stream thread's to tell */
    } else {
        g->closed = true;
        cancel = g->request; /* NULL: not submitted, and will not be */
    }
    pthread_mutex_unlock(&g->lock);
    if (cancel) replicas_cancel(g->all->options.replicas, cancel);
    if (event == RPC_CLOSED) release(g);
}

/* ---- the stream thread ---- */

/* Before the client is told: who has an answer finds its place free, and the answer counted. */
static void take_end(const generation *g, request *r) {
    if (g->all->options.recorder) recorder_take(g->all->options.recorder, r);
    generations_count(g->all, r);
    r->user = NULL; /* only this thread follows it */
}

static void take_news(request *r) {
    if (r->embedding_width) {
        embedding_take_news(r);
        return;
    }
    generation *g = r->user;
    if (!g) return; /* its end was seen before */
    bool ended = engine_told_end(r);
    if (ended) take_end(g, r);
    pthread_mutex_lock(&g->lock);
    pump(g, ended);
    pthread_mutex_unlock(&g->lock);
    if (ended) release(g);
}

static void *run(void *arg) {
    generations *all = arg;
    replicas *from = all->options.replicas;
    signal_word *news = replicas_news_signal(from);
    while (!atomic_load(&all->stop)) {
        uint32_t seen = signal_seen(news);
        for (request *r; (r = replicas_news(from));) {
            take_news(r);
            request_unref(r);
        }
        if (!atomic_load(&all->stop)) signal_wait(news, seen, NEWS_WAIT_US);
    }
    return NULL;
}

/* ---- the door ---- */

esp_code generations_open(generations **out, const generations_options *options, esp_error *err) {
    generations *all = mem_new(1, sizeof *all);
    *out = all;
    all->options = *options;
    replicas_news_signal(
        options->replicas); /* from now on there is news, also of the first request */
    if (pthread_create(&all->thread, NULL, run, all))
        return esp_fail(err, ESP_EXHAUSTED,
                        "serve: cannot start a thread; raise the limit of threads");
    pthread_setname_np(all->thread, "stream");
    all->started = true;
    return ESP_OK;
}

replicas *generations_replicas(const generations *all) { return all->options.replicas; }
engine *generations_engine(const generations *all) { return replicas_first(all->options.replicas); }
void generations_enter(generations *all) { atomic_fetch_add(&all->live, 1); }
void generations_leave(generations *all) { atomic_fetch_sub(&all->live, 1); }

void generations_count(const generations *all, const request *r) {
    if (all->options.metrics) adapter_metrics_count(all->options.metrics, r, r->done_us);
}

void generations_drain(generations *all) { atomic_store(&all->draining, true); }
uint32_t generations_live(const generations *all) { return atomic_load(&all->live); }

void generations_close(generations *all) {
    if (!all) return;
    signal_word *news = replicas_news_signal(all->options.replicas);
    while (all->started && generations_live(all))
        signal_wait(news, signal_seen(news), CLOSE_WAIT_US);
    atomic_store(&all->stop, true);
    signal_wake(news);
    if (all->started) pthread_join(all->thread, NULL);
    free(all);
}

static served_model served(const generations *all) {
    engine *e = generations_engine(all);
    served_model out = {.name = engine_name(e),
                        .several = replicas_count(all->options.replicas) > 1,
                        .adapters = engine_adapters(e),
                        .tok = engine_tokenizer(e),
                        .context_max = engine_context_max(e),
                        .vocab = tok_count(engine_tokenizer(e)),
                        .embeds = engine_embeds(e),
                        .recorded = all->options.recorder != NULL};
    out.chat = engine_template(e, &out.chat_why);
    return out;
}

/* Submits unless the call is over already; the lock is held across the submit, so that the end of
 * the call either comes before it or finds the request to cancel. */
static esp_code submit(generation *g, request *r, esp_error *err) {
    pthread_mutex_lock(&g->lock);
    esp_code code = g->closed ? ESP_CANCELLED : ESP_OK;
    if (code == ESP_OK) {
        g->request = r;
        hold(g); /* the stream side's */
        code = replicas_submit(g->all->options.replicas, r, err);
        if (code != ESP_OK) {
            g->request = NULL;
            release(g); /* not the last: the call's is held by the caller */
        }
    }
    pthread_mutex_unlock(&g->lock);
    if (code != ESP_OK) request_unref(r);
    return code;
}

void generation_start(generations *all, rpc_call *call, const Espalier__V1__GenerateRequest *in) {
    generation *g = make(all, call);
    served_model here = served(all);
    esp_error error = {0};
    request *r = NULL;
    hold(g); /* the call's, until RPC_CLOSED */
    if (!rpc_call_attach(call, on_event, g)) {
        release(g);
        release(g);
        return;
    }
    esp_code code = generate_input(&here, in, rpc_call_deadline_us(call), g, &r, &error);
    if (code == ESP_OK) {
        r->submitted_us = rpc_call_arrived_us(call); /* reading and tokenising count as waiting */
        code = submit(g, r, &error);
    }
    if (code != ESP_OK && error.code != ESP_OK) rpc_finish(call, NULL, &error);
    release(g);
}
