/* family_gemma.c - Gemma 2 and 3: norms before and behind attention and MLP (their 1 is added to
 * the weights in a GGUF file, not in a Hugging Face folder), gelu, scaled embeddings, window layers between full ones.
 *
 * Gemma 2 caps scores and logits; every second layer sees all. Gemma 3 norms the heads of q and k;
 * every sixth layer sees all, and only those turn by the file's scaled base. What the files leave
 * out (pattern, base of window layers, the scale of the 27B models) is fixed by the published
 * configurations.
 *
 * Embeddings are scaled by sqrt(hidden) as float32 has it, whatever type the weights are kept in: so
 * a model gives the same logits from GGUF and from a folder, the reference's at float32. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>

#include "engine/model/family/family.h"
#include "engine/model/family/family_config.h"
#include "engine/model/family/family_decoder.h"

enum {
    GEMMA2_27B_LAYERS = 46,
    GEMMA3_27B_LAYERS = 62,
    GEMMA2_FULL_EVERY = 2,
    GEMMA3_FULL_EVERY = 6
};

static const char *const GEMMA2_KEYS[] = {"attn_logit_softcapping", "final_logit_softcapping",
                                          "attention.scale", NULL};
static const char *const GEMMA3_KEYS[] = {"final_logit_softcapping", "attention.scale",
                                          "attention.sliding_window_pattern", "rope.freq_base_swa",
                                          NULL};

/* 0 stands for none, as where the key is missing. */
static esp_code read_softcap(const gguf_file *file, const char *architecture, const char *suffix,
                             float *out, esp_error *err) {
    decoder_key key = decoder_key_of(architecture, suffix);
    return family_may_f32(file, key.text, 0, 1e6f, out, err);
}

/* The 27B models scale by the width of a head as if the heads shared the residual width. */
static esp_code read_scales(const gguf_file *file, const char *architecture, uint32_t layers_27b,
                            model_spec *spec, esp_error *err) {
    spec->activation = ACTIVATION_GELU_TANH;
    spec->embedding_scale = sqrtf((float)spec->hidden);
    if (spec->layers == layers_27b)
        spec->attention_scale = 1.0f / sqrtf((float)spec->hidden / (float)spec->heads);
    decoder_key key = decoder_key_of(architecture, "attention.scale");
    return family_may_f32(file, key.text, 1e-6f, 1e6f, &spec->attention_scale, err);
}

static esp_code read_gemma2(const gguf_file *file, model_spec *spec, esp_error *err) {
    static const decoder_traits traits = {.architecture = "gemma2", .own_keys = GEMMA2_KEYS};
    esp_code code = decoder_read(file, &traits, spec, err);
    if (code) return code;
    if ((code = decoder_read_window(file, "gemma2", GEMMA2_FULL_EVERY, spec, err))) return code;
    if ((code = read_scales(file, "gemma2", GEMMA2_27B_LAYERS, spec, err))) return code;
    code = read_softcap(file, "gemma2", "attn_logit_softcapping", &spec->attention_softcap, err);
    if (code) return code;
    return read_softcap(file, "gemma2", "final_logit_softcapping", &spec->logit_softcap, err);
}

static esp_code read_gemma3(const gguf_file *file, model_spec *spec, esp_error *err) {
    static const decoder_traits traits = {
        .architecture = "gemma3", .scalings = 1 << SCALING_LINEAR, .own_keys = GEMMA3_KEYS};
    uint32_t full_every = GEMMA3_FULL_EVERY;
    float local_theta = 10000;
    esp_code code = decoder_read(file, &traits, spec, err);
    if (code) return code;
    code = family_may_u32(file, "gemma3.attention.sliding_window_pattern",
                          (family_range){1, SPEC_LAYERS_MAX, 0}, &full_every, err);
    if (code) return code;
    if ((code = decoder_read_window(file, "gemma3", full_every, spec, err))) return code;
    if ((code = read_scales(file, "gemma3", GEMMA3_27B_LAYERS, spec, err))) return code;
    code = family_may_f32(file, "gemma3.rope.freq_base_swa", 1, 1e12f, &local_theta, err);
    if (code) return code;
    spec->rope_local = true;
    spec->local_theta = (double)local_theta;
    return read_softcap(file, "gemma3", "final_logit_softcapping", &spec->logit_softcap, err);
}

static esp_code read_config_scales(const hf_config *config, model_spec *spec, esp_error *err) {
    hf_section text = hf_config_text(config);
    double scalar = 256;
    esp_code code = hf_may_real(&text, "query_pre_attn_scalar", 1e-6, 1e6, &scalar, err);
    spec->attention_scale = (float)(1 / sqrt(scalar));
    spec->embedding_scale = sqrtf((float)spec->hidden);
    return code;
}

