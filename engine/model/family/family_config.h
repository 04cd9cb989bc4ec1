/* family_config.h - the keys of a config.json that all decoder families share: shape, heads, rope,
 * windows. A family says what a missing key means to it and reads the rest itself.
 *
 * Which keys are refused. The class named in `architectures` fixes the arithmetic: a key that the
 * class does not read changes nothing, and published files are full of such keys. So unlike in GGUF
 * a key that nobody here knows is passed over. Refused by name are: a class that is not known, a
 * value of a known key that is not computed, and the keys by which other classes, or code that comes
 * with a model, change a decoder's arithmetic, where their value says that they do (experts, other
 * biases, multipliers, another attention). */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_FAMILY_CONFIG_H
#define ESPALIER_MODEL_FAMILY_CONFIG_H

#include "engine/model/family/hf_keys.h"
#include "engine/model/spec.h"

/* Every class has these. LongRoPE means something else in each version of the reference but for Phi. */
enum { CONFIG_SCALINGS = 1 << SCALING_LINEAR | 1 << SCALING_DIVISORS | 1 << SCALING_YARN };

typedef struct config_traits {
    const char *family;
    const char *text_type; /* text_config.model_type; NULL: keys of such are not nested */
    unsigned scalings;     /* 1 << spec_scaling of those it computes besides none */
    bool partial_rotary;   /* partial_rotary_factor below 1 is computed */
    double local_theta;    /* window layers turn by rope_local_base_freq, or this; 0: they do not */
    bool gelu;             /* hidden_activation: the tanh form of gelu; else hidden_act: silu */
    bool tied;             /* what a missing tie_word_embeddings means */
    bool softcaps;         /* the two softcapping keys are read; when missing, they are: */
    double attention_softcap, logit_softcap;
    /* What other missing keys mean; 0: they must be there. */
    uint32_t heads, vocab, context;
    uint32_t kv_heads; /* 0, or a null: as many as heads */
    uint32_t head_dim; /* 0: the residual width shared out among the heads */
    double theta, norm_eps;
} config_traits;

/* Fills *spec but for windows and what only the family knows. */
ESP_CHECKED esp_code config_read(const hf_config *config, const config_traits *traits,
                                 model_spec *spec, esp_error *err);

/* Which layers slide, where layer_types does not list them. */
typedef struct config_windows {
    bool off;               /* none slides, whatever sliding_window is */
    uint32_t window;        /* a missing sliding_window; 0: none slides */
    uint32_t first;         /* layers from this one on slide, */
    uint32_t full_every;    /* but for every n-th, counted from 1; 0: all of them */
    bool reads_layer_types; /* the class goes by them; else they must say the same */
} config_windows;
ESP_CHECKED esp_code config_read_windows(const hf_config *config, const config_windows *windows,
                                         model_spec *spec, esp_error *err);

/* rope_theta, rope_scaling, or the newer rope_parameters; spec has its heads and context. */
ESP_CHECKED esp_code config_read_rope(const hf_config *config, const config_traits *traits,
                                      model_spec *spec, esp_error *err);

/* Refuses the keys by which other classes change the arithmetic. */
ESP_CHECKED esp_code config_refuse_foreign(const hf_config *config, const config_traits *traits,
                                           esp_error *err);

#endif
