/* test_model_file.c - a Hugging Face folder as a model: what is read of it, what is refused, and
 * when its weights are packed. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/base/pool.h"
#include "engine/model/model.h"
#include "kernels/kernels.h"
#include "tests/unit/tiny_folder.h"

static char folder[] = "/tmp/test_model_file_XXXXXX";

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

static model_file *open_folder(void) {
    model_file *file;
    esp_error err = {0};
    if (model_file_open(&file, folder, &err)) fail_msg("%s", err.message);
    return file;
}

/* Packs it for ref and lets it go again. */
static esp_code pack(model_file *file, esp_error *err) {
    thread_pool *pool;
    kern_device *dev;
    model *packed = NULL;
    assert_int_equal(pool_open(&pool, 1, err), ESP_OK);
    kern_options device = {.pool = pool, .kv_dtype = DT_F32, .tokens_max = 4};
    assert_int_equal(kern_ref.open(&dev, &device, err), ESP_OK);
    model_options options = {
        .ops = &kern_ref, .dev = dev, .tokens_max = 4, .rows_max = 1, .context_max = 16};
    esp_code code = model_open(&packed, file, &options, err);
    model_close(packed);
    kern_ref.close(dev);
    pool_close(pool);
    return code;
}

static void a_folder_is_a_model(void **state) {
    (void)state;
    assert_true(tf_write(folder, NULL));
    model_file *file = open_folder();
    assert_string_equal(model_file_name(file), strrchr(folder, '/') + 1);
    const model_spec *spec = model_file_spec(file);
    assert_string_equal(spec->family, "llama");
    assert_int_equal(spec->layers, TF_LAYERS);
    assert_int_equal(spec->hidden, TF_HIDDEN);
    assert_int_equal(model_file_weights(file)->tensors.count, 3 + 9 * TF_LAYERS);
    char *text = model_file_describe(file);
    assert_non_null(strstr(text, "\"format\": \"safetensors\""));
    assert_non_null(strstr(text, "\"files\": 1"));
    assert_non_null(strstr(text, "\"quantization\": \"F32\""));
    free(text);
    esp_error err = {0};
    if (pack(file, &err)) fail_msg("%s", err.message);
    model_file_close(file);
}

/* The data of every tensor begins at an odd address. */
static void weights_at_any_byte_are_packed(void **state) {
    (void)state;
    assert_true(tf_write(folder, &(tiny_folder){.odd = 3}));
    model_file *file = open_folder();
    assert_int_equal((uintptr_t)model_file_weights(file)->tensors.at[0].data % 4, 3);
    esp_error err = {0};
    if (pack(file, &err)) fail_msg("%s", err.message);
    model_file_close(file);
}

/* Older GPTQ writers put one beside every matrix. */
static void a_bias_of_zeros_is_no_surplus(void **state) {
    (void)state;
    const tiny_folder bias = {.more = "model.layers.0.self_attn.q_proj.bias", .zeros = true};
    assert_true(tf_write(folder, &bias));
    model_file_close(open_folder());
    const tiny_folder other = {.more = "model.layers.0.self_attn.q_proj.zeros", .zeros = true};
    model_file *file;
    esp_error err = {0};
    assert_true(tf_write(folder, &other));
    assert_int_equal(model_file_open(&file, folder, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "q_proj.zeros has no place"));
}

static void what_does_not_fit_the_config_is_refused_by_tensor(void **state) {
    (void)state;
    static const struct {
        tiny_folder o;
        const char *sentence;
    } all[] = {
        {{.without = "model.layers.1.mlp.up_proj.weight"},
         "tensor layers.1.mlp.up_proj.weight is missing"},
        {{.without = "lm_head.weight"}, "tensor lm_head.weight is missing"},
        {{.more = "model.layers.2.input_layernorm.weight"},
         "model.safetensors: tensor layers.2.input_layernorm.weight has no place in a llama model"},
        {{.more = "model.layers.0.self_attn.q_proj.bias"},
         "tensor layers.0.self_attn.q_proj.bias has no place"},
        {{.of_type = "model.layers.0.mlp.up_proj.weight", .type = "I32"},
         "tensor layers.0.mlp.up_proj.weight has type I32; wanted weights"},
        {{.of_type = "model.norm.weight", .type = "I32"},
         "tensor norm.weight has type I32; wanted F32, F16 or BF16"},
        {{.wider = "model.layers.0.mlp.up_proj.weight"},
         "tensor layers.0.mlp.up_proj.weight has the shape"},
        {{.packed = true}, "tensor lm_head.weight is no copy of the embedding"},
        {{.packed = true, .without = "lm_head.weight", .more = "lm_head.bias"},
         "tensor lm_head.bias has no place"},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        model_file *file;
        esp_error err = {0};
        assert_true(tf_write(folder, &all[i].o));
        assert_int_equal(model_file_open(&file, folder, &err), ESP_INVALID);
        assert_null(file);
        if (!strstr(err.message, all[i].sentence))
            fail_msg("%s\n  wanted: %s", err.message, all[i].sentence);
    }
}

