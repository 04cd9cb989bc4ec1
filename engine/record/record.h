/* record.h - one finished request as a line of JSON, and a file of such lines.
 *
 * Format espalier.record.v1, one object a line, no line longer than RECORD_LINE_BYTES_MAX:
 *
 *   "format"         "espalier.record.v1"
 *   "time"           when it ended, RFC 3339 in UTC; not read
 *   "model"          the served name
 *   "model_path"     where its files lay
 *   "digest"         what they were (model_digest.h)
 *   "profile"        the numeric profile it was computed in (profile.h)
 *   "adapter"        "name@version" of the adapter it went through; without one: the base alone
 *   "adapter_digest" what that adapter was (engine/model/format/adapter_digest.h); with "adapter"
 *   "prompt"         [ids]
 *   "max_tokens"     most tokens of the answer
 *   "ignore_eos"     true or false
 *   "stop_hex"       [the bytes of each stop string, two digits a byte]
 *   "seed"           the one used, in decimal digits: 64 bits are more than JSON numbers carry
 *   "sampling"       {"temperature", "top_k", "top_p", "min_p", "repetition_penalty",
 *                     "presence_penalty", "frequency_penalty", "logit_bias": [[id, bias]]}
 *   "ids"            [output ids]
 *   "finish_reason"  "stop", "length", "cancelled", "deadline" or "error"
 *   "logits_xxh3"    16 hex digits for each of the ids: XXH3 (64 bits, seed 0) of the row of float32
 *                    logits that it was picked from, so that equal lines mean equal bits
 *
 * Unknown keys are passed over: v1 may gain some. A meaning that changes is a v2. The time, the two
 * of the model that are no digest, and the adapter's name are for people. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_RECORD_H
#define ESPALIER_RECORD_H

#include <limits.h>
#include <stdio.h>

#include "engine/engine.h"
#include "engine/model/format/model_digest.h"
#include "engine/profile.h"

#define RECORD_FORMAT "espalier.record.v1"

enum {
    RECORD_LINE_BYTES_MAX = 32 << 20, /* LIMIT_CONTEXT_MAX tokens with their digests fit */
    RECORD_COUNT_MAX = 1 << 20,       /* lines of a file */
};

/* What one line says; the request_options point into it. */
typedef struct record {
    uint32_t line; /* 1 is the first */
    request_options options; /* without the adapter: whoever makes the request finds it */
    char adapter[REQUEST_ADAPTER_LABEL_BYTES];  /* "": the base */
    char adapter_digest[ADAPTER_DIGEST_CHARS];
    int32_t *prompt; /* [options.prompt_count] */
    sample_bias *bias;
    tok_text *stops; /* their bytes lie behind each other at stop_bytes */
    char *stop_bytes;
    int32_t *ids;   /* [count] what was answered */
    uint64_t *rows; /* [count] digests of the logits */
    uint32_t count;
    finish_reason finish;
} record;

/* A file of records of one model in one profile. */
typedef struct recording {
    record *records;
    uint32_t count, capacity;
    uint32_t cut; /* lines without their end: whoever wrote them was stopped. They are left out. */
    char model[256], model_path[PATH_MAX];
    char digest[MODEL_DIGEST_CHARS], profile[PROFILE_BYTES_MAX];
} recording;

/* Appends the line of a request that is done and whose options asked for row_digests. Of an engine
 * whose config asked for the digest. */
void record_write(FILE *out, const engine *e, const request *done);

/* name begins error sentences. ESP_INVALID names line and field; ESP_PRECONDITION: lines of two
 * models or profiles. recording_free, also after a failure. */
ESP_CHECKED esp_code recording_read(recording *out, const void *bytes, size_t count,
                                    const char *name, esp_error *err);
void recording_free(recording *r);

#endif
