/* test_hf_config.c - config.json of each published kind says the spec that its class computes, in the
 * old keys and the new; whatever would be computed otherwise is refused by name. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/model/family/family.h"

/* Each as published, down to the keys that say nothing. */
static const char LLAMA[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"attention_bias\":false,\"attention_dropout\":0.0,"
    "\"bos_token_id\":128000,\"eos_token_id\":[128001,128008,128009],\"head_dim\":64,"
    "\"hidden_act\":\"silu\",\"hidden_size\":2048,\"initializer_range\":0.02,"
    "\"intermediate_size\":8192,\"max_position_embeddings\":131072,\"mlp_bias\":false,"
    "\"model_type\":\"llama\",\"num_attention_heads\":32,\"num_hidden_layers\":16,"
    "\"num_key_value_heads\":8,\"pretraining_tp\":1,\"rms_norm_eps\":1e-05,"
    "\"rope_scaling\":{\"factor\":32.0,\"high_freq_factor\":4.0,\"low_freq_factor\":1.0,"
    "\"original_max_position_embeddings\":8192,\"rope_type\":\"llama3\"},\"rope_theta\":500000.0,"
    "\"tie_word_embeddings\":true,\"torch_dtype\":\"bfloat16\",\"transformers_version\":\"4.45.0\","
    "\"use_cache\":true,\"vocab_size\":128256,\"transformers.js_config\":{\"dtype\":\"q4\"}}";

static const char MISTRAL[] =
    "{\"architectures\":[\"MistralForCausalLM\"],\"bos_token_id\":1,\"eos_token_id\":2,"
    "\"head_dim\":128,\"hidden_act\":\"silu\",\"hidden_size\":5120,\"intermediate_size\":14336,"
    "\"max_position_embeddings\":131072,\"model_type\":\"mistral\",\"num_attention_heads\":32,"
    "\"num_hidden_layers\":40,\"num_key_value_heads\":8,\"rms_norm_eps\":1e-05,"
    "\"rope_theta\":1000000.0,\"sliding_window\":null,\"tie_word_embeddings\":false,"
    "\"vocab_size\":131072}";

static const char PHI3[] =
    "{\"architectures\":[\"Phi3ForCausalLM\"],\"auto_map\":{\"AutoConfig\":\"a.B\"},"
    "\"embd_pdrop\":0.0,\"hidden_act\":\"silu\",\"hidden_size\":128,\"intermediate_size\":256,"
    "\"max_position_embeddings\":131072,\"model_type\":\"phi3\",\"num_attention_heads\":2,"
    "\"num_hidden_layers\":2,\"num_key_value_heads\":1,\"original_max_position_embeddings\":4096,"
    "\"partial_rotary_factor\":0.125,\"rms_norm_eps\":1e-05,"
    "\"rope_scaling\":{\"long_factor\":[1,2,3,4],\"short_factor\":[1.5,1,1,1],\"type\":"
    "\"longrope\"},\"rope_theta\":10000.0,\"sliding_window\":262144,\"vocab_size\":32064,"
    "\"full_attn_mod\":1,\"interpolate_factor\":1,\"lm_head_bias\":false}";

static const char GEMMA2[] =
    "{\"architectures\":[\"Gemma2ForCausalLM\"],\"attention_bias\":false,"
    "\"attn_logit_softcapping\":50.0,\"cache_implementation\":\"hybrid\","
    "\"final_logit_softcapping\":30.0,\"head_dim\":256,\"hidden_act\":\"gelu_pytorch_tanh\","
    "\"hidden_activation\":\"gelu_pytorch_tanh\",\"hidden_size\":2304,\"intermediate_size\":9216,"
    "\"max_position_embeddings\":8192,\"model_type\":\"gemma2\",\"num_attention_heads\":8,"
    "\"num_hidden_layers\":26,\"num_key_value_heads\":4,\"query_pre_attn_scalar\":256,"
    "\"rms_norm_eps\":1e-06,\"rope_theta\":10000.0,\"sliding_window\":4096,\"vocab_size\":256000}";

/* The 4B model leaves most to the class. */
static const char GEMMA3[] =
    "{\"architectures\":[\"Gemma3ForConditionalGeneration\"],\"boi_token_index\":255999,"
    "\"eos_token_id\":[1,106],\"mm_tokens_per_image\":256,\"model_type\":\"gemma3\",\"text_"
    "config\":"
    "{\"hidden_size\":2560,\"intermediate_size\":10240,\"model_type\":\"gemma3_text\","
    "\"num_hidden_layers\":34,\"rope_scaling\":{\"factor\":8.0,\"rope_type\":\"linear\"},"
    "\"sliding_window\":1024},\"torch_dtype\":\"bfloat16\",\"vision_config\":{\"hidden_size\":1152}"
    "}";

static const char QWEN2[] =
    "{\"architectures\":[\"Qwen2ForCausalLM\"],\"attention_dropout\":0.0,\"bos_token_id\":151643,"
    "\"eos_token_id\":151645,\"hidden_act\":\"silu\",\"hidden_size\":896,"
    "\"intermediate_size\":4864,\"max_position_embeddings\":32768,\"max_window_layers\":21,"
    "\"model_type\":\"qwen2\",\"num_attention_heads\":14,\"num_hidden_layers\":24,"
    "\"num_key_value_heads\":2,\"rms_norm_eps\":1e-06,\"rope_theta\":1000000.0,"
    "\"sliding_window\":32768,\"tie_word_embeddings\":true,\"use_mrope\":false,"
    "\"use_sliding_window\":false,\"vocab_size\":151936}";

static const char QWEN3[] =
    "{\"architectures\":[\"Qwen3ForCausalLM\"],\"attention_bias\":false,\"head_dim\":128,"
    "\"hidden_act\":\"silu\",\"hidden_size\":1024,\"intermediate_size\":3072,"
    "\"max_position_embeddings\":40960,\"max_window_layers\":28,\"model_type\":\"qwen3\","
    "\"num_attention_heads\":16,\"num_hidden_layers\":28,\"num_key_value_heads\":8,"
    "\"rms_norm_eps\":1e-06,\"rope_scaling\":null,\"rope_theta\":1000000,\"sliding_window\":null,"
    "\"tie_word_embeddings\":true,\"use_sliding_window\":false,\"vocab_size\":151936}";

/* The base with other keys in it; "text_config" keys go one level down. free() it. */
static char *changed(const char *base, const char *changes) {
    json_t *root = json_loads(base, 0, NULL), *more = json_loads(changes, 0, NULL);
    assert_non_null(root);
    assert_non_null(more);
    assert_int_equal(json_object_update_recursive(root, more), 0);
    char *text = json_dumps(root, 0);
    json_decref(root);
    json_decref(more);
    return text;
}

static esp_code read_text(const char *text, model_spec *spec, esp_error *err) {
    hf_config *config;
    const model_family *family;
    esp_code code = hf_config_open_memory(&config, text, strlen(text), err);
    if (code) return code;
    if (!(code = family_find_config(config, &family, err)))
        code = family->read_config(config, spec, err);
    hf_config_close(config);
    return code;
}

static model_spec spec_of(const char *base, const char *changes) {
    static model_spec spec;
    esp_error err = {0};
    char *text = changed(base, changes);
    if (read_text(text, &spec, &err)) fail_msg("%s", err.message);
    free(text);
    return spec;
}

static void assert_near(double seen, double wanted) {
    if (fabs(seen - wanted) > 1e-6 * fabs(wanted)) fail_msg("%.9g is not %.9g", seen, wanted);
}

/* The layers that slide, as "s" and "f". */
static void assert_layers(const model_spec *spec, const char *wanted) {
    for (uint32_t i = 0; wanted[i]; i++)
        if (spec->slides[i] != (wanted[i] == 's')) fail_msg("layer %u of %s", i, wanted);
}

static void llama_is_read(void **state) {
    (void)state;
    model_spec spec = spec_of(LLAMA, "{}");
    assert_string_equal(spec.family, "llama");
    assert_int_equal(spec.layers, 16);
    assert_int_equal(spec.kv_heads, 8);
    assert_int_equal(spec.head_dim, 64);
    assert_true(spec.tied_embeddings);
    assert_false(spec.rope_interleaved);
    assert_int_equal(spec.rope.scaling, SCALING_DIVISORS);
    assert_near((double)spec.rope.divisors[0], 1);
    assert_near((double)spec.rope.divisors[31], 32);
    assert_int_equal(spec.window, 0);
    assert_near((double)spec.attention_scale, 0.125);
}

static void mistral_is_read(void **state) {
    (void)state;
    model_spec spec = spec_of(MISTRAL, "{}");
    assert_int_equal(spec.window, 0);
    assert_int_equal(spec.head_dim, 128);
    assert_false(spec.tied_embeddings);
    spec = spec_of(MISTRAL, "{\"sliding_window\":4096}");
    assert_int_equal(spec.window, 4096);
    assert_layers(&spec, "ssss");
    spec = spec_of(MISTRAL, "{\"architectures\":[\"MinistralForCausalLM\"],\"sliding_window\":100,"
                            "\"num_hidden_layers\":3,\"layer_types\":[\"sliding_attention\","
                            "\"full_attention\",\"sliding_attention\"]}");
    assert_layers(&spec, "sfs");
}

static void phi_is_read(void **state) {
    (void)state;
    model_spec spec = spec_of(PHI3, "{}");
    assert_int_equal(spec.rotary, 8);
    assert_int_equal(spec.rope.scaling, SCALING_LONGROPE);
    assert_int_equal(spec.rope.original, 4096);
    assert_near((double)spec.rope.divisors[0], 1.5);
    assert_near((double)spec.rope.long_divisors[3], 4);
    assert_near(spec.rope.magnitude, sqrt(1 + log(32) / log(4096)));
    assert_int_equal(spec.window, 262144);
    spec = spec_of(PHI3, "{\"rope_scaling\":{\"type\":\"su\",\"attention_factor\":1.25}}");
    assert_near(spec.rope.magnitude, 1.25);
    spec = spec_of(PHI3, "{\"rope_scaling\":null}");
    assert_int_equal(spec.rope.scaling, SCALING_NONE);
}

static void gemma2_is_read(void **state) {
    (void)state;
    model_spec spec = spec_of(GEMMA2, "{}");
    assert_true(spec.tied_embeddings);
    assert_int_equal(spec.activation, ACTIVATION_GELU_TANH);
    assert_near((double)spec.attention_softcap, 50);
    assert_near((double)spec.logit_softcap, 30);
    assert_near((double)spec.embedding_scale, 48);
    assert_near((double)spec.attention_scale, 1.0 / 16);
    assert_layers(&spec, "sfsfsf");
    spec = spec_of(GEMMA2, "{\"attn_logit_softcapping\":null}");
    assert_true(spec.attention_softcap == 0);
}

static void gemma3_is_read(void **state) {
    (void)state;
    model_spec spec = spec_of(GEMMA3, "{}");
    assert_int_equal(spec.heads, 8);
    assert_int_equal(spec.kv_heads, 4);
    assert_int_equal(spec.head_dim, 256);
    assert_int_equal(spec.vocab, 262208);
    assert_int_equal(spec.context, 131072);
    assert_true(spec.tied_embeddings && spec.rope_local);
    assert_near(spec.rope.theta, 1e6);
    assert_near(spec.local_theta, 1e4);
    assert_int_equal(spec.rope.scaling, SCALING_LINEAR);
    assert_near(spec.rope.factor, 8);
    assert_layers(&spec, "sssssfsssssf");
    assert_true(spec.logit_softcap == 0);
    spec = spec_of(GEMMA3, "{\"text_config\":{\"sliding_window_pattern\":2}}");
    assert_layers(&spec, "sfsf");
}

static void qwen_is_read(void **state) {
    (void)state;
    model_spec spec = spec_of(QWEN2, "{}");
    assert_int_equal(spec.window, 0);
    assert_true(spec.tied_embeddings);
    spec = spec_of(QWEN2, "{\"use_sliding_window\":true,\"max_window_layers\":2}");
    assert_int_equal(spec.window, 32768);
    assert_layers(&spec, "ffss");
    spec = spec_of(QWEN3, "{\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4.0,"
                          "\"original_max_position_embeddings\":32768}}");
    assert_int_equal(spec.head_dim, 128);
    assert_int_equal(spec.rope.scaling, SCALING_YARN);
    assert_int_equal(spec.context, 131072);
    assert_near(spec.rope.magnitude, 0.1 * log(4) + 1);
}

/* What a newer writer of the files makes of the same models. */
static void new_keys_say_the_same(void **state) {
    (void)state;
    model_spec spec =
        spec_of(MISTRAL, "{\"rope_theta\":null,\"dtype\":\"bfloat16\",\"rope_parameters\":"
                         "{\"rope_theta\":5000.0,\"rope_type\":\"default\"}}");
    assert_near(spec.rope.theta, 5000);
    spec = spec_of(GEMMA3, "{\"text_config\":{\"rope_scaling\":null,\"rope_parameters\":{"
                           "\"full_attention\":{\"rope_type\":\"linear\",\"factor\":4.0,"
                           "\"rope_theta\":2000.0},\"sliding_attention\":{\"rope_type\":"
                           "\"default\",\"rope_theta\":3000.0}}}}");
    assert_near(spec.rope.theta, 2000);
    assert_near(spec.rope.factor, 4);
    assert_near(spec.local_theta, 3000);
    spec = spec_of(PHI3, "{\"partial_rotary_factor\":null,\"rope_scaling\":null,"
                         "\"original_max_position_embeddings\":null,\"rope_parameters\":"
                         "{\"partial_rotary_factor\":0.125,\"rope_type\":\"longrope\","
                         "\"original_max_position_embeddings\":8192,\"rope_theta\":10000.0,"
                         "\"short_factor\":[1,1,1,1],\"long_factor\":[2,2,2,2]}}");
    assert_int_equal(spec.rotary, 8);
    assert_int_equal(spec.rope.original, 8192);
}

static void without_a_class_the_type_decides(void **state) {
    (void)state;
    model_spec spec = spec_of(QWEN3, "{\"architectures\":null}");
    assert_string_equal(spec.family, "qwen3");
}

static model_text bare(const char *name) {
    return family_bare_name((model_text){name, strlen(name)});
}

static void tensor_names_lose_what_stands_around_the_text_model(void **state) {
    (void)state;
    static const char *const names[] = {"model.layers.0.x", "language_model.model.layers.0.x",
                                        "model.language_model.layers.0.x", "layers.0.x"};
    for (size_t i = 0; i < 4; i++)
        assert_memory_equal(bare(names[i]).at, "layers.0.x", sizeof "layers.0.x");
    assert_string_equal(bare("language_model.lm_head.weight").at, "lm_head.weight");
    model_spec spec = spec_of(GEMMA3, "{}");
    assert_true(family_ignores_tensor(&spec, bare("vision_tower.x.weight")));
    assert_true(family_ignores_tensor(&spec, bare("model.vision_tower.x.weight")));
    assert_true(family_ignores_tensor(&spec, bare("model.layers.3.self_attn.rotary_emb.inv_freq")));
    assert_true(family_ignores_tensor(&spec, bare("lm_head.weight")));
    assert_false(family_ignores_tensor(&spec, bare("lm_head.bias")));
    assert_false(family_ignores_tensor(&spec, bare("lm_head.qweight")));
    spec.tied_embeddings = false;
    assert_false(family_ignores_tensor(&spec, bare("lm_head.weight")));
    assert_false(family_ignores_tensor(&spec, bare("model.layers.3.self_attn.q_proj.weight")));
}

/* --- refusals ------------------------------------------------------------------------------- */

/* The text is refused by a sentence with each of the words. */
static void assert_refused(const char *text, const char *word, const char *other) {
    model_spec spec;
    esp_error err = {0};
    if (!read_text(text, &spec, &err)) fail_msg("not refused: %s", word);
    assert_int_equal(err.code, ESP_INVALID);
    if (!strstr(err.message, word) || !strstr(err.message, other))
        fail_msg("\"%s\" lacks %s or %s", err.message, word, other);
}

static void what_is_not_computed_is_refused_by_name(void **state) {
    (void)state;
    static const struct {
        const char *base, *changes, *word, *other;
    } rows[] = {
        {LLAMA, "{\"architectures\":[\"MixtralForCausalLM\"]}", "MixtralForCausalLM", "LlamaFor"},
        {LLAMA, "{\"architectures\":\"LlamaForCausalLM\"}", "architectures", "list"},
        {LLAMA, "{\"architectures\":[]}", "architectures", "list"},
        {LLAMA, "{\"architectures\":null,\"model_type\":\"bloom\"}", "model_type", "bloom"},
        {LLAMA, "{\"hidden_act\":\"gelu\"}", "hidden_act", "silu"},
        {GEMMA2, "{\"hidden_activation\":\"gelu\"}", "hidden_activation", "gelu_pytorch_tanh"},
        {LLAMA, "{\"attention_bias\":true}", "attention_bias", "true"},
        {LLAMA, "{\"mlp_bias\":true}", "mlp_bias", "true"},
        {LLAMA, "{\"is_causal\":false}", "is_causal", "false"},
        {QWEN2, "{\"is_causal\":false}", "is_causal", "qwen2"},
        {LLAMA, "{\"rope_condense_ratio\":8}", "rope_condense_ratio", "8"},
        {LLAMA, "{\"num_local_experts\":8}", "num_local_experts", "8"},
        {LLAMA, "{\"residual_multiplier\":0.22}", "residual_multiplier", "0.22"},
        {LLAMA, "{\"final_logit_softcapping\":30.0}", "final_logit_softcapping", "30"},
        {LLAMA, "{\"partial_rotary_factor\":0.5}", "partial_rotary_factor", "0.5"},
        {LLAMA, "{\"rope_interleaved\":true}", "rope_interleaved", "true"},
        {LLAMA, "{\"text_config\":{\"model_type\":\"llama\"}}", "text_config", "no text_config"},
        {GEMMA3, "{\"text_config\":{\"model_type\":\"gemma4_text\"}}", "gemma4_text",
         "gemma3_text"},
        {GEMMA3, "{\"text_config\":{\"use_bidirectional_attention\":true}}",
         "text_config.use_bidirectional_attention", "true"},
        {MISTRAL, "{\"layer_types\":[1]}", "layer_types", "a list of 40"},
        {QWEN2, "{\"num_hidden_layers\":1,\"layer_types\":[\"sliding_attention\"]}",
         "layer_types[0]", "sliding_window"},
        {QWEN2, "{\"num_hidden_layers\":1,\"layer_types\":[\"linear_attention\"]}",
         "linear_attention", "layer_types[0]"},
        {MISTRAL,
         "{\"sliding_window\":8,\"num_hidden_layers\":1,\"layer_types\":[\"full_attention\"]}",
         "layer_types[0]", "sliding_attention"},
        {MISTRAL, "{\"sliding_window\":0}", "sliding_window", "whole number"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char *text = changed(rows[i].base, rows[i].changes);
        assert_refused(text, rows[i].word, rows[i].other);
        free(text);
    }
}

static void rope_that_is_not_computed_is_refused_by_name(void **state) {
    (void)state;
    static const struct {
        const char *base, *changes, *word, *other;
    } rows[] = {
        {LLAMA, "{\"rope_scaling\":{\"rope_type\":\"dynamic\"}}", "rope_scaling.rope_type",
         "dynamic"},
        {LLAMA, "{\"rope_scaling\":{\"type\":\"linear\"}}", "rope_type", "linear"},
        {LLAMA, "{\"rope_scaling\":{\"mrope_section\":[1]}}", "rope_scaling.mrope_section",
         "not known"},
        {LLAMA, "{\"rope_scaling\":{\"rope_type\":null}}", "rope_type", "missing"},
        {LLAMA, "{\"rope_scaling\":{\"high_freq_factor\":1.0}}", "high_freq_factor",
         "low_freq_factor"},
        {LLAMA, "{\"rope_scaling\":{\"original_max_position_embeddings\":null}}",
         "original_max_position_embeddings", "missing"},
        {LLAMA, "{\"rope_scaling\":{\"factor\":0.5}}", "rope_scaling.factor", "0.5"},
        {LLAMA, "{\"rope_scaling\":[]}", "rope_scaling", "object"},
        {LLAMA, "{\"rope_theta\":0}", "rope_theta", "2 to"},
        {LLAMA, "{\"rope_parameters\":{\"rope_type\":\"default\"}}", "rope_parameters",
         "rope_scaling"},
        {QWEN3, "{\"rope_parameters\":{\"rope_theta\":1.5e6}}", "rope_theta", "equal"},
        {QWEN3, "{\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"}}}",
         "each layer type", "qwen3"},
        {QWEN3, "{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"truncate\":false}}",
         "truncate", "false"},
        {PHI3, "{\"rope_scaling\":{\"type\":\"yarn\"}}", "rope_scaling.type", "phi3"},
        {PHI3, "{\"rope_scaling\":{\"short_factor\":[1,2,3]}}", "short_factor", "a list of 4"},
        {PHI3, "{\"rope_scaling\":{\"long_factor\":[1,2,3,0]}}", "long_factor[3]", "0"},
        {PHI3, "{\"rope_scaling\":{\"short_mscale\":1.2}}", "short_mscale", "1.2"},
        {PHI3, "{\"rope_scaling\":{\"factor\":2.0}}", "rope_scaling.factor", "32"},
        {PHI3, "{\"partial_rotary_factor\":0.01}", "partial_rotary_factor", "0 of the 64"},
        {GEMMA3,
         "{\"text_config\":{\"rope_scaling\":null,\"rope_parameters\":{\"sliding_attention\":"
         "{\"rope_type\":\"yarn\"}}}}",
         "rope_parameters.sliding_attention.rope_type", "yarn"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char *text = changed(rows[i].base, rows[i].changes);
        assert_refused(text, rows[i].word, rows[i].other);
        free(text);
    }
}

