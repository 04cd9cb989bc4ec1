/* quant_config.h - what a Hugging Face folder says of how its matrices are quantised.
 *
 * `quantization_config` of config.json, or the whole of quantize_config.json (GPTQ) or
 * quant_config.json (AWQ). Known methods:
 *
 *   gptq                bits, group_size, checkpoint_format (or format) gptq | gptq_v2, desc_act
 *   awq                 bits (w_bit), group_size (q_group_size), version gemm
 *   compressed-tensors  config_groups of weights; formats pack-, int-, float- and naive-quantized
 *   fp8, fbgemm_fp8     weight_block_size
 *
 * Every other method, layout or strategy is refused by name. Only weights are computed quantised:
 * schemes that round activations to 8-bit floats lose that rounding (`activations` says so), schemes
 * that round them to whole numbers are refused. Which modules are packed is seen from their tensors,
 * so lists of modules left out (ignore, modules_to_not_convert) need no reading.
 *
 * Thread  read-only once read: any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_QUANT_CONFIG_H
#define ESPALIER_MODEL_QUANT_CONFIG_H

#include <jansson.h>

#include "engine/model/packed/packed.h"

enum { QUANT_GROUPS_MAX = 16 };

/* Modules that are packed alike. */
typedef struct quant_group {
    packed_scheme scheme;
    const json_t *targets; /* names, "re:" patterns or classes; NULL: all */
} quant_group;

/* All-zero: nothing is quantised. */
typedef struct quant_config {
    json_t *json;
    const char *file;        /* for error sentences; outlives this */
    const char *method;      /* "gptq", inside json; NULL: none */
    const char *activations; /* NULL, or what of them is not computed as trained */
    quant_group groups[QUANT_GROUPS_MAX];
    uint32_t group_count;
} quant_config;

/* Keeps a reference to the object. ESP_INVALID or ESP_UNIMPLEMENTED with a sentence that names the
 * key; *out may be freed then too. `guess`: the file may leave quant_method out (not config.json). */
ESP_CHECKED esp_code quant_config_read(quant_config *out, const json_t *object, bool guess,
                                       const char *file, esp_error *err);
void quant_config_free(quant_config *config);

/* The packed matrix of a module; out->rows is 0 where its weights are plain. */
ESP_CHECKED esp_code quant_config_find(const quant_config *config, const tensor_set *tensors,
                                       model_text module, packed_matrix *out, esp_error *err);

#endif
