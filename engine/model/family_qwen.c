/* family_qwen.c - Qwen2 and 2.5: Llama's shape with biases on q, k and v. Qwen3: none, but an
 * RMSNorm over each head of q and k. Rope turns halves. */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "engine/model/family.h"
#include "engine/model/family_decoder.h"
#include "engine/model/family_embedding.h"

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

const model_family family_qwen2 = {
    .architecture = "qwen2",
    .read_spec = read_qwen2,
    .tensor_names =
        {FAMILY_COMMON_TENSORS, FAMILY_SEPARATE_TENSORS, [TENSOR_Q_BIAS] = "blk.%u.attn_q.bias",
         [TENSOR_K_BIAS] = "blk.%u.attn_k.bias", [TENSOR_V_BIAS] = "blk.%u.attn_v.bias"},
};

const model_family family_qwen3 = {
    .architecture = "qwen3",
    .read_spec = read_qwen3,
    .tensor_names = {FAMILY_COMMON_TENSORS,
                     FAMILY_SEPARATE_TENSORS, [TENSOR_Q_NORM] = "blk.%u.attn_q_norm.weight",
                     [TENSOR_K_NORM] = "blk.%u.attn_k_norm.weight"},
};
