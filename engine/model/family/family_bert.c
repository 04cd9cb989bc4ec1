/* family_bert.c - BERT and its kind (MiniLM, BGE, E5) in GGUF files: an encoder for embeddings. The sum of word,
 * position and type is normed; LayerNorms stand behind the sublayers; attention sees the whole text;
 * gelu is the exact one, which is what the models of this architecture were trained with (no key says
 * so). The pooler and the heads for pre-training are no part of an embedding.
 *
 * Keys: ggml/docs/gguf.md; names as its converter writes them. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <stdio.h>

#include "engine/model/family/family.h"
#include "engine/model/family/family_bert.h"
#include "engine/model/family/family_embedding.h"
#include "engine/model/family/family_keys.h"

static const char *const KNOWN_KEYS[] = {
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.layer_norm_epsilon",
    "attention.causal",
    "pooling_type",
    "normalize_embeddings",
    /* facts about the conversion */
    "vocab_size",
    NULL,
};

static esp_code read_shape(const gguf_file *file, model_spec *spec, esp_error *err) {
    const struct {
        const char *key;
        family_range range;
        uint32_t *out;
    } keys[] = {
        {"bert.block_count", {1, SPEC_LAYERS_MAX, 0}, &spec->layers},
        {"bert.context_length", {1, SPEC_CONTEXT_MAX, 0}, &spec->context},
        {"bert.embedding_length", {32, SPEC_HIDDEN_MAX, SPEC_COLUMNS_MULTIPLE}, &spec->hidden},
        {"bert.feed_forward_length",
         {32, SPEC_INTERMEDIATE_MAX, SPEC_COLUMNS_MULTIPLE},
         &spec->intermediate},
        {"bert.attention.head_count", {1, SPEC_HEADS_MAX, 0}, &spec->heads},
    };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        esp_code code = family_need_u32(file, keys[i].key, keys[i].range, keys[i].out, err);
        if (code) return code;
    }
    spec->kv_heads = spec->heads;
    return family_may_u32(file, "bert.attention.head_count_kv",
                          (family_range){spec->heads, spec->heads, 0}, &spec->kv_heads, err);
}

bool bert_share_heads(model_spec *spec) {
    spec->head_dim = spec->hidden / spec->heads;
    spec->attention_scale = 1.0f / sqrtf((float)spec->head_dim);
    return spec->hidden % spec->heads == 0 && spec->head_dim <= SPEC_HEAD_DIM_MAX &&
           spec->head_dim % SPEC_HEAD_DIM_MULTIPLE == 0 && spec->head_dim > 0;
}

static esp_code check_heads(const gguf_file *file, model_spec *spec, esp_error *err) {
    if (bert_share_heads(spec)) return ESP_OK;
    return esp_fail(
        err, ESP_INVALID,
        "%s: bert.embedding_length is %u and bert.attention.head_count %u; wanted heads "
        "of a multiple of %d up to %d each",
        gguf_name(file), spec->hidden, spec->heads, SPEC_HEAD_DIM_MULTIPLE, SPEC_HEAD_DIM_MAX);
}

static esp_code check_causal(const gguf_file *file, esp_error *err) {
    bool found, causal = false;
    esp_code code = gguf_get_bool(file, "bert.attention.causal", &found, &causal, err);
    if (code || !causal) return code;
    return esp_fail(err, ESP_INVALID,
                    "%s: bert.attention.causal is true, which is not supported; wanted false",
                    gguf_name(file));
}

/* The tables' rows: no key is sure to say them. The positions' are held against context_length. */
static esp_code read_tables(const gguf_file *file, model_spec *spec, esp_error *err) {
    const model_tensor *words = gguf_find(file, "token_embd.weight");
    const model_tensor *types = gguf_find(file, "token_types.weight");
    uint64_t rows = words ? words->dims[1] : 0, type_rows = types ? types->dims[1] : 1;
    if (rows > SPEC_VOCAB_MAX || type_rows > SPEC_VOCAB_MAX)
        return esp_fail(err, ESP_INVALID,
                        "%s: tensors token_embd.weight and token_types.weight have %llu and %llu "
                        "rows; wanted %d at most",
                        gguf_name(file), (unsigned long long)rows, (unsigned long long)type_rows,
                        SPEC_VOCAB_MAX);
    spec->vocab = (uint32_t)rows;
    spec->token_types = (uint32_t)type_rows;
    return ESP_OK;
}

static esp_code read_spec(const gguf_file *file, model_spec *spec, esp_error *err) {
    *spec = (model_spec){.encoder = true,
                         .activation = ACTIVATION_GELU_ERF,
                         .embedding_scale = 1,
                         .tied_embeddings = true};
    snprintf(spec->family, sizeof spec->family, "bert");
    esp_code code = read_shape(file, spec, err);
    if (code) return code;
    if ((code = check_heads(file, spec, err))) return code;
    code = family_need_f32(file, "bert.attention.layer_norm_epsilon", 1e-12f, 0.1f, &spec->norm_eps,
                           err);
    if (code) return code;
    if ((code = check_causal(file, err))) return code;
    if ((code = family_refuse_unknown(file, "bert.", KNOWN_KEYS, NULL, err))) return code;
    if ((code = embedding_read_keys(file, "bert", spec, err))) return code;
    return read_tables(file, spec, err);
}

const model_family family_bert = {
    .architecture = "bert",
    .read_spec = read_spec,
    .tensor_names =
        {
            [TENSOR_EMBEDDING] = "token_embd.weight",
            [TENSOR_POSITIONS] = "position_embd.weight",
            [TENSOR_TOKEN_TYPES] = "token_types.weight",
            [TENSOR_EMBEDDING_NORM] = "token_embd_norm.weight",
            [TENSOR_EMBEDDING_NORM_BIAS] = "token_embd_norm.bias",
            [TENSOR_Q] = "blk.%u.attn_q.weight",
            [TENSOR_K] = "blk.%u.attn_k.weight",
            [TENSOR_V] = "blk.%u.attn_v.weight",
            [TENSOR_O] = "blk.%u.attn_output.weight",
            [TENSOR_Q_BIAS] = "blk.%u.attn_q.bias",
            [TENSOR_K_BIAS] = "blk.%u.attn_k.bias",
            [TENSOR_V_BIAS] = "blk.%u.attn_v.bias",
            [TENSOR_O_BIAS] = "blk.%u.attn_output.bias",
            [TENSOR_ATTN_NORM] = "blk.%u.attn_output_norm.weight",
            [TENSOR_ATTN_NORM_BIAS] = "blk.%u.attn_output_norm.bias",
            [TENSOR_UP] = "blk.%u.ffn_up.weight",
            [TENSOR_UP_BIAS] = "blk.%u.ffn_up.bias",
            [TENSOR_DOWN] = "blk.%u.ffn_down.weight",
            [TENSOR_DOWN_BIAS] = "blk.%u.ffn_down.bias",
            [TENSOR_MLP_NORM] = "blk.%u.layer_output_norm.weight",
            [TENSOR_MLP_NORM_BIAS] = "blk.%u.layer_output_norm.bias",
        },
    .classes = BERT_CLASSES,
    .model_type = "bert",
    .read_config = bert_read_config,
    .config_tensor_names = {BERT_CONFIG_TENSORS},
};
