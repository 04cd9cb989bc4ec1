/* lora_merge_config.c - config.json of a merged checkpoint: a folder's with what the merge changes, or one
 * made from a GGUF base's spec, which must read back as that spec. */
// SPDX-License-Identifier: Apache-2.0
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/format/json_bytes.h"
#include "engine/model/format/model_folder.h"
#include "engine/model/lora/lora_merge_inner.h"

static void set(json_t *object, const char *key, json_t *value) {
    ESP_ASSERT(value && json_object_set_new(object, key, value) == 0);
}

static void set_changes(const lora_merge_run *run, json_t *root) {
    set(root, "vocab_size", json_integer(run->vocab));
    if (run->base->spec.pooling == POOLING_NONE)
        set(root, "tie_word_embeddings", json_boolean(!run->untied));
    json_object_del(root, "quantization_config");
    json_object_del(root, "torch_dtype");
    set(root, "dtype", json_string("bfloat16"));
}

/* ---- a folder's ---- */

static esp_code read_folder(const lora_merge_run *run, json_t **out, esp_error *err) {
    static const char name[] = "/config.json";
    char path[PATH_MAX];
    file_view view = {0};
    *out = NULL;
    if (snprintf(path, sizeof path, "%s%s", run->options->base_path, name) >= (int)sizeof path)
        return esp_fail(err, ESP_INVALID, "config.json: its path is too long");
    esp_code code = file_map(&view, path, "JSON", err);
    if (!code) code = json_read_object(out, view.bytes, view.count, view.name, "the file", err);
    file_unmap(&view);
    if (code || !json_is_object(json_object_get(*out, "text_config"))) return code;
    return esp_fail(err, ESP_UNIMPLEMENTED,
                    "%s: the base holds more than text (text_config); a merged model of the text "
                    "part alone is not written",
                    run->base->name);
}

/* ---- from a spec ---- */

static json_t *reals_of(const float *values, uint32_t count) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < count; i++)
        ESP_ASSERT(json_array_append_new(list, json_real((double)values[i])) == 0);
    return list;
}

