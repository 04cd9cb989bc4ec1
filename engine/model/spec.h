/* spec.h - the shape of any decoder, as data. forward.c reads it; a family file fills it from a
 * file's metadata. What a spec cannot say is refused by name, never approximated. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_SPEC_H
#define ESPALIER_MODEL_SPEC_H

#include <stdbool.h>
#include <stdint.h>

enum {
    SPEC_LAYERS_MAX = 512,
    SPEC_HEAD_DIM_MAX = 256,
    SPEC_PAIRS_MAX = SPEC_HEAD_DIM_MAX / 2,
    SPEC_HIDDEN_MAX = 65536,
    SPEC_INTERMEDIATE_MAX = 1048576,
    SPEC_HEADS_MAX = 1024,
    SPEC_VOCAB_MAX = 4194304,
    SPEC_CONTEXT_MAX = 16777216,
    SPEC_COLUMNS_MULTIPLE = 32,  /* elements of the largest block of a format */
    SPEC_HEAD_DIM_MULTIPLE = 16, /* what the attention kernels take at a time */
};

typedef enum spec_activation { ACTIVATION_SILU, ACTIVATION_GELU_TANH } spec_activation;

/* How the frequencies theta^(-2i/rotary) are scaled for a longer context than the first one. */
typedef enum spec_scaling {
    SCALING_NONE,
    SCALING_LINEAR,   /* divided by factor */
    SCALING_DIVISORS, /* each divided by its own number (Llama 3.1 and later) */
    SCALING_YARN, /* low ones divided by factor, high ones kept, a ramp between (arXiv:2309.00071) */
    SCALING_LONGROPE, /* each divided by its element of a short or a long list (arXiv:2402.13753) */
} spec_scaling;

typedef struct spec_rope {
    double theta;
    spec_scaling scaling;
    double factor;               /* linear, yarn */
    double magnitude;            /* cos and sin are multiplied by it */
    uint32_t original;           /* yarn, longrope: context before scaling */
    double beta_fast, beta_slow; /* yarn: turns within `original` where the ramp begins and ends */
    float divisors[SPEC_PAIRS_MAX];      /* divisors, longrope's short list: [rotary/2], each > 0 */
    float long_divisors[SPEC_PAIRS_MAX]; /* longrope */
} spec_rope;

typedef struct model_spec {
    char family[32]; /* "llama" */
    uint32_t layers;
    uint32_t hidden;       /* H, residual width */
    uint32_t heads;        /* query heads */
    uint32_t kv_heads;     /* divides heads */
    uint32_t head_dim;     /* D; may differ from hidden / heads */
    uint32_t intermediate; /* I, MLP width */
    uint32_t vocab;        /* rows of the embedding; >= the tokenizer's size */
    uint32_t context;      /* positions it was trained for */
    float norm_eps;
    bool tied_embeddings; /* logits from the embedding matrix */
    spec_activation activation;

    /* rope: the first `rotary` dims of a head turn */
    uint32_t rotary;
    bool rope_interleaved; /* pairs (2i,2i+1), as GGUF's permuted llama weights want; else halves */
    spec_rope rope;        /* of layers that see everything, and of all others unless rope_local */
    bool rope_local;       /* window layers turn by local_theta, unscaled */
    double local_theta;

    /* attention */
    uint32_t window; /* keys that a window layer sees, its own token's too; 0: none slides */
    bool slides[SPEC_LAYERS_MAX]; /* is it a window layer */
    float attention_scale;        /* 1/sqrt(head_dim) unless the family says otherwise */
    float attention_softcap;      /* of scores; 0: none */

    float embedding_scale; /* 1 for llama */
    float logit_softcap;   /* 0: none */
} model_spec;

/* Length beyond which a sequence is rotated by the long list; UINT32_MAX: there is none. */
static inline uint32_t spec_short_context(const model_spec *spec) {
    return spec->rope.scaling == SCALING_LONGROPE ? spec->rope.original : UINT32_MAX;
}

#endif
