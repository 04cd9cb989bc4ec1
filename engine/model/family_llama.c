/* family_llama.c - Llama: RMSNorm before attention and MLP, rope on all heads, SwiGLU, no biases.
 *
 * Rows of q and k lie permuted in the file so that rope turns neighbours (2i, 2i+1); the rope
 * scalings of Llama 3.1 and later, experts and sliding windows are refused by name until they are
 * computed. Keys and tensor names: ggml/docs/gguf.md, "LLM" and "Standardized tensor names". */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/model/family.h"
#include "engine/model/family_keys.h"

enum {
    HIDDEN_MAX = 65536,
    INTERMEDIATE_MAX = 1048576,
    HEADS_MAX = 1024,
    HEAD_DIM_MAX = 256,
    VOCAB_MAX = 4194304,
    CONTEXT_MAX = 16777216,
    COLUMNS_MULTIPLE = 32,  /* elements of the largest block of a format */
    HEAD_DIM_MULTIPLE = 16, /* what the attention kernels take at a time */
};

/* Keys that are read below, or that say nothing about the arithmetic. Any other llama.* is refused.
 */
static const char *const KNOWN_KEYS[] = {
    "llama.block_count",
    "llama.context_length",
    "llama.embedding_length",
    "llama.feed_forward_length",
    "llama.attention.head_count",
    "llama.attention.head_count_kv",
    "llama.attention.layer_norm_rms_epsilon",
    "llama.attention.key_length",
    "llama.attention.value_length",
    "llama.attention.sliding_window",
    "llama.attention.causal",
    "llama.rope.dimension_count",
    "llama.rope.freq_base",
    "llama.rope.scale_linear",
    "llama.rope.scaling.type",
    "llama.rope.scaling.factor",
    "llama.expert_count",
    "llama.expert_used_count",
    /* facts about the training or the conversion */
    "llama.vocab_size",
    "llama.tensor_data_layout",
    "llama.attention.layer_norm_epsilon",
    "llama.rope.scaling.original_context_length",
    "llama.rope.scaling.finetuned",
    NULL,
};

static esp_code read_shape(const gguf_file *file, model_spec *spec, esp_error *err) {
    const struct {
        const char *key;
        family_range range;
        uint32_t *out;
    } keys[] = {
        {"llama.block_count", {1, SPEC_LAYERS_MAX, 0}, &spec->layers},
        {"llama.context_length", {1, CONTEXT_MAX, 0}, &spec->context},
        {"llama.embedding_length", {32, HIDDEN_MAX, COLUMNS_MULTIPLE}, &spec->hidden},
        {"llama.feed_forward_length",
         {32, INTERMEDIATE_MAX, COLUMNS_MULTIPLE},
         &spec->intermediate},
        {"llama.attention.head_count", {1, HEADS_MAX, 0}, &spec->heads},
    };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        esp_code code = family_need_u32(file, keys[i].key, keys[i].range, keys[i].out, err);
        if (code) return code;
    }
    return ESP_OK;
}

static esp_code read_kv_heads(const gguf_file *file, model_spec *spec, esp_error *err) {
    spec->kv_heads = spec->heads;
    esp_code code = family_may_u32(file, "llama.attention.head_count_kv",
                                   (family_range){1, spec->heads, 0}, &spec->kv_heads, err);
    if (code) return code;
    if (spec->heads % spec->kv_heads != 0)
        return esp_fail(err, ESP_INVALID,
                        "%s: llama.attention.head_count is %u; wanted a multiple of "
                        "llama.attention.head_count_kv, %u",
                        gguf_name(file), spec->heads, spec->kv_heads);
    return ESP_OK;
}

