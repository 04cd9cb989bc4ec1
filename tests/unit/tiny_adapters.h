/* tiny_adapters.h - random adapters beside a tiny model, served as a0, a1, ...; and a crowd of requests through them,
 * each alone or all together, whose answers are to have the same bits. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TESTS_TINY_ADAPTERS_H
#define ESPALIER_TESTS_TINY_ADAPTERS_H

#include "tests/unit/tiny_adapter.h"
#include "tests/unit/tiny_engine.h"

enum { TINY_ADAPTERS_MAX = 8, TINY_CROWD_MAX = 32, TINY_OUTPUT_MAX = 16 };
enum { BASE = -1 }; /* in place of an adapter's number */

/* --- adapters ----------------------------------------------------------------------------- */

typedef struct tiny_adapters {
    uint32_t count;
    char folders[TINY_ADAPTERS_MAX][TA_PATH_BYTES];
    char options[TINY_ADAPTERS_MAX][TA_PATH_BYTES + 8]; /* of --adapter */
} tiny_adapters;

static inline void tiny_adapters_add(tiny_adapters *all, const tiny_adapter_options *options) {
    uint32_t i = all->count++;
    ESP_ASSERT(i < TINY_ADAPTERS_MAX);
    tiny_adapter_write(all->folders[i], options);
    int bytes = snprintf(all->options[i], sizeof all->options[i], "a%u=", i);
    memcpy(all->options[i] + bytes, all->folders[i], TA_PATH_BYTES);
}

static inline void tiny_adapters_remove(tiny_adapters *all) {
    while (all->count > 0)
        tiny_adapter_remove(all->folders[--all->count]);
}

/* An engine over a model with the first `count` of them. */
static inline engine *tiny_open_with(const char *path, const tiny_adapters *all, uint32_t count,
                                     model_config config) {
    ESP_ASSERT(count <= all->count);
    config.adapters.count = count;
    for (uint32_t i = 0; i < count; i++)
        config.adapters.at[i] = all->options[i];
    return tiny_open(path, config);
}

/* A reference, or NULL for BASE. */
static inline adapter *tiny_find(engine *e, int which) {
    char name[16];
    adapter *out = NULL;
    esp_error err = {0};
    if (which == BASE) return NULL;
    snprintf(name, sizeof name, "a%d", which);
    if (adapters_find(engine_adapters(e), name, &out, &err) != ESP_OK) fail_msg("%s", err.message);
    return out;
}

/* --- answers ------------------------------------------------------------------------------ */

typedef struct tiny_answer {
    int32_t ids[TINY_OUTPUT_MAX];
    uint64_t rows[TINY_OUTPUT_MAX]; /* digests of the logits */
    float logprobs[TINY_OUTPUT_MAX];
} tiny_answer;

/* Of a request that has row_digests; the reference is the callee's. */
static inline void tiny_keep(request *r, tiny_answer *out) {
    const size_t count = r->output_max;
    ESP_ASSERT(count <= TINY_OUTPUT_MAX);
    if (r->finish != FINISH_LENGTH)
        fail_msg("ended as %s: %s", finish_reason_name(r->finish), r->error.message);
    memset(out, 0, sizeof *out);
    memcpy(out->ids, r->tokens + r->prompt_count, count * sizeof out->ids[0]);
    memcpy(out->rows, r->row_digests, count * sizeof out->rows[0]);
    if (r->logprobs) memcpy(out->logprobs, r->logprobs, count * sizeof out->logprobs[0]);
    request_unref(r);
}

static inline void tiny_wait(engine *e, const request *r) {
    while (!atomic_load(&r->done))
        engine_step_or_wait(e);
}

static inline void tiny_run(engine *e, request *r) {
    tiny_submit(e, r);
    tiny_wait(e, r);
}

/* Request `number` goes through adapter_of(number). */
typedef struct tiny_crowd {
    uint32_t requests;
    request *(*make)(engine *e, uint32_t number, int which);
    int (*adapter_of)(uint32_t number);
} tiny_crowd;

static inline void tiny_answer_alone(engine *e, const tiny_crowd *crowd, tiny_answer *out) {
    for (uint32_t i = 0; i < crowd->requests; i++) {
        request *r = crowd->make(e, i, crowd->adapter_of(i));
        tiny_run(e, r);
        tiny_keep(r, &out[i]);
    }
}

/* preempt_every: steps; 0: nobody is. */
static inline void tiny_answer_together(engine *e, const tiny_crowd *crowd, uint32_t preempt_every,
                                        tiny_answer *out) {
    request *all[TINY_CROWD_MAX];
    ESP_ASSERT(crowd->requests <= TINY_CROWD_MAX);
    for (uint32_t i = 0; i < crowd->requests; i++)
        tiny_submit(e, all[i] = crowd->make(e, i, crowd->adapter_of(i)));
    for (uint32_t i = 0, step = 1; i < crowd->requests; step++) {
        engine_step_or_wait(e);
        engine_check(e);
        assert_true(step < 100000);
        if (preempt_every && step % preempt_every == 0) engine_preempt_newest(e);
        while (i < crowd->requests && atomic_load(&all[i]->done))
            i++;
    }
    for (uint32_t i = 0; i < crowd->requests; i++)
        tiny_keep(all[i], &out[i]);
}

static inline void tiny_assert_same(const tiny_crowd *crowd, const tiny_answer *a,
                                    const tiny_answer *b, const char *what) {
    for (uint32_t i = 0; i < crowd->requests; i++)
        if (memcmp(&a[i], &b[i], sizeof a[i]) != 0)
            fail_msg("%s: request %u, adapter %d, has other bits", what, i, crowd->adapter_of(i));
}

#endif
