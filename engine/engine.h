/* engine.h - one engine: a model on a device, a scheduler, pages, and one thread that steps.
 *
 *   engine_open -> engine_start (its own thread)   or   engine_step by the caller (commands, tests)
 *   any thread: engine_submit, engine_cancel; engine_news gives requests that have something new
 *
 * Thread  open, step, logits and close by the owner; submit, cancel, news, stats by anyone.
 * Decode  a step allocates nothing, holds no lock, logs nothing. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_ENGINE_H
#define ESPALIER_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/queue.h"
#include "engine/base/status.h"
#include "engine/config.h"
#include "engine/histogram.h"
#include "engine/model/model.h"
#include "engine/model/model_cost.h"
#include "engine/request.h"
#include "engine/text/template.h"
#include "engine/text/tokenizer.h"

typedef struct engine engine;

/* Opens model, tokenizer, device and pages as the config says; NULL progress for none (see model.h). */
ESP_CHECKED esp_code engine_open(engine **out, const model_config *config,
                                 void (*progress)(void *, uint64_t, uint64_t), void *progress_arg,
                                 esp_error *err);
/* Stops the thread; requests that live end with ESP_UNAVAILABLE. */
void engine_close(engine *e);

/* What it serves. Constant while open. */
const model_spec *engine_spec(const engine *e);
const tokenizer *engine_tokenizer(const engine *e);
/* NULL when the model has none or an unknown one; *why then says which. */
const chat_template *engine_template(const engine *e, const esp_error **why);
const char *engine_name(const engine *e);    /* --name or the file's name without .gguf */
const char *engine_profile(const engine *e); /* the numeric profile */
const char *engine_path(const engine *e);    /* absolute, where that could be found out */
/* What the model is, by the content of its files (model_digest.h); "" unless config.digest asked. */
const char *engine_digest(const engine *e);
/* Where requests find their adapters; NULL when the config names none and does not serve. */
adapters *engine_adapters(const engine *e);
/* Ids below are tokens of the model, or of an adapter whose words are read; ad NULL: of the base. */
uint32_t engine_vocab(const engine *e, const adapter *ad);
/* The tokenizer for texts that go through an adapter; ad NULL: the base's. */
const tokenizer *engine_tokenizer_of(const engine *e, const adapter *ad);
adapter_store *engine_adapter_store(const engine *e); /* theirs; NULL: none */
uint32_t engine_context_max(const engine *e);
/* Whether it takes requests for vectors (of engine_spec's `hidden` floats) instead of such for tokens. */
bool engine_embeds(const engine *e);
size_t engine_weight_bytes(const engine *e);
model_cost engine_cost(const engine *e);

/* Hands the request to the engine thread (which takes its own reference) or says why not:
 * ESP_INVALID can never fit, or the model does not do that; ESP_EXHAUSTED full, with retry_ms; ESP_UNAVAILABLE draining. */
ESP_CHECKED esp_code engine_submit(engine *e, request *r, esp_error *err);
/* Seen within one step; idempotent; the request still ends through `done`. */
void engine_cancel(engine *e, request *r);

/* The stream side. News are kept from the first call of engine_news_signal on (a caller that steps by
 * itself and reads `published` needs none). engine_news pops a request with new tokens or that is done (NULL: none now), a reference goes to the
 * caller. Wait on the signal between: seen = signal_seen(s); drain; signal_wait(s, seen, ...). */
request *engine_news(engine *e);
/* Of what engine_news gave, by who took it: the request is done, and its place is free again. One that ended since has
 * more news to come. */
bool engine_told_end(const request *r);
signal_word *engine_news_signal(engine *e);
/* Before the first call of engine_news_signal: several engines tell their news at one signal, which outlives them. */
void engine_share_news(engine *e, signal_word *with);

/* One step: take submissions and cancels, plan, launch, collect, publish. false when there is nothing to do
 * now: no request lives, or all of them wait for adapters that are being brought. */
bool engine_step(engine *e);
/* A step, and where all who live wait for adapters a wait until one has come, a second at most. */
void engine_step_or_wait(engine *e);

/* Of a rank other than 0 (config.comm): computes what rank 0 sends, until that one closes its engine. An error:
 * this rank's fault or another's. */
ESP_CHECKED esp_code engine_follow(engine *e, esp_error *err);

ESP_CHECKED esp_code engine_start(engine *e, esp_error *err); /* steps on its own thread */
/* Refuses new requests from now on; returns at once. engine_stats tells when it is empty. */
void engine_drain(engine *e);
/* Cancels everything that lives (end of the grace time). */
void engine_cancel_all(engine *e);

/* Logits of every position of one prefill, in order: row i is given to sink as [vocab] floats. ad: through that
 * adapter, of which the caller holds a reference; NULL: the base. The engine must be idle and not started. */
typedef esp_code (*logits_sink)(void *arg, uint32_t position, const float *row, esp_error *err);
ESP_CHECKED esp_code engine_logits(engine *e, adapter *ad, const int32_t *ids, uint32_t count,
                                   logits_sink sink, void *arg, esp_error *err);

/* A snapshot, each number read on its own. A request that starts is in `waiting`, in `running` or in both, never in
 * neither; who reads that nothing runs reads all that was counted until then. */
typedef struct engine_stats {
    uint32_t live; /* submitted and not done */
    uint32_t waiting, running;
    uint32_t pages_used, pages_total;
    uint64_t requests_total, prompt_tokens_total, output_tokens_total, preemptions_total;
    uint64_t finished_total[FINISH_ERROR + 1]; /* by finish_reason */
    uint64_t steps_total, step_tokens_total;
    uint64_t steps_ahead_total; /* launched before the one before was collected */
    uint64_t embeddings_total;
    int64_t last_step_us;  /* when the last step ended (monotonic); 0 = none yet */
    bool step_running;     /* a step is in flight: its age is now - step_began_us */
    int64_t step_began_us;
    bool draining;
    bool broken; /* a device fault: every request ends with ESP_UNAVAILABLE until a restart */
    histogram ttft, itl, e2e;
} engine_stats;
void engine_read_stats(const engine *e, engine_stats *out);
/* Two of them alone. */
uint32_t engine_live(const engine *e);
bool engine_broken(const engine *e);

/* Tests and benches only (owner thread). */
bool engine_preempt_newest(engine *e);
void engine_check(const engine *e);

#endif