/* Written down, or the residual width shared out among the heads. */
static esp_code read_head_dim(const gguf_file *file, model_spec *spec, esp_error *err) {
    bool found;
    esp_code code = gguf_get_u32(file, "llama.attention.key_length", &found, &spec->head_dim, err);
    if (code) return code;
    if (!found && spec->hidden % spec->heads == 0) spec->head_dim = spec->hidden / spec->heads;
    if (spec->head_dim == 0 || spec->head_dim > HEAD_DIM_MAX ||
        spec->head_dim % HEAD_DIM_MULTIPLE != 0)
        return esp_fail(err, ESP_INVALID,
                        "%s: llama.attention.key_length is %s%u (embedding_length %u, head_count "
                        "%u); wanted a multiple of %d up to %d",
                        gguf_name(file), found ? "" : "missing, and a head has ",
                        found ? spec->head_dim : spec->hidden / spec->heads, spec->hidden,
                        spec->heads, HEAD_DIM_MULTIPLE, HEAD_DIM_MAX);
    spec->attention_scale = 1.0f / sqrtf((float)spec->head_dim);
    return ESP_OK;
}

static esp_code check_head_dim(const gguf_file *file, const model_spec *spec, esp_error *err) {
    bool found;
    uint32_t value_length = spec->head_dim, columns = spec->heads * spec->head_dim;
    esp_code code = gguf_get_u32(file, "llama.attention.value_length", &found, &value_length, err);
    if (code) return code;
    if (value_length != spec->head_dim)
        return esp_fail(err, ESP_INVALID,
                        "%s: llama.attention.value_length is %u; wanted the length of a key, %u",
                        gguf_name(file), value_length, spec->head_dim);
    if (columns % COLUMNS_MULTIPLE != 0)
        return esp_fail(err, ESP_INVALID,
                        "%s: %u heads of %u give %u columns; wanted a multiple of %d",
                        gguf_name(file), spec->heads, spec->head_dim, columns, COLUMNS_MULTIPLE);
    return ESP_OK;
}

static esp_code refuse_scaling(const gguf_file *file, const char *key, double value,
                               esp_error *err) {
    return esp_fail(err, ESP_INVALID, "%s: %s is %g; rope scaling is not supported for llama yet",
                    gguf_name(file), key, value);
}

/* Without a type a factor means linear scaling, as in the reference implementation. */
static esp_code check_rope_factor(const gguf_file *file, const char *key, esp_error *err) {
    bool found;
    float factor = 1;
    esp_code code = gguf_get_f32(file, key, &found, &factor, err);
    if (code) return code;
    bool inert = factor == 0 || factor == 1;
    return inert ? ESP_OK : refuse_scaling(file, key, (double)factor, err);
}

static esp_code check_rope_scaling(const gguf_file *file, esp_error *err) {
    bool found;
    gguf_text type = {"", 0};
    esp_code code = gguf_get_text(file, "llama.rope.scaling.type", &found, &type, err);
    if (code) return code;
    if (found && (type.bytes != 4 || memcmp(type.at, "none", 4) != 0)) {
        bool plain = type.bytes <= 32;
        for (size_t i = 0; i < type.bytes && plain; i++)
            plain = type.at[i] >= 0x20 && type.at[i] <= 0x7e;
        return esp_fail(err, ESP_INVALID,
                        "%s: llama.rope.scaling.type is \"%.*s\"; only \"none\" is supported yet",
                        gguf_name(file), plain ? (int)type.bytes : 1, plain ? type.at : "?");
    }
    if (gguf_find(file, "rope_freqs.weight"))
        return esp_fail(err, ESP_INVALID,
                        "%s: tensor rope_freqs.weight scales the rope frequencies (Llama 3.1 and "
                        "later), which is not supported yet",
                        gguf_name(file));
    if (found) return ESP_OK;
    code = check_rope_factor(file, "llama.rope.scaling.factor", err);
    return code ? code : check_rope_factor(file, "llama.rope.scale_linear", err);
}

