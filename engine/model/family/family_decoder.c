/* family_decoder.c - shape and heads of a decoder from the keys that all families share. Keys:
 * ggml/docs/gguf.md, "LLM". */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/family/family_decoder.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Keys that are read here, or that say nothing about the arithmetic. Any other one under the
 * architecture's prefix is refused, unless the family reads it. */
static const char *const SHARED_KEYS[] = {
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.layer_norm_rms_epsilon",
    "attention.key_length",
    "attention.value_length",
    "attention.sliding_window",
    "attention.causal",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "expert_count",
    "expert_used_count",
    /* facts about the training or the conversion */
    "vocab_size",
    "tensor_data_layout",
    "attention.layer_norm_epsilon",
    "rope.scaling.finetuned",
    NULL,
};

decoder_key decoder_key_of(const char *architecture, const char *suffix) {
    decoder_key key;
    snprintf(key.text, sizeof key.text, "%s.%s", architecture, suffix);
    return key;
}

static esp_code read_shape(const gguf_file *file, const char *architecture, model_spec *spec,
                           esp_error *err) {
    const struct {
        const char *suffix;
        family_range range;
        uint32_t *out;
    } keys[] = {
        {"block_count", {1, SPEC_LAYERS_MAX, 0}, &spec->layers},
        {"context_length", {1, SPEC_CONTEXT_MAX, 0}, &spec->context},
        {"embedding_length", {32, SPEC_HIDDEN_MAX, SPEC_COLUMNS_MULTIPLE}, &spec->hidden},
        {"feed_forward_length",
         {32, SPEC_INTERMEDIATE_MAX, SPEC_COLUMNS_MULTIPLE},
         &spec->intermediate},
        {"attention.head_count", {1, SPEC_HEADS_MAX, 0}, &spec->heads},
    };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        decoder_key key = decoder_key_of(architecture, keys[i].suffix);
        esp_code code = family_need_u32(file, key.text, keys[i].range, keys[i].out, err);
        if (code) return code;
    }
    return ESP_OK;
}

static esp_code read_kv_heads(const gguf_file *file, const char *architecture, model_spec *spec,
                              esp_error *err) {
    spec->kv_heads = spec->heads;
    decoder_key key = decoder_key_of(architecture, "attention.head_count_kv");
    esp_code code =
        family_may_u32(file, key.text, (family_range){1, spec->heads, 0}, &spec->kv_heads, err);
    if (code) return code;
    if (spec->heads % spec->kv_heads != 0)
        return esp_fail(err, ESP_INVALID,
                        "%s: %s.attention.head_count is %u; wanted a multiple of "
                        "%s.attention.head_count_kv, %u",
                        gguf_name(file), architecture, spec->heads, architecture, spec->kv_heads);
    return ESP_OK;
}

/* Written down, or the residual width shared out among the heads. */
static esp_code read_head_dim(const gguf_file *file, const char *architecture, model_spec *spec,
                              esp_error *err) {
    bool found;
    decoder_key key = decoder_key_of(architecture, "attention.key_length");
    esp_code code = gguf_get_u32(file, key.text, &found, &spec->head_dim, err);
    if (code) return code;
    if (!found && spec->hidden % spec->heads == 0) spec->head_dim = spec->hidden / spec->heads;
    if (spec->head_dim == 0 || spec->head_dim > SPEC_HEAD_DIM_MAX ||
        spec->head_dim % SPEC_HEAD_DIM_MULTIPLE != 0)
        return esp_fail(err, ESP_INVALID,
                        "%s: %s is %s%u (embedding_length %u, head_count %u); wanted a multiple "
                        "of %d up to %d",
                        gguf_name(file), key.text, found ? "" : "missing, and a head has ",
                        found ? spec->head_dim : spec->hidden / spec->heads, spec->hidden,
                        spec->heads, SPEC_HEAD_DIM_MULTIPLE, SPEC_HEAD_DIM_MAX);
    spec->attention_scale = 1.0f / sqrtf((float)spec->head_dim);
    return ESP_OK;
}

