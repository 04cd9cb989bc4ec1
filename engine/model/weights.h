/* weights.h - a model's matrices on a device, and the buffers of its forward pass. Shared by weights.c,
 * which fills it, forward.c, which runs it, and model_cost.c, which counts it; nobody else includes it. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_WEIGHTS_H
#define ESPALIER_MODEL_WEIGHTS_H

#include "cluster/rank_sum.h"
#include "engine/model/model.h"
#include "engine/model/segments.h"

/* Norm weights are float32 device vectors; an absent matrix is NULL. */
typedef struct layer_weights {
    void *attn_norm; /* [H] */
    kern_matrix *q, *k, *v, *o;
    void *q_bias, *k_bias, *v_bias; /* [rows of the matrix], or NULL */
    void *q_norm, *k_norm;          /* [D], or NULL */
    void *attn_post_norm;           /* [H], or NULL */
    void *mlp_norm;                 /* [H] */
    kern_matrix *gate, *up, *down;
    void *mlp_post_norm; /* [H], or NULL */
    /* encoders; else NULL */
    void *attn_norm_bias, *mlp_norm_bias; /* [H] */
    void *o_bias, *up_bias, *down_bias;   /* [rows of the matrix] */
} layer_weights;

/* Neighbouring rows of logits that are of one width. */
typedef struct logits_piece {
    uint32_t first, count; /* rows, counted from the first that was asked for */
    uint32_t vocab;        /* columns of all ranks .. */
    uint32_t own_cols;     /* .. and of this one */
    size_t at, own_at;     /* floats before it in the model's logits, in own_logits */
} logits_piece;

/* One device buffer and its size, for release. */
typedef struct device_buffer {
    void *at;
    size_t bytes;
} device_buffer;

struct model {
    model_spec spec;   /* of this rank: its own heads, middle and vocabulary (shard.h) */
    model_spec whole;  /* of the model */
    model_shard shard; /* all-zero: there is one rank */
    rank_sum sum;      /* over the ranks; all-zero: there is one */
    model_options options;
    page_groups groups;
    kern_kv_shape kv_shape; /* of a page: layers of one group */

    kern_matrix *embedding; /* [V,H] */
    kern_matrix *output;    /* [V,H]; the embedding itself when tied; NULL: no logits */
    void *final_norm;       /* [H]; NULL: none */
    kern_matrix *positions; /* [P,H] learned, or NULL */
    void *token_type;       /* [H] what every token gets, or NULL */
    void *embedding_norm, *embedding_norm_bias; /* [H], or NULL */
    layer_weights *layers;
    void *rope;       /* [context_max, rotary/2, 2] F32 */
    void *rope_long;  /* of sequences beyond spec_short_context, or NULL */
    void *rope_local; /* of window layers, when spec.rope_local */
    size_t weight_bytes;
    struct pack_cache *cache; /* what mapped matrices lie in, or NULL */
    char pack_layout[160];    /* of its images: the device's, and whose part they are */

    /* Buffers for T = tokens_max, R = rows_max. */
    void *x;      /* [T,H] F32, the residual stream */
    void *act;    /* [T, max(H, heads*D)] ACT, input of the next linear */
    void *branch; /* [T,H] F32, a sublayer's output that is normed before it is added */
    void *qkv;    /* [T, (heads + 2*kv_heads) * D] F32 */
    void *mid;    /* [T,I] ACT */
    void *picked; /* [R,H] ACT, normed rows whose logits are wanted */
    /* F32, MODEL_LOGITS_ROWS rows of the widest vocabulary there may be: */
    void *own_logits;   /* of this rank's part of it; NULL: none are made */
    void *logits;       /* of all; on one rank its own */
    void *logit_pieces; /* rank 0 of several: the others' own, one after another */
    void *pooled; /* [R,H] F32, of models that embed; else NULL */
    void *seen;   /* host memory for logits or pooled (kern_ops.view), .. */
    size_t seen_bytes;  /* .. as many bytes */
    uint32_t row_count; /* of the batch last run */
    uint32_t computed;  /* tokens that its ops were computed for, at least those that it has */

    segments segments; /* of the batch last run */
    logits_piece logits_pieces[MODEL_LOGITS_ROWS]; /* of the logits last made */
    uint32_t logits_piece_count;

    device_buffer *buffers; /* everything from alloc, for model_close */
    uint32_t buffer_count, buffer_capacity;
};

/* A zeroed device buffer of the model's, released by model_close. */
ESP_CHECKED esp_code model_take_buffer(model *m, uint64_t count, size_t element_bytes, void **out,
                                       esp_error *err);

/* Fills the model's rope tables (rope_table.c). */
ESP_CHECKED esp_code model_prepare_rope(model *m, esp_error *err);

#endif