static esp_code read_rope(const gguf_file *file, model_spec *spec, esp_error *err) {
    float theta = 10000.0f;
    esp_code code = family_may_f32(file, "llama.rope.freq_base", 1.0f, 1e12f, &theta, err);
    if (code) return code;
    spec->rope_theta = (double)theta;
    spec->rotary = spec->head_dim;
    code = family_may_u32(file, "llama.rope.dimension_count", (family_range){2, spec->head_dim, 2},
                          &spec->rotary, err);
    if (code) return code;
    spec->rope_interleaved = true;
    return check_rope_scaling(file, err);
}

static esp_code refuse_variants(const gguf_file *file, esp_error *err) {
    static const char *const counts[] = {"llama.expert_count", "llama.attention.sliding_window"};
    for (size_t i = 0; i < 2; i++) {
        bool found;
        uint32_t value = 0;
        esp_code code = gguf_get_u32(file, counts[i], &found, &value, err);
        if (code) return code;
        if (value > 0)
            return esp_fail(err, ESP_INVALID, "%s: %s is %u, which is not supported; wanted 0",
                            gguf_name(file), counts[i], value);
    }
    bool found, causal = true;
    esp_code code = gguf_get_bool(file, "llama.attention.causal", &found, &causal, err);
    if (code) return code;
    if (!causal)
        return esp_fail(err, ESP_INVALID,
                        "%s: llama.attention.causal is false; only causal attention is supported",
                        gguf_name(file));
    return family_refuse_unknown(file, "llama.", KNOWN_KEYS, err);
}

/* The vocabulary is what the embedding matrix has rows for: no key is sure to say it. */
static esp_code read_vocab(const gguf_file *file, model_spec *spec, esp_error *err) {
    const gguf_tensor *embedding = gguf_find(file, "token_embd.weight");
    if (!embedding)
        return esp_fail(err, ESP_INVALID, "%s: tensor token_embd.weight is missing",
                        gguf_name(file));
    uint64_t rows = embedding->dims[1];
    if (rows > VOCAB_MAX)
        return esp_fail(err, ESP_INVALID,
                        "%s: tensor token_embd.weight has %llu rows; wanted %d at most",
                        gguf_name(file), (unsigned long long)rows, VOCAB_MAX);
    spec->vocab = (uint32_t)rows;
    spec->tied_embeddings = gguf_find(file, "output.weight") == NULL;
    spec->embedding_scale = 1;
    return ESP_OK;
}

static esp_code read_spec(const gguf_file *file, model_spec *spec, esp_error *err) {
    *spec = (model_spec){.family = "llama"};
    esp_code code = read_shape(file, spec, err);
    if (code) return code;
    if ((code = read_kv_heads(file, spec, err))) return code;
    if ((code = read_head_dim(file, spec, err))) return code;
    if ((code = check_head_dim(file, spec, err))) return code;
    code = family_need_f32(file, "llama.attention.layer_norm_rms_epsilon", 1e-12f, 0.1f,
                           &spec->norm_eps, err);
    if (code) return code;
    if ((code = read_rope(file, spec, err))) return code;
    if ((code = refuse_variants(file, err))) return code;
    return read_vocab(file, spec, err);
}

const model_family family_llama = {
    .architecture = "llama",
    .read_spec = read_spec,
    .tensor_names =
        {
            [TENSOR_EMBEDDING] = "token_embd.weight",
            [TENSOR_FINAL_NORM] = "output_norm.weight",
            [TENSOR_OUTPUT] = "output.weight",
            [TENSOR_ATTN_NORM] = "blk.%u.attn_norm.weight",
            [TENSOR_Q] = "blk.%u.attn_q.weight",
            [TENSOR_K] = "blk.%u.attn_k.weight",
            [TENSOR_V] = "blk.%u.attn_v.weight",
            [TENSOR_O] = "blk.%u.attn_output.weight",
            [TENSOR_MLP_NORM] = "blk.%u.ffn_norm.weight",
            [TENSOR_GATE] = "blk.%u.ffn_gate.weight",
            [TENSOR_UP] = "blk.%u.ffn_up.weight",
            [TENSOR_DOWN] = "blk.%u.ffn_down.weight",
        },
};
