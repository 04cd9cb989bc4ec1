/* sampling.h - what picking a token out of a row of logits takes and gives. Plain data: engine/sample.h picks on the
 * host, kernels.h's sample on a device, and both pick the same. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_BASE_SAMPLING_H
#define ESPALIER_BASE_SAMPLING_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"

enum {
    SAMPLE_LOGPROBS_MAX = 20,  /* top_logprobs */
    SAMPLE_BIAS_MAX = 1024,    /* logit_bias entries */
};

typedef struct sample_bias {
    int32_t id;
    float bias; /* added to the logit; -100..100 */
} sample_bias;

/* All-zero means: greedy, no penalties (repetition_penalty 0 is read as 1, top_p 0 as 1). */
typedef struct sample_policy {
    float temperature;        /* 0 = greedy; 0..10 */
    uint32_t top_k;           /* 0 = off */
    float top_p;              /* (0,1]; 1 = off */
    float min_p;              /* [0,1]; 0 = off: keep p >= min_p * max p */
    float repetition_penalty; /* (0,10]; 1 = off: logit>0 ? l/p : l*p over prompt and output tokens (CTRL) */
    float presence_penalty;   /* [-2,2]: subtracted once per token that occurs in the output */
    float frequency_penalty;  /* [-2,2]: subtracted times its count in the output */
    uint64_t seed;
    uint32_t bias_count;
    const sample_bias *bias; /* the request's */
    uint32_t top_logprobs;   /* 0..SAMPLE_LOGPROBS_MAX alternatives wanted */
    bool logprobs;           /* the picked token's logprob wanted */
} sample_policy;

typedef struct sample_logprob {
    int32_t id;
    float logprob;
} sample_logprob;

typedef struct sample_result {
    int32_t id;
    float logprob; /* 0 unless policy.logprobs or top_logprobs */
    uint32_t top_count;
    sample_logprob top[SAMPLE_LOGPROBS_MAX]; /* best first; ties by lower id */
} sample_result;

/* The tokens penalties look at. */
typedef struct sample_history {
    const int32_t *tokens; /* prompt then output */
    uint32_t prompt_count, count;
    /* Not 0: the last of them is not there yet: the device picks it, for row awaited - 1 of the step before. */
    uint32_t awaited;
} sample_history;

/* One row of a step. */
typedef struct sample_row {
    /* In. */
    const sample_policy *policy;
    sample_history history; /* the token picked is the next one */
    const float *logits;    /* [vocab]; where the host picks, .. */
    uint32_t vocab;         /* .. so many */
    uint64_t *digest;       /* gets XXH3 (64 bits) of the logits; NULL: not wanted */
    /* Out. */
    esp_code code; /* ESP_INTERNAL when the logits hold no finite value */
    sample_result result;
    esp_error error;
} sample_row;

#define SAMPLE_NOTHING_FINITE                                                                      \
    "the model gave no finite logit at position %u; the weights are damaged or this build "        \
    "computes them wrongly"

#endif