static void values_out_of_bounds_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *base, *changes, *word, *other;
    } rows[] = {
        {LLAMA, "{\"hidden_size\":\"2048\"}", "hidden_size", "\"2048\""},
        {LLAMA, "{\"hidden_size\":2049}", "hidden_size", "multiple of 32"},
        {LLAMA, "{\"hidden_size\":-64}", "hidden_size", "-64"},
        {LLAMA, "{\"hidden_size\":2048.0}", "hidden_size", "2048.0; wanted"},
        {LLAMA, "{\"hidden_size\":null}", "hidden_size", "missing"},
        {LLAMA, "{\"num_hidden_layers\":9223372036854775807}", "num_hidden_layers", "512"},
        {LLAMA, "{\"num_hidden_layers\":0}", "num_hidden_layers", "1 to"},
        {LLAMA, "{\"num_key_value_heads\":5}", "num_attention_heads", "multiple of"},
        {LLAMA, "{\"num_key_value_heads\":64}", "num_key_value_heads", "1 to 32"},
        {LLAMA, "{\"head_dim\":512}", "head_dim", "256"},
        {LLAMA, "{\"head_dim\":null,\"num_attention_heads\":24}", "head_dim", "24 attention"},
        {LLAMA, "{\"rms_norm_eps\":0}", "rms_norm_eps", "1e-12"},
        {LLAMA, "{\"tie_word_embeddings\":1}", "tie_word_embeddings", "true or false"},
        {LLAMA, "{\"vocab_size\":4294967297}", "vocab_size", "4294967297"},
        {LLAMA, "{\"text_config\":7}", "text_config", "object"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char *text = changed(rows[i].base, rows[i].changes);
        assert_refused(text, rows[i].word, rows[i].other);
        free(text);
    }
}

