/* model_cost.h - the least that a step of this model reads and multiplies: what figures of
 * utilisation are made of. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_COST_H
#define ESPALIER_MODEL_COST_H

#include "engine/model/model.h"

typedef struct model_cost {
    uint64_t step_bytes; /* packed matrices that a step reads whole: the layers' and the output's */
    uint64_t token_flops; /* of the layers' matrices, for each token: two a weight */
    uint64_t row_flops;   /* of the output matrix, for each row whose logits are made */
    bool whole_codes;     /* of all matrices of the layers (quant.h) */
} model_cost;

model_cost model_cost_of(const model *m);

/* Of the scores and sums of all layers, for tokens [first, first + count) of one sequence. */
double model_attention_flops(const model_spec *spec, uint32_t first, uint32_t count);

#endif
