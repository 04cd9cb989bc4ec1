/* family_config.c - shape, heads and windows of a decoder from config.json. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/family/family_config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/model/format/json_bytes.h"

static esp_code read_shape(const hf_section *text, const config_traits *traits, model_spec *spec,
                           esp_error *err) {
    spec->heads = traits->heads;
    spec->vocab = traits->vocab;
    spec->context = traits->context;
    const struct {
        const char *key;
        family_range range;
        uint32_t *out;
    } keys[] = {
        {"num_hidden_layers", {1, SPEC_LAYERS_MAX, 0}, &spec->layers},
        {"hidden_size", {32, SPEC_HIDDEN_MAX, SPEC_COLUMNS_MULTIPLE}, &spec->hidden},
        {"intermediate_size",
         {32, SPEC_INTERMEDIATE_MAX, SPEC_COLUMNS_MULTIPLE},
         &spec->intermediate},
        {"num_attention_heads", {1, SPEC_HEADS_MAX, 0}, &spec->heads},
        {"vocab_size", {1, SPEC_VOCAB_MAX, 0}, &spec->vocab},
        {"max_position_embeddings", {1, SPEC_CONTEXT_MAX, 0}, &spec->context},
    };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        esp_code code = *keys[i].out
                            ? hf_may_u32(text, keys[i].key, keys[i].range, keys[i].out, err)
                            : hf_need_u32(text, keys[i].key, keys[i].range, keys[i].out, err);
        if (code) return code;
    }
    return ESP_OK;
}

static esp_code read_kv_heads(const hf_section *text, const config_traits *traits, model_spec *spec,
                              esp_error *err) {
    static const char key[] = "num_key_value_heads";
    bool shared = traits->kv_heads && !hf_is_null(text, key);
    spec->kv_heads = shared ? traits->kv_heads : spec->heads;
    family_range range = {1, spec->heads, 0};
    esp_code code = hf_may_u32(text, key, range, &spec->kv_heads, err);
    if (code) return code;
    if (spec->heads % spec->kv_heads != 0)
        return esp_fail(err, ESP_INVALID,
                        "%s: %snum_attention_heads is %u; wanted a multiple of "
                        "num_key_value_heads, %u",
                        text->file, text->path, spec->heads, spec->kv_heads);
    return ESP_OK;
}

/* Written down, or the residual width shared out among the heads. */
static esp_code read_head_dim(const hf_section *text, const config_traits *traits, model_spec *spec,
                              esp_error *err) {
    static const family_range range = {SPEC_HEAD_DIM_MULTIPLE, SPEC_HEAD_DIM_MAX,
                                       SPEC_HEAD_DIM_MULTIPLE};
    spec->head_dim = traits->head_dim;
    if (!spec->head_dim && spec->hidden % spec->heads == 0)
        spec->head_dim = spec->hidden / spec->heads;
    if (!hf_has(text, "head_dim") && (spec->head_dim < range.min || spec->head_dim > range.max ||
                                      spec->head_dim % range.multiple != 0))
        return esp_fail(err, ESP_INVALID,
                        "%s: %u attention heads share a hidden_size of %u, and there is no "
                        "head_dim; wanted heads of a multiple of %u from %u to %u",
                        text->file, spec->heads, spec->hidden, range.multiple, range.min,
                        range.max);
    esp_code code = hf_may_u32(text, "head_dim", range, &spec->head_dim, err);
    if (code) return code;
    if (spec->heads * spec->head_dim % SPEC_COLUMNS_MULTIPLE != 0)
        return esp_fail(err, ESP_INVALID,
                        "%s: %u heads of %u give %u columns; wanted a multiple of %d", text->file,
                        spec->heads, spec->head_dim, spec->heads * spec->head_dim,
                        SPEC_COLUMNS_MULTIPLE);
    spec->attention_scale = 1.0f / sqrtf((float)spec->head_dim);
    return ESP_OK;
}

static esp_code read_activation(const hf_section *text, const config_traits *traits,
                                model_spec *spec, esp_error *err) {
    const char *key = traits->gelu ? "hidden_activation" : "hidden_act";
    const char *wanted = traits->gelu ? "gelu_pytorch_tanh" : "silu", *seen = wanted;
    esp_code code = hf_may_text(text, key, &seen, err);
    if (code) return code;
    if (strcmp(seen, wanted) != 0)
        return esp_fail(err, ESP_INVALID,
                        "%s: %s%s is %s; wanted \"%s\": no other activation is "
                        "computed for %s models",
                        text->file, text->path, key, hf_show(text, key).text, wanted,
                        traits->family);
    spec->activation = traits->gelu ? ACTIVATION_GELU_TANH : ACTIVATION_SILU;
    return ESP_OK;
}

static esp_code read_tied(const hf_config *config, const config_traits *traits, model_spec *spec,
                          esp_error *err) {
    static const char key[] = "tie_word_embeddings";
    hf_section root = hf_config_root(config), text = hf_config_text(config);
    spec->tied_embeddings = traits->tied;
    return hf_may_bool(hf_has(&text, key) ? &text : &root, key, &spec->tied_embeddings, err);
}

