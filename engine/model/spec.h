/* spec.h - the shape of any decoder, as data. forward.c reads it; a family file fills it from a
 * file's metadata. What a spec cannot say is refused by name, never approximated. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_SPEC_H
#define ESPALIER_MODEL_SPEC_H

#include <stdbool.h>
#include <stdint.h>

enum { SPEC_LAYERS_MAX = 512 };

typedef struct model_spec {
    char family[32];       /* "llama" */
    uint32_t layers;
    uint32_t hidden;       /* H, residual width */
    uint32_t heads;        /* query heads */
    uint32_t kv_heads;     /* divides heads */
    uint32_t head_dim;     /* D; may differ from hidden / heads */
    uint32_t intermediate; /* I, MLP width */
    uint32_t vocab;        /* rows of the embedding; >= the tokenizer's size */
    uint32_t context;      /* positions it was trained for */
    float norm_eps;
    bool tied_embeddings;  /* logits from the embedding matrix */

    /* rope: the first `rotary` dims of a head turn */
    uint32_t rotary;
    bool rope_interleaved; /* pairs (2i,2i+1), as GGUF's permuted llama weights want; else halves */
    double rope_theta;

    float attention_scale; /* 1/sqrt(head_dim) unless the family says otherwise */
    float embedding_scale; /* 1 for llama */
} model_spec;

#endif
