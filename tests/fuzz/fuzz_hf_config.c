/* fuzz_hf_config.c - any bytes as config.json, and as generation_config.json beside a good one: the
 * family, the spec, the ids that end a generation. A spec that is given is within its bounds. Seeds:
 * corpus/hf_config, made by make_hf_config_corpus.py. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/family.h"

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

static void read_ids(const hf_config *config) {
    int32_t ids[8], bos;
    uint32_t count;
    bool found;
    esp_error err = {0};
    if (hf_config_eos(config, ids, 8, &count, &err)) check(err.message[0] != 0);
    if (hf_config_bos(config, &found, &bos, &err)) check(err.message[0] != 0);
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

static void read_config(const void *config, size_t config_bytes, const void *generation,
                        size_t generation_bytes) {
    hf_config *opened;
    esp_error err = {0};
    if (hf_config_open_memory(&opened, config, config_bytes, generation, generation_bytes, &err)) {
        check(!opened && err.message[0]);
        return;
    }
    read_ids(opened);
    read_spec(opened);
    hf_config_close(opened);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char plain[] = "{}";
    static const uint8_t none[1];
    const uint8_t *bytes = size ? data : none; /* no bytes are none at all to the reader */
    read_config(bytes, size, NULL, 0);
    read_config(plain, sizeof plain - 1, bytes, size);
    return 0;
}
