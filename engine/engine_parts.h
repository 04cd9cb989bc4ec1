/* engine_parts.h - the inside of an engine, shared by what opens and closes it (engine.c, engine_memory.c,
 * engine_adapters.c), its doors (submit.c), the step (loop.c, launch.c, collect.c) and ranks.c; nobody else includes it. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_ENGINE_PARTS_H
#define ESPALIER_ENGINE_PARTS_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/adapter_order.h"
#include "engine/adapters/adapter_send.h"
#include "engine/adapters/adapters.h"
#include "engine/adapters/store.h"
#include "engine/base/pool.h"
#include "engine/engine.h"
#include "engine/model/format/model_digest.h"
#include "engine/profile.h"
#include "engine/ranks.h"
#include "engine/sample_rows.h"
#include "engine/step_message.h"

/* Written by the engine thread with relaxed stores, read by anyone. */
typedef struct atomic_histogram {
    _Atomic uint64_t count[HISTOGRAM_BUCKETS];
    _Atomic uint64_t sum_us;
} atomic_histogram;

typedef struct engine_counters {
    _Atomic uint32_t waiting, running, pages_used;
    _Atomic uint64_t requests, prompt_tokens, output_tokens, preemptions, steps, step_tokens;
    _Atomic uint64_t steps_ahead; /* launched before the one before was collected */
    _Atomic uint64_t embeddings;
    _Atomic uint64_t finished[FINISH_ERROR + 1];
    _Atomic int64_t step_began_us, step_ended_us;
    _Atomic bool step_running, broken;
    _Atomic uint32_t retry_ms; /* what a refused client is told */
    atomic_histogram ttft, itl, e2e;
} engine_counters;

/* A step that was launched and is not collected yet. */
typedef struct step_flight {
    bool picked; /* the device picks its tokens; else the host has to, before the next step */
    uint32_t work_count, row_count;
    sched_work *works;  /* [seqs] in the batch's order; owners only while their sequences live */
    uint32_t *row_work; /* [seqs] of each row the index of its work */
} step_flight;

struct engine {
    model_config config; /* every default resolved */
    char name[256];
    char profile[PROFILE_BYTES_MAX], digest[MODEL_DIGEST_CHARS];
    char *model_path, *absolute_path;

    /* Constant while open. */
    const kern_ops *ops;
    thread_pool *pool;
    kern_device *dev;
    kern_options opened_with;
    model *model;
    adapters *adapters;   /* NULL: none are taken */
    adapter_store *store; /* of --adapter-store; or NULL */
    model_file *file;     /* whose tensors adapters are held against; NULL without them */
    tokenizer *tok;
    chat_template *template;
    esp_error template_why;
    void *arena;
    size_t arena_bytes;
    uint32_t page_count, live_max, rows_max;
    uint32_t model_vocab;

    /* Of several ranks (ranks.h); else NULL. */
    comm *comm;        /* over host memory */
    comm *device_comm; /* over the device's, which may be the same */
    ranks *ranks;      /* those that this engine started */
    void *message; /* of the largest step batch */
    model_shard *shards;        /* [ranks] on rank 0, where adapters are taken */
    adapter_follower *followed; /* on the others */

    /* The engine thread's. */
    scheduler *sched; /* rank 0's alone, as all that plans and samples */
    sample_rows *sampling;
    step_batch batch;
    adapter_order order;                 /* of its sequences */
    const model_adapter **step_adapters; /* [seqs] what batch.seq_adapter indexes */
    uint32_t *step_ids;                  /* [seqs] what the ranks call them, .. */
    uint32_t step_adapter_count;         /* .. so many of the step */
    step_flight flights[SCHED_FLIGHTS_MAX];
    uint32_t flight_first, flight_count; /* the oldest one, and how many in turn */
    uint32_t lead;  /* steps that may be in flight between calls of engine_step */
    bool collected; /* some were in this call */
    request *live;                       /* list through live_next */
    bool broken;                         /* a device fault: nothing runs any more */
    bool had_news;                       /* someone has something new since the last wake */
    esp_error fault;
    int64_t last_end_us, end_gap_ms; /* pace of ended requests, for the retry hint */

