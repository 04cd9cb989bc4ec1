/* fuzz_hf_config.c - any bytes as config.json: the family, the spec. A spec that is given is within its
 * bounds. Seeds: corpus/hf_config, made by make_hf_config_corpus.py. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/family/family.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool holds) {
    if (!holds) abort();
}

static void check_spec(const model_spec *spec) {
    check(spec->layers > 0 && spec->layers <= SPEC_LAYERS_MAX);
    check(spec->hidden > 0 && spec->hidden <= SPEC_HIDDEN_MAX);
    check(spec->kv_heads > 0 && spec->heads % spec->kv_heads == 0);
    check(spec->head_dim > 0 && spec->head_dim <= SPEC_HEAD_DIM_MAX);
    check(spec->rotary >= 2 && spec->rotary <= spec->head_dim && spec->rotary % 2 == 0);
    check(spec->vocab > 0 && spec->context > 0);
    check(isfinite(spec->rope.theta) && isfinite(spec->rope.magnitude));
    check(isfinite(spec->attention_scale) && spec->norm_eps > 0);
    bool divided = spec->rope.scaling == SCALING_DIVISORS || spec->rope.scaling == SCALING_LONGROPE;
    for (uint32_t i = 0; i < spec->rotary / 2 && divided; i++)
        check(isfinite(spec->rope.divisors[i]) && spec->rope.divisors[i] > 0);
    for (uint32_t i = 0; i < spec->layers; i++)
        check(!spec->slides[i] || spec->window > 0);
}

static void read_spec(const hf_config *config) {
    static model_spec spec;
    const model_family *family;
    esp_error err = {0};
    if (family_find_config(config, &family, &err) || family->read_config(config, &spec, &err))
        check(err.message[0] != 0);
    else
        check_spec(&spec);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const uint8_t none[1];
    hf_config *opened;
    esp_error err = {0};
    if (hf_config_open_memory(&opened, size ? data : none, size, &err)) {
        check(!opened && err.message[0]);
        return 0;
    }
    read_spec(opened);
    hf_config_close(opened);
    return 0;
}
