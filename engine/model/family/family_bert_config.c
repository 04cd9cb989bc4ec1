/* family_bert_config.c - BERT, RoBERTa and XLM-RoBERTa in Hugging Face folders. The latter two number
 * their positions from the row behind the padding token's. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <string.h>

#include "engine/model/family/family_bert.h"
#include "engine/model/family/hf_keys.h"

const char *const BERT_CLASSES[] = {"BertModel", "RobertaModel", "XLMRobertaModel", NULL};

static esp_code read_shape(const hf_section *root, model_spec *spec, esp_error *err) {
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
        esp_code code = hf_need_u32(root, keys[i].key, keys[i].range, keys[i].out, err);
        if (code) return code;
    }
    spec->token_types = 2;
    return hf_may_u32(root, "type_vocab_size", (family_range){1, SPEC_VOCAB_MAX, 0},
                      &spec->token_types, err);
}

static esp_code check_heads(const hf_section *root, model_spec *spec, esp_error *err) {
    spec->kv_heads = spec->heads;
    if (bert_share_heads(spec)) return ESP_OK;
    return esp_fail(err, ESP_INVALID,
                    "%s: %u attention heads share a hidden_size of %u; wanted heads of a multiple "
                    "of %d up to %d each",
                    root->file, spec->heads, spec->hidden, SPEC_HEAD_DIM_MULTIPLE,
                    SPEC_HEAD_DIM_MAX);
}

static esp_code read_activation(const hf_section *root, model_spec *spec, esp_error *err) {
    static const struct {
        const char *name;
        spec_activation activation;
    } known[] = {{"gelu", ACTIVATION_GELU_ERF},
                 {"gelu_new", ACTIVATION_GELU_TANH},
                 {"gelu_pytorch_tanh", ACTIVATION_GELU_TANH}};
    const char *seen = "gelu";
    esp_code code = hf_may_text(root, "hidden_act", &seen, err);
    for (size_t i = 0; !code && i < sizeof known / sizeof *known; i++) {
        if (strcmp(seen, known[i].name) != 0) continue;
        spec->activation = known[i].activation;
        return ESP_OK;
    }
    return code ? code
                : esp_fail(err, ESP_INVALID,
                           "%s: hidden_act is %s; wanted \"gelu\", \"gelu_new\" or "
                           "\"gelu_pytorch_tanh\"",
                           root->file, hf_show(root, "hidden_act").text);
}

/* RoBERTa's first rows are of the padding token and of those before it. */
static esp_code read_positions(const hf_section *root, const char *class, model_spec *spec,
                               esp_error *err) {
    uint32_t padding = 1;
    bool offset = class && strcmp(class, "BertModel") != 0;
    const char *kind = "absolute";
    esp_code code = hf_may_text(root, "position_embedding_type", &kind, err);
    if (!code && strcmp(kind, "absolute") != 0)
        code = esp_fail(err, ESP_INVALID,
                        "%s: position_embedding_type is %s; wanted \"absolute\": no other "
                        "positions are computed for these models",
                        root->file, hf_show(root, "position_embedding_type").text);
    if (code || !offset) return code;
    code = hf_may_u32(root, "pad_token_id", (family_range){0, SPEC_CONTEXT_MAX, 0}, &padding, err);
    if (code) return code;
    if (spec->context <= padding + 1)
        return esp_fail(
            err, ESP_INVALID,
            "%s: max_position_embeddings is %u; wanted more than the %u rows up to that "
            "of pad_token_id",
            root->file, spec->context, padding + 1);
    spec->position_offset = padding + 1;
    spec->context -= spec->position_offset;
    return ESP_OK;
}

/* What makes a decoder of the class, or another attention. */
static esp_code refuse_variants(const hf_section *root, esp_error *err) {
    static const char *const keys[] = {"is_decoder", "add_cross_attention"};
    for (size_t i = 0; i < 2; i++)
        if (!hf_is_empty(root, keys[i]))
            return esp_fail(err, ESP_INVALID, "%s: %s is %s, which is not supported; wanted false",
                            root->file, keys[i], hf_show(root, keys[i]).text);
    return ESP_OK;
}

esp_code bert_read_config(const hf_config *config, model_spec *spec, esp_error *err) {
    hf_section root = hf_config_root(config);
    double eps = 1e-12;
    *spec = (model_spec){.encoder = true, .embedding_scale = 1, .tied_embeddings = true};
    snprintf(spec->family, sizeof spec->family, "bert");
    esp_code code = refuse_variants(&root, err);
    if (code) return code;
    if ((code = read_shape(&root, spec, err))) return code;
    if ((code = check_heads(&root, spec, err))) return code;
    if ((code = hf_may_real(&root, "layer_norm_eps", 1e-12, 0.1, &eps, err))) return code;
    spec->norm_eps = (float)eps;
    if ((code = read_activation(&root, spec, err))) return code;
    return read_positions(&root, hf_config_class(config), spec, err);
}
