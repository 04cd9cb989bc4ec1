/* request.c - makes and ends requests; the states are drawn in request.h. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/request.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/config.h"

const char *finish_reason_name(finish_reason reason) {
    static const char *const names[] = {
        [FINISH_NONE] = "none",         [FINISH_STOP] = "stop",
        [FINISH_LENGTH] = "length",     [FINISH_CANCELLED] = "cancelled",
        [FINISH_DEADLINE] = "deadline", [FINISH_ERROR] = "error",
    };
    ESP_ASSERT((unsigned)reason < sizeof names / sizeof *names);
    return names[reason];
}

static esp_code check_shape(const request_options *o, esp_error *err) {
    if (o->prompt_count == 0)
        return esp_fail_field(err, ESP_INVALID, "prompt",
                              "prompt: no tokens; at least 1 is wanted");
    ESP_ASSERT(!o->embedding_width || o->output_max == 0);
    if (o->output_max == 0 && !o->embedding_width)
        return esp_fail_field(err, ESP_INVALID, "max_tokens",
                              "max_tokens: 0; at least 1 is wanted");
    /* Before anything is copied: the memory of a request is known to be small. */
    if ((uint64_t)o->prompt_count + o->output_max > LIMIT_CONTEXT_MAX)
        return esp_fail_field(err, ESP_INVALID, "max_tokens",
                              "max_tokens: prompt of %u tokens and max_tokens %u are together over "
                              "the limit of %d",
                              o->prompt_count, o->output_max, LIMIT_CONTEXT_MAX);
    return ESP_OK;
}

/* Logprobs are kept for the whole answer: their memory is known before any is taken. */
static esp_code check_logprobs(const request_options *o, esp_error *err) {
    uint64_t bytes = (uint64_t)o->output_max * o->policy.top_logprobs * sizeof(sample_logprob);
    if (bytes <= LIMIT_LOGPROB_BYTES_MAX) return ESP_OK;
    return esp_fail_field(err, ESP_INVALID, "top_logprobs",
                          "top_logprobs: %u for each of max_tokens %u tokens take %llu bytes, at "
                          "most %d are kept",
                          o->policy.top_logprobs, o->output_max, (unsigned long long)bytes,
                          LIMIT_LOGPROB_BYTES_MAX);
}

static esp_code check_prompt(const request_options *o, uint32_t vocab, esp_error *err) {
    for (uint32_t i = 0; i < o->prompt_count; i++)
        if (o->prompt[i] < 0 || (uint32_t)o->prompt[i] >= vocab)
            return esp_fail_field(err, ESP_INVALID, "token_ids",
                                  "token_ids: id %d at index %u is not in 0..%u", o->prompt[i], i,
                                  vocab - 1);
    return ESP_OK;
}

static void copy_input(request *r, const request_options *o) {
    r->prompt_count = o->prompt_count;
    r->output_max = o->output_max;
    r->embedding_width = o->embedding_width;
    r->classifies = o->classifies;
    if (o->embedding_width) r->embedding = mem_new(o->embedding_width, sizeof *r->embedding);
    r->tokens = mem_new((size_t)o->prompt_count + o->output_max, sizeof *r->tokens);
    memcpy(r->tokens, o->prompt, o->prompt_count * sizeof *r->tokens);
    r->policy = o->policy;
    if (o->policy.bias_count) {
        r->bias = mem_new(o->policy.bias_count, sizeof *r->bias);
        memcpy(r->bias, o->policy.bias, o->policy.bias_count * sizeof *r->bias);
    }
    r->policy.bias = r->bias;
    if (o->policy.logprobs || o->policy.top_logprobs)
        r->logprobs = mem_new(o->output_max, sizeof *r->logprobs);
    if (o->policy.top_logprobs)
        r->top = mem_new((size_t)o->output_max * o->policy.top_logprobs, sizeof *r->top);
    if (o->row_digests) r->row_digests = mem_new(o->output_max, sizeof *r->row_digests);
    r->ignore_eos = o->ignore_eos;
    r->priority = o->priority;
    r->deadline_us = o->deadline_us;
    r->user = o->user;
}

static void take_adapter(request *r, const request_options *o) {
    if (!o->adapter) return;
    ESP_ASSERT(o->adapters);
    r->adapters = o->adapters;
    r->adapter = o->adapter;
    r->tok = tok_share(adapter_tokenizer(o->adapter));
    r->by.version = adapter_version(o->adapter);
    snprintf(r->by.name, sizeof r->by.name, "%s", adapter_name(o->adapter));
    snprintf(r->by.digest, sizeof r->by.digest, "%s", adapter_content(o->adapter));
}

void request_leave_adapter(request *r) {
    if (r->adapter) adapter_release(r->adapters, r->adapter);
    r->adapter = NULL;
}

const char *request_adapter_label(const request_adapter *a, char out[REQUEST_ADAPTER_LABEL_BYTES]) {
    out[0] = 0;
    if (a->name[0]) snprintf(out, REQUEST_ADAPTER_LABEL_BYTES, "%s@%u", a->name, a->version);
    return out;
}

esp_code request_new(request **out, const request_options *options, uint32_t vocab,
                     esp_error *err) {
    ESP_ASSERT(out && options);
    static _Atomic uint64_t next_id = 1; /* names requests in logs; nothing depends on its order */
    stop_set stops;
    esp_code code = check_shape(options, err);
    if (code == ESP_OK) code = check_prompt(options, vocab, err);
    if (code == ESP_OK) code = sample_policy_check(&options->policy, vocab, err);
    if (code == ESP_OK) code = check_logprobs(options, err);
    if (code == ESP_OK) code = stop_set_fill(&stops, options->stop, options->stop_count, err);
    if (code != ESP_OK) return code;

    request *r = mem_new(1, sizeof *r);
    r->id = atomic_fetch_add_explicit(&next_id, 1, memory_order_relaxed);
    copy_input(r, options);
    take_adapter(r, options);
    r->stops = stops;
    atomic_init(&r->references, 1);
    *out = r;
    return ESP_OK;
}

void request_ref(request *r) { atomic_fetch_add_explicit(&r->references, 1, memory_order_relaxed); }

void request_unref(request *r) {
    if (!r || atomic_fetch_sub_explicit(&r->references, 1, memory_order_acq_rel) != 1) return;
    request_leave_adapter(r);
    tok_close(r->tok);
    free(r->tokens);
    free(r->bias);
    free(r->logprobs);
    free(r->top);
    free(r->embedding);
    free(r->row_digests);
    free(r);
}