static void what_is_no_json_is_refused(void **state) {
    (void)state;
    assert_refused("{\"hidden_size\":1e999}", "config.json: the file", "not valid JSON");
    assert_refused("{\"architectures\":[\"LlamaForCausalLM\"],"
                   "\"num_hidden_layers\":99999999999999999999}",
                   "num_hidden_layers", "whole number");
    assert_refused("{\"a\":1,\"a\":2}", "config.json", "duplicate");
    assert_refused("[]", "config.json", "object");
    assert_refused("{\"a\":NaN}", "config.json", "JSON");
    assert_refused("{", "config.json", "JSON");
    assert_refused("{} {}", "config.json", "JSON");
    assert_refused("{\"a\":\"\xff\"}", "config.json", "decode byte");
}

static void ten_thousand_levels_are_refused(void **state) {
    (void)state;
    enum { DEPTH = 10000 };
    char *text = mem_new(DEPTH + 16, 1);
    memcpy(text, "{\"a\":", 5);
    memset(text + 5, '[', DEPTH);
    assert_refused(text, "config.json", "depth");
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_is_read),
        cmocka_unit_test(mistral_is_read),
        cmocka_unit_test(phi_is_read),
        cmocka_unit_test(gemma2_is_read),
        cmocka_unit_test(gemma3_is_read),
        cmocka_unit_test(qwen_is_read),
        cmocka_unit_test(new_keys_say_the_same),
        cmocka_unit_test(without_a_class_the_type_decides),
        cmocka_unit_test(tensor_names_lose_what_stands_around_the_text_model),
        cmocka_unit_test(what_is_not_computed_is_refused_by_name),
        cmocka_unit_test(rope_that_is_not_computed_is_refused_by_name),
        cmocka_unit_test(values_out_of_bounds_are_refused),
        cmocka_unit_test(what_is_no_json_is_refused),
        cmocka_unit_test(ten_thousand_levels_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
