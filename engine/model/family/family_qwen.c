/* family_qwen.c - Qwen2 and 2.5: Llama's shape with biases on q, k and v. Qwen3: none, but an
 * RMSNorm over each head of q and k. Rope turns halves. */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "engine/model/family/family.h"
#include "engine/model/family/family_config.h"
#include "engine/model/family/family_decoder.h"
#include "engine/model/family/family_embedding.h"

enum { QWEN_SCALINGS = 1 << SCALING_LINEAR | 1 << SCALING_YARN };

/* Which layers slide is not in such files, so a window cannot be computed. */
static esp_code read_qwen(const gguf_file *file, const char *architecture, model_spec *spec,
                          esp_error *err) {
    static const char *const own_keys[] = {"pooling_type", "normalize_embeddings", NULL};
    bool embeds = strcmp(architecture, "qwen3") == 0;
    const decoder_traits traits = {.architecture = architecture,
                                   .scalings = QWEN_SCALINGS,
                                   .own_keys = embeds ? own_keys : NULL};
    esp_code code = decoder_read(file, &traits, spec, err);
    if (code) return code;
    if ((code = decoder_read_window(file, architecture, 0, spec, err))) return code;
    if (spec->window == 0) return ESP_OK;
    return esp_fail(err, ESP_INVALID,
                    "%s: %s.attention.sliding_window is %u, which is not supported; wanted 0",
                    gguf_name(file), architecture, spec->window);
}

static esp_code read_qwen2(const gguf_file *file, model_spec *spec, esp_error *err) {
    return read_qwen(file, "qwen2", spec, err);
}

/* Some embed: Qwen3-Embedding takes the last token's state. */
static esp_code read_qwen3(const gguf_file *file, model_spec *spec, esp_error *err) {
    esp_code code = read_qwen(file, "qwen3", spec, err);
    return code ? code : embedding_read_keys(file, "qwen3", spec, err);
}

/* Only use_sliding_window puts the window in use: then the layers from max_window_layers on slide. */
static esp_code read_config_windows(const hf_config *config, model_spec *spec, esp_error *err) {
    hf_section text = hf_config_text(config);
    config_windows windows = {.window = 4096, .first = 28, .reads_layer_types = true};
    bool used = false;
    esp_code code = hf_may_bool(&text, "use_sliding_window", &used, err);
    if (code) return code;
    windows.off = !used;
    code = hf_may_u32(&text, "max_window_layers", (family_range){0, SPEC_LAYERS_MAX, 0},
                      &windows.first, err);
    return code ? code : config_read_windows(config, &windows, spec, err);
}

static esp_code read_config_qwen2(const hf_config *config, model_spec *spec, esp_error *err) {
    static const config_traits qwen2 = {.family = "qwen2",
                                        .scalings = CONFIG_SCALINGS,
                                        .kv_heads = 32,
                                        .theta = 10000,
                                        .norm_eps = 1e-6};
    esp_code code = config_read(config, &qwen2, spec, err);
    return code ? code : read_config_windows(config, spec, err);
}

static esp_code read_config_qwen3(const hf_config *config, model_spec *spec, esp_error *err) {
    static const config_traits qwen3 = {.family = "qwen3",
                                        .scalings = CONFIG_SCALINGS,
                                        .kv_heads = 32,
                                        .head_dim = 128,
                                        .theta = 10000,
                                        .norm_eps = 1e-6};
    esp_code code = config_read(config, &qwen3, spec, err);
    return code ? code : read_config_windows(config, spec, err);
}

static const char *const QWEN2[] = {"Qwen2ForCausalLM", NULL};
static const char *const QWEN3[] = {"Qwen3ForCausalLM", NULL};

#define QWEN_CONFIG_TENSORS                                                                        \
    FAMILY_COMMON_CONFIG_TENSORS, FAMILY_SEPARATE_CONFIG_TENSORS,                                  \
        [TENSOR_MLP_NORM] = "layers.%u.post_attention_layernorm.weight"

const model_family family_qwen2 = {
    .architecture = "qwen2",
    .read_spec = read_qwen2,
    .tensor_names =
        {FAMILY_COMMON_TENSORS, FAMILY_SEPARATE_TENSORS, [TENSOR_Q_BIAS] = "blk.%u.attn_q.bias",
         [TENSOR_K_BIAS] = "blk.%u.attn_k.bias", [TENSOR_V_BIAS] = "blk.%u.attn_v.bias"},
    .classes = QWEN2,
    .model_type = "qwen2",
    .read_config = read_config_qwen2,
    .config_tensor_names =
        {QWEN_CONFIG_TENSORS, [TENSOR_Q_BIAS] = "layers.%u.self_attn.q_proj.bias",
         [TENSOR_K_BIAS] = "layers.%u.self_attn.k_proj.bias",
         [TENSOR_V_BIAS] = "layers.%u.self_attn.v_proj.bias"},
};

const model_family family_qwen3 = {
    .architecture = "qwen3",
    .read_spec = read_qwen3,
    .tensor_names = {FAMILY_COMMON_TENSORS,
                     FAMILY_SEPARATE_TENSORS, [TENSOR_Q_NORM] = "blk.%u.attn_q_norm.weight",
                     [TENSOR_K_NORM] = "blk.%u.attn_k_norm.weight"},
    .classes = QWEN3,
    .model_type = "qwen3",
    .read_config = read_config_qwen3,
    .config_tensor_names =
        {QWEN_CONFIG_TENSORS, [TENSOR_Q_NORM] = "layers.%u.self_attn.q_norm.weight",
         [TENSOR_K_NORM] = "layers.%u.self_attn.k_norm.weight"},
};
