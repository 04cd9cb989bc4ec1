/* test_quant_config.c - quantization_config says how matrices are packed, or is refused by key. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/model/packed/quant_config.h"

/* Single quotes for double ones. */
static json_t *object_of(const char *text) {
    char copy[2048];
    snprintf(copy, sizeof copy, "%s", text);
    for (char *c = copy; *c; c++)
        if (*c == '\'') *c = '"';
    json_error_t error;
    json_t *object = json_loads(copy, 0, &error);
    if (!object) fail_msg("%s: %s", error.text, copy);
    return object;
}

static esp_code read_text(quant_config *out, const char *text, bool guess, esp_error *err) {
    json_t *object = object_of(text);
    esp_code code = quant_config_read(out, object, guess, "config.json", err);
    json_decref(object);
    return code;
}

static void check_scheme(const char *text, bool guess, packed_scheme wanted,
                         const char *activations) {
    quant_config config;
    esp_error err = {0};
    if (read_text(&config, text, guess, &err) != ESP_OK) fail_msg("%s: %s", text, err.message);
    assert_int_equal(config.group_count, 1);
    packed_scheme got = config.groups[0].scheme;
    assert_int_equal(got.packing, wanted.packing);
    assert_int_equal(got.bits, wanted.bits);
    assert_int_equal(got.group_cols, wanted.group_cols);
    assert_int_equal(got.block_rows, wanted.block_rows);
    assert_int_equal(got.zero_bias, wanted.zero_bias);
    assert_int_equal(got.symmetric, wanted.symmetric);
    assert_int_equal(got.wants_groups, wanted.wants_groups);
    assert_int_equal(!config.activations, !activations);
    if (activations) assert_non_null(strstr(config.activations, activations));
    quant_config_free(&config);
}

#define WITH_WEIGHTS(weights, rest)                                                                \
    "{'quant_method':'compressed-tensors','config_groups':{'group_0':{'targets':['Linear'],"       \
    "'weights':{" weights "}" rest "}},'ignore':['lm_head','re:.*gate']"

static void every_method_says_its_scheme(void **state) {
    (void)state;
    check_scheme(
        "{'quant_method':'gptq','bits':4,'group_size':128,'desc_act':false,'sym':true}", false,
        (packed_scheme){.packing = PACKING_GPTQ, .bits = 4, .group_cols = 128, .zero_bias = 1},
        NULL);
    check_scheme("{'quant_method':'gptq','bits':3,'group_size':-1,'desc_act':true,"
                 "'checkpoint_format':'gptq_v2','dynamic':{},'meta':{'quantizer':'x'}}",
                 false, (packed_scheme){.packing = PACKING_GPTQ, .bits = 3, .wants_groups = true},
                 NULL);
    check_scheme(
        "{'bits':8,'group_size':32,'format':'gptq'}", true,
        (packed_scheme){.packing = PACKING_GPTQ, .bits = 8, .group_cols = 32, .zero_bias = 1},
        NULL);
    check_scheme("{'w_bit':4,'q_group_size':64,'zero_point':true,'version':'GEMM'}", true,
                 (packed_scheme){.packing = PACKING_AWQ, .bits = 4, .group_cols = 64}, NULL);
    check_scheme("{'quant_method':'awq','bits':4,'group_size':128,'version':'gemm',"
                 "'modules_to_not_convert':null,'backend':'autoawq'}",
                 false, (packed_scheme){.packing = PACKING_AWQ, .bits = 4, .group_cols = 128},
                 NULL);
    check_scheme(
        "{'quant_method':'fp8','activation_scheme':'dynamic',"
        "'weight_block_size':[128,64]}",
        false,
        (packed_scheme){.packing = PACKING_FP8, .bits = 8, .group_cols = 64, .block_rows = 128},
        "float8");
    check_scheme("{'quant_method':'fbgemm_fp8','activation_scale_ub':1200.0}", false,
                 (packed_scheme){.packing = PACKING_FP8, .bits = 8}, "float8");
}