static void set_shape(json_t *root, const model_spec *spec) {
    const struct {
        const char *key;
        uint32_t value;
    } numbers[] = {
        {"hidden_size", spec->hidden},
        {"intermediate_size", spec->intermediate},
        {"num_hidden_layers", spec->layers},
        {"num_attention_heads", spec->heads},
        {"num_key_value_heads", spec->kv_heads},
        {"head_dim", spec->head_dim},
        {"max_position_embeddings", spec->context},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        set(root, numbers[i].key, json_integer(numbers[i].value));
    bool gelu = spec->activation == ACTIVATION_GELU_TANH;
    set(root, gelu ? "hidden_activation" : "hidden_act",
        json_string(gelu ? "gelu_pytorch_tanh" : "silu"));
    set(root, "rms_norm_eps", json_real((double)spec->norm_eps));
    set(root, "attention_bias", json_false());
}

/* The divisors of Llama 3's models come from four numbers, of which files keep none: all published models have
 * these two, and a context that is a power of two, which is tried. */
static void set_llama3(json_t *scaling, const model_spec *spec) {
    set(scaling, "rope_type", json_string("llama3"));
    set(scaling, "factor", json_real((double)spec->rope.divisors[spec->rotary / 2 - 1]));
    set(scaling, "low_freq_factor", json_real(1));
    set(scaling, "high_freq_factor", json_real(4));
}

static void set_yarn(json_t *scaling, const spec_rope *rope) {
    set(scaling, "rope_type", json_string("yarn"));
    set(scaling, "factor", json_real(rope->factor));
    set(scaling, "original_max_position_embeddings", json_integer(rope->original));
    set(scaling, "beta_fast", json_real(rope->beta_fast));
    set(scaling, "beta_slow", json_real(rope->beta_slow));
    set(scaling, "attention_factor", json_real(rope->magnitude));
}

static void set_longrope(json_t *root, json_t *scaling, const model_spec *spec) {
    set(scaling, "type", json_string("longrope"));
    set(scaling, "short_factor", reals_of(spec->rope.divisors, spec->rotary / 2));
    set(scaling, "long_factor", reals_of(spec->rope.long_divisors, spec->rotary / 2));
    set(root, "original_max_position_embeddings", json_integer(spec->rope.original));
}

static void set_rope(json_t *root, const model_spec *spec) {
    json_t *scaling = json_object();
    set(root, "rope_theta", json_real(spec->rope.theta));
    if (spec->rotary != spec->head_dim)
        set(root, "partial_rotary_factor", json_real((double)spec->rotary / spec->head_dim));
    if (spec->rope_local) set(root, "rope_local_base_freq", json_real(spec->local_theta));
    if (spec->rope.scaling == SCALING_LINEAR) {
        set(scaling, "rope_type", json_string("linear"));
        set(scaling, "factor", json_real(spec->rope.factor));
    } else if (spec->rope.scaling == SCALING_DIVISORS)
        set_llama3(scaling, spec);
    else if (spec->rope.scaling == SCALING_YARN)
        set_yarn(scaling, &spec->rope);
    else if (spec->rope.scaling == SCALING_LONGROPE)
        set_longrope(root, scaling, spec);
    set(root, "rope_scaling", json_object_size(scaling) ? scaling : json_null());
    if (!json_object_size(scaling)) json_decref(scaling);
}

/* Gemma's alone have caps and a scale of their own. */
static void set_gemma(json_t *root, const model_spec *spec) {
    double scale = (double)spec->attention_scale, scalar = 1 / (scale * scale);
    float attention = spec->attention_softcap, logits = spec->logit_softcap;
    if (fabs(scalar - round(scalar)) < 1e-4 * scalar) scalar = round(scalar);
    set(root, "query_pre_attn_scalar", json_real(scalar));
    set(root, "attn_logit_softcapping", attention > 0 ? json_real((double)attention) : json_null());
    set(root, "final_logit_softcapping", logits > 0 ? json_real((double)logits) : json_null());
    json_t *types = json_array();
    for (uint32_t i = 0; i < spec->layers; i++)
        ESP_ASSERT(json_array_append_new(types, json_string(spec->slides[i] ? "sliding_attention"
                                                                            : "full_attention")) ==
                   0);
    set(root, "layer_types", types);
}

static json_t *make_config(const lora_merge_run *run) {
    const model_spec *spec = &run->base->spec;
    json_t *root = json_object(), *classes = json_array();
    ESP_ASSERT(json_array_append_new(classes, json_string(run->family->classes[0])) == 0);
    set(root, "architectures", classes);
    set(root, "model_type", json_string(run->family->model_type));
    set_shape(root, spec);
    set_rope(root, spec);
    set(root, "sliding_window", spec->window ? json_integer(spec->window) : json_null());
    if (strncmp(spec->family, "gemma", 5) == 0) set_gemma(root, spec);
    return root;
}

/* ---- does it say the same ---- */

static bool near(double a, double b) { return fabs(a - b) <= 1e-5 * fabs(a) + 1e-12; }

static bool same_rope(const model_spec *a, const model_spec *b) {
    const spec_rope *x = &a->rope, *y = &b->rope;
    bool same = x->scaling == y->scaling && near(x->theta, y->theta) && a->rotary == b->rotary &&
                a->rope_local == b->rope_local && near(x->magnitude, y->magnitude);
    if (a->rope_local) same = same && near(a->local_theta, b->local_theta);
    if (x->scaling == SCALING_LINEAR || x->scaling == SCALING_YARN)
        same = same && near(x->factor, y->factor);
    if (x->scaling == SCALING_YARN || x->scaling == SCALING_LONGROPE)
        same = same && x->original == y->original;
    if (x->scaling == SCALING_YARN)
        same = same && near(x->beta_fast, y->beta_fast) && near(x->beta_slow, y->beta_slow);
    bool lists = x->scaling == SCALING_DIVISORS || x->scaling == SCALING_LONGROPE;
    for (uint32_t i = 0; lists && i < a->rotary / 2; i++) {
        same = same && near((double)x->divisors[i], (double)y->divisors[i]);
        if (x->scaling == SCALING_LONGROPE)
            same = same && near((double)x->long_divisors[i], (double)y->long_divisors[i]);
    }
    return same;
}

/* But for the tables, which the merge may change. */
static bool same_spec(const model_spec *a, const model_spec *b) {
    bool same = a->layers == b->layers && a->hidden == b->hidden && a->heads == b->heads &&
                a->kv_heads == b->kv_heads && a->head_dim == b->head_dim &&
                a->intermediate == b->intermediate && a->context == b->context &&
                a->norm_eps == b->norm_eps && a->activation == b->activation &&
                a->window == b->window && a->pooling == b->pooling && same_rope(a, b) &&
                near((double)a->attention_scale, (double)b->attention_scale) &&
                near((double)a->attention_softcap, (double)b->attention_softcap) &&
                near((double)a->embedding_scale, (double)b->embedding_scale) &&
                near((double)a->logit_softcap, (double)b->logit_softcap);
    for (uint32_t i = 0; i < a->layers && same; i++)
        same = a->slides[i] == b->slides[i];
    return same;
}

static esp_code read_back(const lora_merge_run *run, const char *text, esp_error *err) {
    static const char why[] = "no config.json of its family says what the GGUF file does";
    hf_config *config = NULL;
    const model_family *family = NULL;
    model_spec spec;
    esp_error inner = {0};
    esp_code code = hf_config_open_memory(&config, text, strlen(text), &inner);
    if (!code) code = family_find_config(config, &family, &inner);
    if (!code) code = family->read_config(config, &spec, &inner);
    bool same = !code && family == run->family && same_spec(&run->base->spec, &spec);
    hf_config_close(config);
    if (same) return ESP_OK;
    return esp_fail(err, ESP_UNIMPLEMENTED,
                    "%s: %s%s%.160s; merge into the folder that the file was made of",
                    run->base->name, why, code ? ": " : "", inner.message);
}

static char *print(const json_t *root) {
    char *text = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    ESP_ASSERT(text);
    return text;
}

/* *out is set in any case. */
static esp_code find_config(const lora_merge_run *run, json_t *root, char **out, esp_error *err) {
    enum { FIRST = 32, LAST = 1 << 20 };
    bool tried = run->base->spec.rope.scaling == SCALING_DIVISORS;
    json_t *scaling = json_object_get(root, "rope_scaling");
    esp_code code = ESP_UNIMPLEMENTED;
    for (json_int_t original = FIRST; original <= LAST && code == ESP_UNIMPLEMENTED;
         original *= 2) {
        if (tried) set(scaling, "original_max_position_embeddings", json_integer(original));
        free(*out);
        *out = print(root);
        code = read_back(run, *out, err);
        if (!tried) break;
    }
    return code;
}

esp_code lora_merge_config(const lora_merge_run *run, char **out, esp_error *err) {
    json_t *root = NULL;
    bool folder = model_folder_is(run->options->base_path);
    esp_code code = ESP_OK;
    *out = NULL;
    if (folder)
        code = read_folder(run, &root, err);
    else
        root = make_config(run);
    if (!code) set_changes(run, root);
    if (!code && folder) *out = print(root);
    if (!code && !folder) code = find_config(run, root, out, err);
    json_decref(root);
    if (code) {
        free(*out);
        *out = NULL;
    }
    return code;
}
