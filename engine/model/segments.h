/* segments.h - which tokens of a step go through which adapter.
 *
 * Sequences that stand side by side in the batch and have one adapter are one run of tokens; runs are found
 * once a step, and each linear gets from them the segments of the adapters that touch it. A batch without
 * adapters has no runs, and then nothing here costs anything.
 *
 * Thread  the device's owner. Allocates at open only. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_SEGMENTS_H
#define ESPALIER_MODEL_SEGMENTS_H

#include "engine/model/model.h"

/* Tokens, or rows, [first, first + count) of one adapter; NULL: the base alone. */
typedef struct adapter_run {
    uint32_t first, count;
    const model_adapter *adapter;
} adapter_run;

/* Ascending, without gaps; count 0: no adapter in the batch. */
typedef struct adapter_runs {
    adapter_run *at;
    uint32_t count;
} adapter_runs;

/* What a kern_linear takes; count 0 and at NULL: no adapter touches it. Valid until two more are made. */
typedef struct lora_segments {
    const kern_lora_segment *at;
    uint32_t count;
} lora_segments;

typedef struct segments {
    adapter_runs tokens; /* of the batch's tokens */
    adapter_runs rows;   /* of its rows, the tokens whose logits are wanted */
    kern_lora_segment *made[2]; /* taken in turn */
    uint32_t turn;
} segments;

void segments_open(segments *s, uint32_t tokens_max, uint32_t rows_max);
void segments_close(segments *s);

/* The runs of a batch; adapters as in model_forward. */
void segments_plan(segments *s, const step_batch *batch, const model_adapter *const *adapters);

/* Of one of a layer's linears, ROLE_QKV to ROLE_DOWN, over all tokens. */
lora_segments segments_of_layer(segments *s, kern_role role, uint32_t layer);

/* Of the linear behind that one in a model of so many layers; behind the last one comes the head, whose
 * segments are not known yet: none. */
lora_segments segments_behind(segments *s, kern_role role, uint32_t layer, uint32_t layers);

/* Of the output matrix over rows [first, first + count), which are counted from 0. */
lora_segments segments_of_head(segments *s, uint32_t first, uint32_t count);

#endif