static void compressed_tensors_say_their_schemes(void **state) {
    (void)state;
    check_scheme(
        WITH_WEIGHTS("'num_bits':4,'type':'int','strategy':'group','group_size':128,"
                     "'symmetric':true,'actorder':'weight','dynamic':false",
                     ",'input_activations':null") ",'format':'pack-quantized',"
                                                  "'sparsity_config':{},'kv_cache_scheme':null}",
        false,
        (packed_scheme){.packing = PACKING_WORDS, .bits = 4, .group_cols = 128, .symmetric = true},
        NULL);
    check_scheme(WITH_WEIGHTS("'num_bits':8,'type':'int','strategy':'channel','symmetric':false",
                              "") ",'format':'int-quantized'}",
                 false, (packed_scheme){.packing = PACKING_INT8, .bits = 8}, NULL);
    check_scheme(WITH_WEIGHTS("'num_bits':8,'type':'float','strategy':'channel'",
                              ",'format':'float-quantized',"
                              "'input_activations':{'type':'float','dynamic':true}") "}",
                 false, (packed_scheme){.packing = PACKING_FP8, .bits = 8, .symmetric = true},
                 "float8");
    check_scheme(WITH_WEIGHTS("'num_bits':8,'type':'float','strategy':'block',"
                              "'block_structure':[128,128]",
                              "") ",'format':'naive-quantized'}",
                 false,
                 (packed_scheme){.packing = PACKING_FP8,
                                 .bits = 8,
                                 .group_cols = 128,
                                 .symmetric = true,
                                 .block_rows = 128},
                 NULL);
}

static void check_refused(const char *text, esp_code wanted, const char *first,
                          const char *second) {
    quant_config config;
    esp_error err = {0};
    assert_int_equal(read_text(&config, text, false, &err), wanted);
    quant_config_free(&config);
    if (!strstr(err.message, "config.json") || !strstr(err.message, first) ||
        !strstr(err.message, second))
        fail_msg("%s: %s", text, err.message);
}

