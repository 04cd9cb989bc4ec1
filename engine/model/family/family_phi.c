/* family_phi.c - Phi-3, 3.5 and 4: Llama's arithmetic with q, k, v in one matrix and gate and up in
 * another, rope on halves of the first dims of a head, and LongRoPE in the long-context models.
 * Where the file names a window, all layers slide. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/family/family.h"
#include "engine/model/family/family_config.h"
#include "engine/model/family/family_decoder.h"

static esp_code read_spec(const gguf_file *file, model_spec *spec, esp_error *err) {
    static const decoder_traits traits = {.architecture = "phi3",
                                          .scalings = 1 << SCALING_LONGROPE};
    esp_code code = decoder_read(file, &traits, spec, err);
    return code ? code : decoder_read_window(file, "phi3", 0, spec, err);
}

static esp_code read_config(const hf_config *config, model_spec *spec, esp_error *err) {
    static const config_traits phi3 = {.family = "phi3",
                                       .scalings = 1 << SCALING_LONGROPE,
                                       .partial_rotary = true,
                                       .theta = 10000,
                                       .norm_eps = 1e-5};
    static const config_windows windows = {.window = 0};
    esp_code code = config_read(config, &phi3, spec, err);
    return code ? code : config_read_windows(config, &windows, spec, err);
}

static const char *const CLASSES[] = {"Phi3ForCausalLM", NULL};

const model_family family_phi3 = {
    .architecture = "phi3",
    .read_spec = read_spec,
    .tensor_names = {FAMILY_COMMON_TENSORS, [TENSOR_QKV] = "blk.%u.attn_qkv.weight",
                     [TENSOR_GATE_UP] = "blk.%u.ffn_up.weight",
                     [TENSOR_ROPE_SHORT] = "rope_factors_short.weight",
                     [TENSOR_ROPE_LONG] = "rope_factors_long.weight"},
    .classes = CLASSES,
    .model_type = "phi3",
    .read_config = read_config,
    .config_tensor_names =
        {FAMILY_COMMON_CONFIG_TENSORS, [TENSOR_QKV] = "layers.%u.self_attn.qkv_proj.weight",
         [TENSOR_GATE_UP] = "layers.%u.mlp.gate_up_proj.weight",
         [TENSOR_MLP_NORM] = "layers.%u.post_attention_layernorm.weight"},
};