static esp_code check_head_dim(const gguf_file *file, const char *architecture,
                               const model_spec *spec, esp_error *err) {
    bool found;
    uint32_t value_length = spec->head_dim, columns = spec->heads * spec->head_dim;
    decoder_key key = decoder_key_of(architecture, "attention.value_length");
    esp_code code = gguf_get_u32(file, key.text, &found, &value_length, err);
    if (code) return code;
    if (value_length != spec->head_dim)
        return esp_fail(err, ESP_INVALID, "%s: %s is %u; wanted the length of a key, %u",
                        gguf_name(file), key.text, value_length, spec->head_dim);
    if (columns % SPEC_COLUMNS_MULTIPLE != 0)
        return esp_fail(
            err, ESP_INVALID, "%s: %u heads of %u give %u columns; wanted a multiple of %d",
            gguf_name(file), spec->heads, spec->head_dim, columns, SPEC_COLUMNS_MULTIPLE);
    return ESP_OK;
}

static esp_code refuse_count(const gguf_file *file, const char *architecture, const char *suffix,
                             esp_error *err) {
    bool found;
    uint32_t value = 0;
    decoder_key key = decoder_key_of(architecture, suffix);
    esp_code code = gguf_get_u32(file, key.text, &found, &value, err);
    if (code || value == 0) return code;
    return esp_fail(err, ESP_INVALID, "%s: %s is %u, which is not supported; wanted 0",
                    gguf_name(file), key.text, value);
}

static esp_code refuse_variants(const gguf_file *file, const decoder_traits *traits,
                                esp_error *err) {
    esp_code code = refuse_count(file, traits->architecture, "expert_count", err);
    if (code) return code;
    bool found, causal = true;
    decoder_key key = decoder_key_of(traits->architecture, "attention.causal");
    code = gguf_get_bool(file, key.text, &found, &causal, err);
    if (code) return code;
    if (!causal)
        return esp_fail(err, ESP_INVALID, "%s: %s is false; only causal attention is supported",
                        gguf_name(file), key.text);
    decoder_key prefix = decoder_key_of(traits->architecture, "");
    return family_refuse_unknown(file, prefix.text, SHARED_KEYS, traits->own_keys, err);
}

/* The vocabulary is what the embedding matrix has rows for: no key is sure to say it. */
static esp_code read_vocab(const gguf_file *file, model_spec *spec, esp_error *err) {
    const model_tensor *embedding = gguf_find(file, "token_embd.weight");
    if (!embedding)
        return esp_fail(err, ESP_INVALID, "%s: tensor token_embd.weight is missing",
                        gguf_name(file));
    uint64_t rows = embedding->dims[1];
    if (rows > SPEC_VOCAB_MAX)
        return esp_fail(err, ESP_INVALID,
                        "%s: tensor token_embd.weight has %llu rows; wanted %d at most",
                        gguf_name(file), (unsigned long long)rows, SPEC_VOCAB_MAX);
    spec->vocab = (uint32_t)rows;
    spec->tied_embeddings = gguf_find(file, "output.weight") == NULL;
    spec->embedding_scale = 1;
    return ESP_OK;
}

esp_code decoder_read_window(const gguf_file *file, const char *architecture, uint32_t full_every,
                             model_spec *spec, esp_error *err) {
    decoder_key key = decoder_key_of(architecture, "attention.sliding_window");
    esp_code code =
        family_may_u32(file, key.text, (family_range){0, SPEC_CONTEXT_MAX, 0}, &spec->window, err);
    for (uint32_t i = 0; i < spec->layers; i++)
        spec->slides[i] = spec->window > 0 && (full_every == 0 || (i + 1) % full_every != 0);
    return code;
}

esp_code decoder_read(const gguf_file *file, const decoder_traits *traits, model_spec *spec,
                      esp_error *err) {
    const char *architecture = traits->architecture;
    *spec = (model_spec){.rope_interleaved = traits->rope_interleaved};
    snprintf(spec->family, sizeof spec->family, "%s", architecture);
    esp_code code = read_shape(file, architecture, spec, err);
    if (code) return code;
    if ((code = read_kv_heads(file, architecture, spec, err))) return code;
    if ((code = read_head_dim(file, architecture, spec, err))) return code;
    if ((code = check_head_dim(file, architecture, spec, err))) return code;
    decoder_key eps = decoder_key_of(architecture, "attention.layer_norm_rms_epsilon");
    code = family_need_f32(file, eps.text, 1e-12f, 0.1f, &spec->norm_eps, err);
    if (code) return code;
    if ((code = decoder_read_rope(file, traits, spec, err))) return code;
    if ((code = refuse_variants(file, traits, err))) return code;
    return read_vocab(file, spec, err);
}
