/* replay.h - runs recorded requests again, in other company, and compares bits.
 *
 * So many requests live at any time, in an order of their own for each number, so that each one meets
 * other neighbours, other chunks and other batches than when it was recorded: none of that may
 * matter (law 1).
 *
 * Thread  the engine's owner; the engine is open and not started. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_REPLAY_H
#define ESPALIER_REPLAY_H

#include "engine/record/record.h"

typedef enum replay_verdict {
    REPLAY_SAME,    /* every token, every bit of its logits, and the end */
    REPLAY_NOTHING, /* recorded without a token: nothing to compare */
    REPLAY_LOGITS,  /* at `token` other logits gave the same id */
    REPLAY_TOKEN,   /* at `token` another id */
    REPLAY_END,     /* it ended after other tokens, or for another reason */
} replay_verdict;

typedef struct replay_outcome {
    replay_verdict verdict;
    uint32_t token; /* index of the first difference */
    int32_t id;     /* what came there; -1: nothing */
    uint32_t count; /* tokens made */
    finish_reason finish;
} replay_outcome;

/* ESP_PRECONDITION naming both when model or profile are not the recorded ones; ESP_PRECONDITION too
 * when the adapter of a line is not at hand; ESP_INVALID for a line that this engine can never run. */
ESP_CHECKED esp_code replay_check(const engine *e, const recording *recorded, const char *name,
                                  esp_error *err);

typedef struct replay_options {
    uint32_t concurrency; /* >= 1 */
    void (*progress)(void *arg, uint64_t done, uint64_t total);
    void *progress_arg;
} replay_options;

/* outcomes [recorded->count]. Fails only where the engine does. */
ESP_CHECKED esp_code replay_run(engine *e, const recording *recorded, const replay_options *options,
                                replay_outcome *outcomes, esp_error *err);

#endif
