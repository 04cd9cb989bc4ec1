/* family_mistral.c - Mistral's Hugging Face folders: Llama's shape; where a window is named, all
 * layers slide. Ministral lists the layers that do. GGUF files: family_llama.c. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/family/family.h"
#include "engine/model/family/family_config.h"

enum { WINDOW = 4096, KV_HEADS = 8 };

static esp_code read_mistral(const hf_config *config, model_spec *spec, esp_error *err) {
    static const config_traits mistral = {.family = "mistral",
                                          .text_type = "mistral",
                                          .scalings = CONFIG_SCALINGS,
                                          .kv_heads = KV_HEADS,
                                          .theta = 10000,
                                          .norm_eps = 1e-6};
    static const config_windows windows = {.window = WINDOW};
    esp_code code = config_read(config, &mistral, spec, err);
    return code ? code : config_read_windows(config, &windows, spec, err);
}

static esp_code read_ministral(const hf_config *config, model_spec *spec, esp_error *err) {
    static const config_traits ministral = {.family = "ministral",
                                            .scalings = CONFIG_SCALINGS,
                                            .kv_heads = KV_HEADS,
                                            .theta = 10000,
                                            .norm_eps = 1e-6};
    static const config_windows windows = {.window = WINDOW, .reads_layer_types = true};
    esp_code code = config_read(config, &ministral, spec, err);
    return code ? code : config_read_windows(config, &windows, spec, err);
}

static const char *const MISTRAL[] = {"MistralForCausalLM", "Mistral3ForConditionalGeneration",
                                      NULL};
static const char *const MINISTRAL[] = {"MinistralForCausalLM", NULL};

#define MISTRAL_TENSORS                                                                            \
    FAMILY_COMMON_CONFIG_TENSORS, FAMILY_SEPARATE_CONFIG_TENSORS,                                  \
        [TENSOR_MLP_NORM] = "layers.%u.post_attention_layernorm.weight"

const model_family family_mistral = {
    .classes = MISTRAL,
    .model_type = "mistral",
    .read_config = read_mistral,
    .config_tensor_names = {MISTRAL_TENSORS},
};

const model_family family_ministral = {
    .classes = MINISTRAL,
    .model_type = "ministral",
    .read_config = read_ministral,
    .config_tensor_names = {MISTRAL_TENSORS},
};