static void what_is_not_computed_is_refused_by_name(void **state) {
    (void)state;
    static const struct {
        const char *text, *first, *second;
    } bad[] = {
        {"{'quant_method':'bitsandbytes'}", "quant_method is \"bitsandbytes\"", "wanted gptq"},
        {"{'bits':4}", "quant_method is null", "wanted gptq"},
        {"{'quant_method':7}", "quant_method is 7", "wanted gptq"},
        {"[]", "quantization_config", "object"},
        {"{'quant_method':'gptq','bits':5,'group_size':128}", "bits is 5", "wanted 2, 3, 4 or 8"},
        {"{'quant_method':'gptq','bits':'4','group_size':128}", "bits is \"4\"", "wanted 2"},
        {"{'quant_method':'gptq','bits':4}", "group_size is null", "or -1"},
        {"{'quant_method':'gptq','bits':4,'group_size':0}", "group_size is 0", "or -1"},
        {"{'quant_method':'gptq','bits':4,'group_size':99999999999}", "group_size", "or -1"},
        {"{'quant_method':'gptq','bits':4,'group_size':32,'checkpoint_format':'marlin'}",
         "checkpoint_format is \"marlin\"", "gptq_v2"},
        {"{'quant_method':'gptq','bits':4,'group_size':32,'is_marlin_format':true}",
         "is_marlin_format", "false"},
        {"{'quant_method':'gptq','bits':4,'group_size':32,'dynamic':{'-:lm_head':{}}}", "dynamic",
         "one scheme"},
        {"{'quant_method':'awq','bits':4,'group_size':32,'version':'gemv'}", "version is \"gemv\"",
         "gemm"},
        {"{'quant_method':'awq','bits':4,'group_size':32,'zero_point':false}", "zero_point",
         "true"},
        {"{'quant_method':'fp8','fmt':'e5m2'}", "fmt is \"e5m2\"", "e4m3"},
        {"{'quant_method':'fp8','weight_block_size':[128]}", "weight_block_size is [128]",
         "two numbers"},
        {"{'quant_method':'compressed-tensors','config_groups':{}}", "config_groups", "scheme"},
        {WITH_WEIGHTS("'num_bits':4", "") ",'format':'nvfp4-pack-quantized'}", "nvfp4",
         "pack-quantized"},
        {WITH_WEIGHTS("'num_bits':4,'type':'float'", "") ",'format':'pack-quantized'}",
         "pack-quantized of float", "known"},
        {WITH_WEIGHTS("'num_bits':4,'strategy':'tensor_group'", "") ",'format':'pack-quantized'}",
         "config_groups.group_0.weights.strategy is \"tensor_group\"", "channel"},
        {WITH_WEIGHTS("'num_bits':4", "") ",'format':'pack-quantized',"
                                          "'kv_cache_scheme':{'num_bits':8}}",
         "kv_cache_scheme", "none"},
        {WITH_WEIGHTS("'num_bits':4", "") ",'format':'pack-quantized',"
                                          "'transform_config':{'config_groups':{}}}",
         "transform_config", "none"},
        {WITH_WEIGHTS("'num_bits':4", "") ",'format':'pack-quantized',"
                                          "'sparsity_config':{'format':'sparse-24-bitmask'}}",
         "sparsity_config", "dense"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        check_refused(bad[i].text, ESP_INVALID, bad[i].first, bad[i].second);
    check_refused(
        WITH_WEIGHTS("'num_bits':8,'strategy':'channel'",
                     ",'input_activations':{'type':'int','num_bits':8}") ",'format':"
                                                                         "'int-quantized'}",
        ESP_UNIMPLEMENTED, "group_0.input_activations", "whole numbers");
}

/* Each of a model's modules is held against each target. */
static void more_targets_than_any_model_has_are_refused(void **state) {
    (void)state;
    char text[2048] = "{'quant_method':'compressed-tensors','format':'pack-quantized',"
                      "'config_groups':{'g':{'weights':{'num_bits':4},'targets':['re:a'";
    for (int i = 0; i < 64; i++)
        strcat(text, ",'re:a'");
    strcat(text, "]}}}");
    check_refused(text, ESP_INVALID, "config_groups.g.targets", "65 of them patterns");
    size_t used = (size_t)(strstr(text, "'re:a'") - text);
    snprintf(text + used, sizeof text - used, "'%0600d']}}}", 0);
    check_refused(text, ESP_INVALID, "config_groups.g.targets", "512 bytes");
}

/* --- which module ------------------------------------------------------------------------------ */

static void add(tensor_set *set, const char *name, tensor_raw raw, uint64_t rows, uint64_t cols) {
    static uint8_t zeros[64 * 64 * 4];
    model_tensor tensor = {.name = {name, strlen(name)},
                           .dim_count = 2,
                           .dims = {cols, rows, 1, 1},
                           .raw = raw,
                           .dtype = DT_F32,
                           .data = zeros,
                           .file = "model"};
    tensor_set_add(set, &tensor);
}

static packed_matrix find(const quant_config *config, const tensor_set *set, const char *module,
                          esp_code wanted) {
    packed_matrix out;
    esp_error err = {0};
    esp_code code =
        quant_config_find(config, set, (model_text){module, strlen(module)}, &out, &err);
    if (code != wanted) fail_msg("%s: %s", module, err.message);
    return out;
}

/* Two groups, told apart by patterns and names; a plain module; one that nobody speaks of. */
static void modules_find_their_group(void **state) {
    (void)state;
    quant_config config;
    esp_error err = {0};
    const char *text =
        "{'quant_method':'compressed-tensors','format':'naive-quantized','config_groups':{"
        "'a':{'targets':['re:model\\\\.m\\\\.down'],'weights':{'num_bits':8,'strategy':'group','"
        "group_size':32}},"
        "'b':{'targets':['model.m.up','Other'],'weights':{'num_bits':8,'strategy':'channel'}}}}";
    assert_int_equal(read_text(&config, text, false, &err), ESP_OK);
    tensor_set set = {0};
    static const char *const names[] = {"m.down_x", "m.up", "m.up_too", "m.plain"};
    static const char *const weights[] = {"m.down_x.weight", "m.up.weight", "m.up_too.weight",
                                          "m.plain.weight"};
    for (int i = 0; i < 4; i++)
        add(&set, weights[i], i < 3 ? RAW_I8 : RAW_NONE, 8, 64);
    add(&set, "m.down_x.weight_scale", RAW_NONE, 8, 2);
    add(&set, "m.up.weight_scale", RAW_NONE, 8, 1);
    assert_int_equal(tensor_set_seal(&set, &err), ESP_OK);
    assert_int_equal(find(&config, &set, names[0], ESP_OK).group_cols, 32);
    assert_int_equal(find(&config, &set, names[1], ESP_OK).group_cols, 64);
    find(&config, &set, names[2], ESP_INVALID);
    assert_int_equal(find(&config, &set, names[3], ESP_OK).rows, 0);
    tensor_set_free(&set);
    quant_config_free(&config);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_method_says_its_scheme),
        cmocka_unit_test(compressed_tensors_say_their_schemes),
        cmocka_unit_test(what_is_not_computed_is_refused_by_name),
        cmocka_unit_test(more_targets_than_any_model_has_are_refused),
        cmocka_unit_test(modules_find_their_group),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