static esp_code read_config_gemma2(const hf_config *config, model_spec *spec, esp_error *err) {
    static const config_traits gemma2 = {.family = "gemma2",
                                         .scalings = CONFIG_SCALINGS,
                                         .gelu = true,
                                         .tied = true,
                                         .softcaps = true,
                                         .attention_softcap = 50,
                                         .logit_softcap = 30,
                                         .heads = 8,
                                         .kv_heads = 4,
                                         .head_dim = 256,
                                         .vocab = 256000,
                                         .context = 8192,
                                         .theta = 10000,
                                         .norm_eps = 1e-6};
    static const config_windows windows = {
        .window = 4096, .full_every = GEMMA2_FULL_EVERY, .reads_layer_types = true};
    esp_code code = config_read(config, &gemma2, spec, err);
    if (code || (code = read_config_scales(config, spec, err))) return code;
    return config_read_windows(config, &windows, spec, err);
}

static esp_code read_config_pattern(const hf_config *config, model_spec *spec, esp_error *err) {
    static const char *const keys[] = {"_sliding_window_pattern", "sliding_window_pattern"};
    hf_section text = hf_config_text(config);
    config_windows windows = {
        .window = 4096, .full_every = GEMMA3_FULL_EVERY, .reads_layer_types = true};
    for (size_t i = 0; i < 2; i++) {
        esp_code code = hf_may_u32(&text, keys[i], (family_range){1, SPEC_LAYERS_MAX, 0},
                                   &windows.full_every, err);
        if (code) return code;
    }
    return config_read_windows(config, &windows, spec, err);
}

static esp_code read_config_gemma3(const hf_config *config, model_spec *spec, esp_error *err) {
    static const config_traits gemma3 = {.family = "gemma3",
                                         .text_type = "gemma3_text",
                                         .scalings = CONFIG_SCALINGS,
                                         .local_theta = 10000,
                                         .gelu = true,
                                         .tied = true,
                                         .softcaps = true,
                                         .heads = 8,
                                         .kv_heads = 4,
                                         .head_dim = 256,
                                         .vocab = 262208,
                                         .context = 131072,
                                         .theta = 1e6,
                                         .norm_eps = 1e-6};
    esp_code code = config_read(config, &gemma3, spec, err);
    if (code || (code = read_config_scales(config, spec, err))) return code;
    return read_config_pattern(config, spec, err);
}

static const char *const GEMMA2[] = {"Gemma2ForCausalLM", NULL};
static const char *const GEMMA3[] = {"Gemma3ForCausalLM", "Gemma3ForConditionalGeneration", NULL};

#define GEMMA_CONFIG_TENSORS                                                                       \
    FAMILY_COMMON_CONFIG_TENSORS, FAMILY_SEPARATE_CONFIG_TENSORS,                                  \
        [TENSOR_ATTN_POST_NORM] = "layers.%u.post_attention_layernorm.weight",                     \
        [TENSOR_MLP_NORM] = "layers.%u.pre_feedforward_layernorm.weight",                          \
        [TENSOR_MLP_POST_NORM] = "layers.%u.post_feedforward_layernorm.weight"

#define GEMMA_TENSORS                                                                              \
    FAMILY_COMMON_TENSORS,                                                                         \
        FAMILY_SEPARATE_TENSORS, [TENSOR_ATTN_POST_NORM] = "blk.%u.post_attention_norm.weight",    \
                                 [TENSOR_MLP_POST_NORM] = "blk.%u.post_ffw_norm.weight"

const model_family family_gemma2 = {
    .architecture = "gemma2",
    .read_spec = read_gemma2,
    .tensor_names = {GEMMA_TENSORS},
    .classes = GEMMA2,
    .model_type = "gemma2",
    .read_config = read_config_gemma2,
    .config_tensor_names = {GEMMA_CONFIG_TENSORS},
    .config_centred_norms = true,
};

const model_family family_gemma3 = {
    .architecture = "gemma3",
    .read_spec = read_gemma3,
    .tensor_names = {GEMMA_TENSORS, [TENSOR_Q_NORM] = "blk.%u.attn_q_norm.weight",
                     [TENSOR_K_NORM] = "blk.%u.attn_k_norm.weight"},
    .classes = GEMMA3,
    .model_type = "gemma3_text",
    .read_config = read_config_gemma3,
    .config_tensor_names =
        {GEMMA_CONFIG_TENSORS, [TENSOR_Q_NORM] = "layers.%u.self_attn.q_norm.weight",
         [TENSOR_K_NORM] = "layers.%u.self_attn.k_norm.weight"},
    .config_centred_norms = true,
};
