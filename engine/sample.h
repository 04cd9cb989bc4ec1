/* sample.h - from a row of logits to a token.
 *
 * Order: bias, penalties, temperature, top-k, top-p, min-p, pick. Logprobs are the log-softmax of the
 * model's raw logits, before all of that, so that a confidence means the same whatever the policy.
 *
 * Noise is counter-based (Philox-4x32-10, Salmon et al., SC 2011): keyed by the request's seed and the
 * position of the sampled token, so a pick depends on nothing but (logits, policy, seed, position).
 *
 * Thread  the engine thread; nothing is allocated: the scratch comes from sample_scratch_open. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_SAMPLE_H
#define ESPALIER_SAMPLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/sampling.h"

enum {
    SAMPLE_STOP_MAX = 16,      /* stop strings */
    SAMPLE_STOP_BYTES_MAX = 256,
};

typedef struct sample_scratch sample_scratch;
/* For rows of vocab logits. */
ESP_CHECKED esp_code sample_scratch_open(sample_scratch **out, uint32_t vocab, esp_error *err);
/* For rows of so many from now on, at most as many as it was opened for. */
void sample_scratch_fit(sample_scratch *scratch, uint32_t vocab);
void sample_scratch_close(sample_scratch *scratch);

/* Checks every field (NaN too); the error names the field and its range. vocab bounds bias ids. */
ESP_CHECKED esp_code sample_policy_check(const sample_policy *policy, uint32_t vocab, esp_error *err);

/* logits [vocab] are read only. position: index of the token being picked (prompt tokens included).
 * ESP_INTERNAL when the logits hold no finite value. Ties go to the lowest id. */
ESP_CHECKED esp_code sample_pick(sample_scratch *scratch, const sample_policy *policy,
                                 const sample_history *history, const float *logits, uint32_t position,
                                 sample_result *out, esp_error *err);

/* Four 32-bit words of Philox-4x32-10. */
void philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

#endif