static esp_code read_softcap(const hf_section *text, const char *key, double missing, float *out,
                             esp_error *err) {
    double cap = hf_is_null(text, key) ? 0 : missing;
    esp_code code = hf_may_real(text, key, 0.01, 1e6, &cap, err);
    *out = (float)cap;
    return code;
}

static esp_code read_softcaps(const hf_section *text, const config_traits *traits, model_spec *spec,
                              esp_error *err) {
    if (!traits->softcaps) return ESP_OK;
    esp_code code = read_softcap(text, "attn_logit_softcapping", traits->attention_softcap,
                                 &spec->attention_softcap, err);
    if (code) return code;
    return read_softcap(text, "final_logit_softcapping", traits->logit_softcap,
                        &spec->logit_softcap, err);
}

/* text_config is another model's where its type is another. */
static esp_code check_nesting(const hf_config *config, const config_traits *traits,
                              esp_error *err) {
    hf_section text = hf_config_text(config);
    const char *type = traits->text_type;
    if (!hf_config_is_nested(config)) return ESP_OK;
    esp_code code = hf_may_text(&text, "model_type", &type, err);
    if (code || (type && traits->text_type && strcmp(type, traits->text_type) == 0)) return code;
    return esp_fail(err, ESP_INVALID, "%s: text_config.model_type is %s; wanted %s", text.file,
                    hf_show(&text, "model_type").text,
                    traits->text_type ? traits->text_type : "no text_config");
}

esp_code config_read(const hf_config *config, const config_traits *traits, model_spec *spec,
                     esp_error *err) {
    hf_section text = hf_config_text(config);
    double eps = traits->norm_eps;
    *spec = (model_spec){.embedding_scale = 1};
    snprintf(spec->family, sizeof spec->family, "%s", traits->family);
    esp_code code = check_nesting(config, traits, err);
    if (code) return code;
    if ((code = config_refuse_foreign(config, traits, err))) return code;
    if ((code = read_shape(&text, traits, spec, err))) return code;
    if ((code = read_kv_heads(&text, traits, spec, err))) return code;
    if ((code = read_head_dim(&text, traits, spec, err))) return code;
    if ((code = hf_may_real(&text, "rms_norm_eps", 1e-12, 0.1, &eps, err))) return code;
    spec->norm_eps = (float)eps;
    if ((code = read_activation(&text, traits, spec, err))) return code;
    if ((code = read_tied(config, traits, spec, err))) return code;
    if ((code = read_softcaps(&text, traits, spec, err))) return code;
    return config_read_rope(config, traits, spec, err);
}

/* --- windows -------------------------------------------------------------------------------- */

static esp_code fail_layer(const hf_section *text, uint32_t layer, const char *seen,
                           const char *wanted, esp_error *err) {
    return esp_fail(err, ESP_INVALID, "%s: %slayer_types[%u] is \"%s\"; wanted %s", text->file,
                    text->path, layer, json_show(seen).text, wanted);
}

static esp_code read_layer(const hf_section *text, const char *seen, const config_windows *windows,
                           uint32_t layer, model_spec *spec, esp_error *err) {
    bool slides = strcmp(seen, "sliding_attention") == 0;
    if (!slides && strcmp(seen, "full_attention") != 0)
        return fail_layer(text, layer, seen, "full_attention or sliding_attention", err);
    if (slides && !spec->window)
        return fail_layer(text, layer, seen, "full_attention: no sliding_window is in use", err);
    if (!windows->reads_layer_types && slides != spec->slides[layer])
        return fail_layer(text, layer, seen,
                          slides ? "full_attention, as the class computes it"
                                 : "sliding_attention, as the class computes it",
                          err);
    spec->slides[layer] = slides;
    return ESP_OK;
}

static esp_code read_layer_types(const hf_section *text, const config_windows *windows,
                                 model_spec *spec, esp_error *err) {
    const char *types[SPEC_LAYERS_MAX];
    bool found;
    esp_code code = hf_may_texts(text, "layer_types", spec->layers, types, &found, err);
    for (uint32_t i = 0; i < spec->layers && found && !code; i++)
        code = read_layer(text, types[i], windows, i, spec, err);
    return code;
}

esp_code config_read_windows(const hf_config *config, const config_windows *windows,
                             model_spec *spec, esp_error *err) {
    hf_section text = hf_config_text(config);
    spec->window = windows->window;
    esp_code code = ESP_OK;
    if (windows->off || hf_is_null(&text, "sliding_window"))
        spec->window = 0;
    else if (hf_has(&text, "sliding_window"))
        code = hf_may_u32(&text, "sliding_window", (family_range){1, SPEC_CONTEXT_MAX, 0},
                          &spec->window, err);
    if (code) return code;
    bool any = false;
    for (uint32_t i = 0; i < spec->layers; i++)
        spec->slides[i] = spec->window && i >= windows->first &&
                          (windows->full_every == 0 || (i + 1) % windows->full_every != 0);
    if ((code = read_layer_types(&text, windows, spec, err))) return code;
    for (uint32_t i = 0; i < spec->layers; i++)
        any = any || spec->slides[i];
    if (!any) spec->window = 0;
    return ESP_OK;
}
