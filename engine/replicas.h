/* replicas.h - several engines with one model in one process, and the way of a request to one of them.
 *
 *            replicas_submit: the least loaded, or where its adapter is (replica_choice.h)
 *                 |
 *      +----------+----------+
 *   engine 0   engine 1  ...  each with its devices, weights, scheduler, pages and adapters, and a thread that steps
 *      +----------+----------+
 *                 |
 *            replicas_news: what any of them has, at one signal
 *
 * The first one stands for all: its name, tokenizer, profile and digest are theirs, and requests look their adapters
 * up with it; the one that a request goes to finds the same content under the same name.
 *
 * Devices  GPUs by their links (gpu_groups.h), from that of --device on. On the CPU threads are shared out, and
 *          memories of the host where there are several; --kv-memory and --adapter-memory are those of all.
 * Faults   A replica whose device or ranks failed takes no more requests; those it had have ended with
 *          ESP_UNAVAILABLE. The others go on.
 * Thread   open, start and close by the owner; the rest by anyone. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_REPLICAS_H
#define ESPALIER_REPLICAS_H

#include "engine/adapters/adapter_group.h"
#include "engine/engine.h"
#include "engine/replica_choice.h"

typedef struct replicas replicas;

/* Opens count engines of config, the first one alone and then the others at once; progress is the first one's.
 * ESP_OUT_OF_RANGE: more devices or cores than there are. ESP_PRECONDITION: their answers would differ. */
ESP_CHECKED esp_code replicas_open(replicas **out, const model_config *config, uint32_t count,
                                   void (*progress)(void *, uint64_t, uint64_t), void *progress_arg,
                                   esp_error *err);
/* One that is open already, and is closed with it. */
replicas *replicas_around(engine *e);
/* Stops all; requests that live end with ESP_UNAVAILABLE. NULL is fine. */
void replicas_close(replicas *all);

uint32_t replicas_count(const replicas *all);
engine *replicas_engine(const replicas *all, uint32_t index);
engine *replicas_first(const replicas *all);
/* To be managed as one's; NULL when adapters are not taken. */
adapter_group *replicas_adapters(const replicas *all);

/* As engine_submit; a refusal is that of the replica that it would have gone to first, after all were asked. */
ESP_CHECKED esp_code replicas_submit(replicas *all, request *r, esp_error *err);
void replicas_cancel(replicas *all, request *r);
request *replicas_news(replicas *all);
signal_word *replicas_news_signal(replicas *all);

ESP_CHECKED esp_code replicas_start(replicas *all, esp_error *err);
void replicas_drain(replicas *all);
void replicas_cancel_all(replicas *all);

/* Whether it takes requests: not broken, and not said to be stuck. */
bool replicas_is_up(const replicas *all, uint32_t index);
uint32_t replicas_up(const replicas *all); /* how many */
/* By who looks at the age of its steps. */
void replicas_set_stuck(replicas *all, uint32_t index, bool stuck);

/* Sums; what concerns a step is the first one's. */
void replicas_read_stats(const replicas *all, engine_stats *out);

#endif
