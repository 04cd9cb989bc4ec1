/* weights.h - a model's matrices on a device, and the buffers of its forward pass. Shared by weights.c,
 * which fills it, and forward.c, which runs it; nobody else includes it. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_WEIGHTS_H
#define ESPALIER_MODEL_WEIGHTS_H

#include "engine/model/model.h"

/* Norm weights are float32 device vectors; an absent matrix is NULL. */
typedef struct layer_weights {
    void *attn_norm; /* [H] */
    kern_matrix *q, *k, *v, *o;
    void *mlp_norm; /* [H] */
    kern_matrix *gate, *up, *down;
} layer_weights;

/* One device buffer and its size, for release. */
typedef struct device_buffer {
    void *at;
    size_t bytes;
} device_buffer;

struct model {
    model_spec spec;
    model_options options;
    kern_kv_shape kv_shape;

    kern_matrix *embedding; /* [V,H] */
    kern_matrix *output;    /* [V,H]; the embedding itself when tied */
    void *final_norm;       /* [H] */
    layer_weights *layers;
    void *cos_sin; /* [context_max, rotary/2, 2] F32 */
    size_t weight_bytes;

    /* Buffers for T = tokens_max, R = rows_max. */
    void *x;      /* [T,H] F32, the residual stream */
    void *act;    /* [T, max(H, heads*D)] ACT, input of the next linear */
    void *qkv;    /* [T, (heads + 2*kv_heads) * D] F32 */
    void *mid;    /* [T,I] ACT */
    void *picked; /* [R,H] ACT, normed rows whose logits are wanted */
    void *logits; /* [MODEL_LOGITS_ROWS, V] F32 */

    device_buffer *buffers; /* everything from alloc, for model_close */
    uint32_t buffer_count, buffer_capacity;
};

#endif