    /* Between threads. */
    queue *inbox, *cancels, *news;
    signal_word inbox_signal, news_signal;
    signal_word *tells; /* where news are told: news_signal, or that of several engines */
    _Atomic bool news_wanted, draining, stopping, cancel_all;
    _Atomic uint32_t live_count;
    engine_counters counters;

    pthread_t thread;
    bool started;
};

/* A request's place among live_max; returned when it is done and its last news were taken, so the
 * news queue never holds more than live_max. Idempotent, any thread. */
void engine_return_slot(engine *e, request *r);

static inline void engine_count(_Atomic uint64_t *counter, uint64_t by) {
    atomic_fetch_add_explicit(counter, by, memory_order_relaxed);
}

/* Returns the bucket. */
static inline uint32_t engine_observe(atomic_histogram *h, int64_t us) {
    uint32_t bucket = histogram_bucket(us);
    atomic_fetch_add_explicit(&h->count[bucket], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum_us, (uint64_t)(us > 0 ? us : 0), memory_order_relaxed);
    return bucket;
}

/* ---- opening ---- */

static inline uint32_t engine_rank_count(const engine *e) { return e->comm ? e->comm->size : 1; }
static inline bool engine_leads(const engine *e) { return !e->comm || e->comm->rank == 0; }
/* How long ranks that compute wait for each other. */
static inline int64_t engine_rank_patience_us(const engine *e) {
    float seconds = e->config.rank_patience_seconds;
    return seconds > 0 ? (int64_t)((double)seconds * 1e6) : COMM_PATIENCE_US;
}
static inline bool engine_takes_adapters(const engine *e) {
    return e->config.adapters.count > 0 || e->config.adapter_store || e->config.serves;
}
/* Of the logits of a row: adapters may add tokens. */
static inline uint32_t engine_widest_vocab(const engine *e) {
    return e->model_vocab + (engine_takes_adapters(e) ? MODEL_ADDED_TOKENS_MAX : 0);
}

/* The arena: as many pages on every rank as rank 0 says. Once the model is open. */
ESP_CHECKED esp_code engine_take_pages(engine *e, esp_error *err);
/* Bytes for packed adapters in the host's memory, beside those in use. */
uint64_t engine_adapter_memory(const engine *e);
/* On rank 0. Takes the file over when there may be adapters: they are held against its tensors as they come. */
ESP_CHECKED esp_code engine_open_adapters(engine *e, model_file **file, esp_error *err);
/* On the others: what rank 0 sends of its own. */
void engine_open_followed(engine *e);

/* ---- the step ---- */

/* The batch of a plan goes to the device, which picks its tokens if it can: one more step is in flight. */
ESP_CHECKED esp_code engine_launch(engine *e, const sched_plan *plan, int64_t now_us,
                                   esp_error *err);
/* The oldest step in flight: waits for it, keeps its tokens, ends requests. */
ESP_CHECKED esp_code engine_collect(engine *e, esp_error *err);
/* It is in flight no more; its tokens, where they were not collected, are lost. */
void engine_forget_flight(engine *e);
/* Collects all that is in flight, before something is done that needs it so. */
void engine_settle(engine *e);
void engine_take_flights(engine *e); /* their memory; and back */
void engine_give_flights(engine *e);

bool engine_is_classifier(const request *r);
/* Puts the request into the news queue unless it is there already. */
void engine_tell(engine *e, request *r);
/* Ends a request that the scheduler dropped, or that was cancelled. */
void engine_end_with(engine *e, request *r, esp_code code);

/* Final fields, last news; the engine's reference goes. */
void engine_end_request(engine *e, request *r, finish_reason reason, const esp_error *error);

/* Room for messages of the largest batch. */
void ranks_take_message(engine *e);

/* Ends every request that goes through an adapter. The engine thread, outside of a plan. */
void engine_end_users(engine *e, const adapter *ad, const esp_error *why);

/* A request that wants tokens of an adapter that gives scores; returns ESP_PRECONDITION. */
esp_code engine_refuse_classifier(const request *r, esp_error *err);

#endif
