/* family_config_refuse.c - keys by which other classes, or code that comes with a model, change what
 * a decoder computes. In a config of a class that we know they are a mistake or a model of another
 * kind: refused where they ask for something. */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "engine/model/family/family_config.h"

/* Asks for nothing when missing, null, false, 0 or empty. */
static const char *const EXTRAS[] = {
    "attention_bias",
    "mlp_bias",
    "bias",
    "lm_head_bias",
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "kv_lora_rank",
    "use_mrope",
    "use_bidirectional_attention",
    "qk_layernorm",
    "use_qk_norm",
    "clip_qkv",
    "alibi",
    "use_parallel_residual",
    "parallel_attn",
    "attention_chunk_size",
    "no_rope_layers",
    "cross_attention_layers",
    "num_kv_shared_layers",
    "rope_interleaved",
    "rope_interleave",
    "blocksparse_block_size",
    "use_lora",
    "layer_sharing",
    NULL,
};

/* Asks for nothing when 1, too. */
static const char *const FACTORS[] = {
    "residual_multiplier", "embedding_multiplier", "attention_multiplier",
    "logits_scaling",      "logit_scale",          "scale_emb",
    "scale_depth",         "rotary_pct",           "rope_ratio",
    "rotary_emb_fraction", "rope_condense_ratio",  NULL,
};

static const char *const SOFTCAPS[] = {"attn_logit_softcapping", "final_logit_softcapping", NULL};

static esp_code refuse(const hf_section *section, const char *const *keys, bool factors,
                       const config_traits *traits, esp_error *err) {
    for (; *keys; keys++) {
        if (hf_is_empty(section, *keys) || (factors && hf_is_one(section, *keys))) continue;
        return esp_fail(err, ESP_INVALID, "%s: %s%s is %s, which is not supported for %s models",
                        section->file, section->path, *keys, hf_show(section, *keys).text,
                        traits->family);
    }
    return ESP_OK;
}

/* Embedding models made of decoders turn it off: each token then sees all others. */
static esp_code need_causal(const hf_section *text, const config_traits *traits, esp_error *err) {
    bool causal = true;
    esp_code code = hf_may_bool(text, "is_causal", &causal, err);
    if (code || causal) return code;
    return esp_fail(err, ESP_INVALID,
                    "%s: %sis_causal is false, which is not supported for %s models", text->file,
                    text->path, traits->family);
}

esp_code config_refuse_foreign(const hf_config *config, const config_traits *traits,
                               esp_error *err) {
    hf_section text = hf_config_text(config);
    esp_code code = need_causal(&text, traits, err);
    if (code) return code;
    if ((code = refuse(&text, EXTRAS, false, traits, err))) return code;
    if ((code = refuse(&text, FACTORS, true, traits, err))) return code;
    return traits->softcaps ? ESP_OK : refuse(&text, SOFTCAPS, false, traits, err);
}