/* The last row of a matrix, the first layer's and the last's; a vector. */
static void weights_that_are_no_numbers_are_refused_when_packed(void **state) {
    (void)state;
    static const struct {
        tiny_folder o;
        const char *sentence;
    } all[] = {
        {{.bad = "lm_head.weight", .value = NAN}, "row 47 of tensor lm_head.weight holds a weight"},
        {{.bad = "model.layers.0.self_attn.k_proj.weight", .value = INFINITY},
         "row 31 of tensor layers.0.self_attn.k_proj.weight holds a weight that is NaN or "
         "infinite"},
        {{.bad = "model.layers.1.mlp.down_proj.weight", .value = -INFINITY},
         "model.safetensors: row 63 of tensor layers.1.mlp.down_proj.weight"},
        {{.bad = "model.norm.weight", .value = NAN}, "tensor norm.weight"},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        esp_error err = {0};
        assert_true(tf_write(folder, &all[i].o));
        model_file *file = open_folder();
        assert_int_equal(pack(file, &err), ESP_INVALID);
        if (!strstr(err.message, all[i].sentence))
            fail_msg("%s\n  wanted: %s", err.message, all[i].sentence);
        model_file_close(file);
    }
}

static void a_weight_file_is_answered_with_its_folder(void **state) {
    (void)state;
    char path[128];
    model_file *file;
    esp_error err = {0};
    assert_true(tf_write(folder, NULL));
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    assert_int_equal(model_file_open(&file, path, &err), ESP_INVALID);
    assert_string_equal(err.message, "model.safetensors: is one file of a model; give the folder "
                                     "that it lies in, with its config.json and tokenizer");
}

static void a_folder_without_config_is_refused(void **state) {
    (void)state;
    char path[128];
    model_file *file;
    esp_error err = {0};
    assert_true(tf_write(folder, NULL));
    snprintf(path, sizeof path, "%s/config.json", folder);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(model_file_open(&file, folder, &err), ESP_NOT_FOUND);
    assert_non_null(strstr(err.message, strrchr(folder, '/') + 1));
    assert_non_null(strstr(err.message, ": the folder holds no config.json"));
}

/* The operator sees the whole path, so that a wrong folder in it shows, and no control character. */
static void a_path_to_nothing_is_shown_whole(void **state) {
    (void)state;
    model_file *file;
    esp_error err = {0};
    assert_int_equal(model_file_open(&file, "/none/of\nthese/m.gguf", &err), ESP_NOT_FOUND);
    assert_string_equal(err.message, "/none/of?these/m.gguf: no such file or folder; wanted a GGUF "
                                     "file or a Hugging Face folder");
    assert_int_equal(model_file_open(&file, "/none/m.safetensors", &err), ESP_NOT_FOUND);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_folder_is_a_model),
        cmocka_unit_test(weights_at_any_byte_are_packed),
        cmocka_unit_test(a_bias_of_zeros_is_no_surplus),
        cmocka_unit_test(what_does_not_fit_the_config_is_refused_by_tensor),
        cmocka_unit_test(weights_that_are_no_numbers_are_refused_when_packed),
        cmocka_unit_test(a_weight_file_is_answered_with_its_folder),
        cmocka_unit_test(a_folder_without_config_is_refused),
        cmocka_unit_test(a_path_to_nothing_is_shown_whole),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
