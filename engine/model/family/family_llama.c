/* family_llama.c - Llama: RMSNorm before attention and MLP, rope on all heads, SwiGLU, no biases.
 * Mistral's GGUF files are of this architecture too; where they name a window, all layers slide.
 *
 * Rows of q and k lie permuted in a GGUF file so that rope turns neighbours (2i, 2i+1). */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/family/family.h"
#include "engine/model/family/family_config.h"
#include "engine/model/family/family_decoder.h"

static const decoder_traits traits = {
    .architecture = "llama",
    .rope_interleaved = true,
    .scalings = 1 << SCALING_LINEAR | 1 << SCALING_DIVISORS | 1 << SCALING_YARN,
};

static esp_code read_spec(const gguf_file *file, model_spec *spec, esp_error *err) {
    esp_code code = decoder_read(file, &traits, spec, err);
    return code ? code : decoder_read_window(file, "llama", 0, spec, err);
}

static esp_code read_config(const hf_config *config, model_spec *spec, esp_error *err) {
    static const config_traits llama = {
        .family = "llama", .scalings = CONFIG_SCALINGS, .theta = 10000, .norm_eps = 1e-6};
    static const config_windows none = {.off = true};
    esp_code code = config_read(config, &llama, spec, err);
    return code ? code : config_read_windows(config, &none, spec, err);
}

static const char *const CLASSES[] = {"LlamaForCausalLM", NULL};

const model_family family_llama = {
    .architecture = "llama",
    .read_spec = read_spec,
    .tensor_names = {FAMILY_COMMON_TENSORS,
                     FAMILY_SEPARATE_TENSORS, [TENSOR_ROPE_DIVISORS] = "rope_freqs.weight"},
    .classes = CLASSES,
    .model_type = "llama",
    .read_config = read_config,
    .config_tensor_names = {FAMILY_COMMON_CONFIG_TENSORS, FAMILY_SEPARATE_CONFIG_TENSORS,
                            [TENSOR_MLP_NORM] = "layers.%u.post_attention_layernorm.weight"},
};
