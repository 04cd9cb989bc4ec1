/* request.h - the spine: one request from submit to its last token.
 *
 *              request_new (RPC thread: tokens, policy, limits)
 *                   |
 *                   v   engine_submit: bounded inbox, full = ESP_EXHAUSTED at once
 *               SUBMITTED
 *                   |   engine_step takes it from the inbox, sched_submit
 *                   v
 *               SCHEDULED  ----- tokens appear: tokens[], published grows -----+
 *                   |                                                          |
 *                   |   eos, stop string, output_max | engine_cancel, deadline | fault
 *                   v
 *                 DONE       finish, error and timings are final; published is final
 *
 * The engine thread writes tokens, logprobs and the final fields; it then raises `published` (release) and,
 * once a step, wakes the stream side. The stream side reads up to `published` (acquire) and may lag as
 * far as it likes: the tokens are the queue, so a slow reader costs no memory beyond the request's own.
 *
 * Ownership  two references: the submitter's and the engine's. request_unref by each. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_REQUEST_H
#define ESPALIER_REQUEST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/adapters/adapters.h"
#include "engine/base/status.h"
#include "engine/histogram.h"
#include "engine/sample.h"
#include "engine/stream.h"
#include "scheduler/scheduler.h"

typedef enum finish_reason {
    FINISH_NONE,
    FINISH_STOP,      /* eos or a stop string; the embedding is made */
    FINISH_LENGTH,    /* output_max reached */
    FINISH_CANCELLED, /* the client went away or cancelled */
    FINISH_DEADLINE,
    FINISH_ERROR, /* error says why */
} finish_reason;

/* "stop", "length", "cancelled", "deadline", "error" */
const char *finish_reason_name(finish_reason reason);

/* Which adapter answers; kept beyond its use, for the last message and the record. */
typedef struct request_adapter {
    char name[STORE_NAME_MAX + 1]; /* "": the base */
    uint32_t version;
    char digest[ADAPTER_DIGEST_CHARS]; /* of its content */
} request_adapter;

/* "name@version", or "" of the base. */
enum { REQUEST_ADAPTER_LABEL_BYTES = STORE_NAME_MAX + 12 };
const char *request_adapter_label(const request_adapter *a, char out[REQUEST_ADAPTER_LABEL_BYTES]);

/* What a submitter fills in. Everything is copied by request_new, but for the reference on the adapter, which
 * the request takes over when request_new succeeds. */
typedef struct request_options {
    const int32_t *prompt;
    uint32_t prompt_count; /* >= 1 */
    uint32_t output_max;   /* >= 1; an embedding: 0 */
    sample_policy policy;  /* bias is copied */
    bool ignore_eos;
    uint32_t stop_count;  /* <= SAMPLE_STOP_MAX */
    const tok_text *stop; /* each 1..SAMPLE_STOP_BYTES_MAX bytes */
    int32_t priority;
    int64_t deadline_us;      /* monotonic; 0 = none */
    void *user;               /* the submitter's, never followed by the engine */
    uint32_t embedding_width; /* > 0: one vector of so many floats is wanted instead of tokens */
    bool classifies;    /* the vector is the logits of the adapter's labels, as many as it has */
    adapters *adapters; /* of the engine; with an adapter */
    adapter *adapter;   /* adapters_find's, with its words read; NULL: the base */
    bool row_digests;   /* the digest of each token's logits is kept (record.h) */
} request_options;

typedef struct request {
    uint64_t id; /* unique in this process */
    void *user;

    /* Input, constant after request_new. */
    uint32_t prompt_count, output_max;
    uint32_t embedding_width; /* 0: it generates */
    bool classifies;
    sample_policy policy;
    sample_bias *bias;
    bool ignore_eos;
    stop_set stops;
    int32_t priority;
    int64_t deadline_us;
    request_adapter by;
    tokenizer *tok; /* of an adapter that adds tokens, shared; NULL: the base's */

    /* Output: tokens[prompt_count + i] is output token i, i < published. */
    int32_t *tokens;     /* [prompt_count + output_max] prompt first */
    float *logprobs;     /* [output_max] or NULL */
    sample_logprob *top; /* [output_max][policy.top_logprobs] or NULL */
    float *embedding;    /* [embedding_width] once done, unless it failed; or NULL */
    uint32_t itl_count[HISTOGRAM_BUCKETS]; /* times between its tokens; final once done */
    uint64_t *row_digests; /* [output_max] or NULL: XXH3 of the logits each token came from */
    _Atomic uint32_t published;
    _Atomic bool done; /* set last */

    /* Final once done. */
    finish_reason finish;
    esp_error error;
    uint32_t cached_tokens; /* prompt tokens found in the prefix cache; 0 until there is one */

    /* Times, monotonic us; 0 = not yet. */
    int64_t submitted_us, /* arrival, if the submitter set it; else engine_submit's time */
        scheduled_us, first_token_us, last_token_us, done_us;

    uint32_t replica; /* of several (replicas.h), whose it is; constant once submitted */

    /* Let go by the engine thread when the request ends, or with a request that was never submitted. */
    adapters *adapters;
    adapter *adapter;

    /* Engine thread only. */
    sched_seq seq;
    bool in_scheduler;
    uint32_t output_count;
    uint32_t ahead;   /* tokens after these that steps in flight pick */
    uint32_t awaited; /* the row of the last of them, from 1 */
    text_stream scan; /* finds stop strings */
    struct request *live_next, *live_previous;

    /* Between threads. */
    _Atomic bool cancel_asked;
    _Atomic bool in_news; /* already in the engine's news queue */
    _Atomic uint32_t references;
    _Atomic bool slot_returned; /* its place among the engine's live requests is free again */
} request;

/* Checks shapes and limits that need no engine (counts, stop list, policy); returns with one reference. */
ESP_CHECKED esp_code request_new(request **out, const request_options *options, uint32_t vocab,
                                 esp_error *err);
/* The adapter has one user less; idempotent. The engine's, or of one who never submitted. */
void request_leave_adapter(request *r);
void request_ref(request *r);
void request_unref(request *r);

#endif
