/* family_decoder.h - the metadata that all decoder families share, under the architecture's prefix:
 * shape, heads, rope, windows. A family says what it allows and reads the rest itself. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_FAMILY_DECODER_H
#define ESPALIER_MODEL_FAMILY_DECODER_H

#include "engine/model/family/family_keys.h"
#include "engine/model/spec.h"

typedef struct decoder_traits {
    const char *architecture; /* prefix of its keys, without the dot */
    bool rope_interleaved;    /* rows of q and k lie permuted in its files */
    unsigned scalings;        /* 1 << spec_scaling of those it computes besides none */
    const char *const
        *own_keys; /* suffixes of keys that the family reads itself; NULL at the end */
} decoder_traits;

/* Fills *spec but for what only the family knows; an unknown or unsupported key is refused. */
ESP_CHECKED esp_code decoder_read(const gguf_file *file, const decoder_traits *traits,
                                  model_spec *spec, esp_error *err);

/* attention.sliding_window; no key or 0: no layer slides. Every full_every-th layer, counted from 1,
 * sees everything; 0: all slide. */
ESP_CHECKED esp_code decoder_read_window(const gguf_file *file, const char *architecture,
                                         uint32_t full_every, model_spec *spec, esp_error *err);

/* The rope.* keys and what the presence of lists of divisors says. */
ESP_CHECKED esp_code decoder_read_rope(const gguf_file *file, const decoder_traits *traits,
                                       model_spec *spec, esp_error *err);

/* "architecture.suffix" */
typedef struct decoder_key {
    char text[96];
} decoder_key;
decoder_key decoder_key_of(const char *architecture, const char *suffix);

#endif
