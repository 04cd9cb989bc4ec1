/* test_synthetic.c - random checkpoints: they open as models, equal seeds give equal bytes, and a folder that
 * cannot be made whole is not made at all. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/base/file.h"
#include "engine/base/quant.h"
#include "engine/model/checkpoint.h"
#include "engine/model/model.h"
#include "engine/model/synthetic/synthetic.h"

typedef struct room {
    char path[64], out[96];
} room;

static room room_new(void) {
    room r = {.path = "/tmp/test_synthetic_XXXXXX"};
    assert_non_null(mkdtemp(r.path));
    snprintf(r.out, sizeof r.out, "%s/model", r.path);
    return r;
}

static void room_free(const room *r) {
    char command[512];
    snprintf(command, sizeof command, "rm -r '%s'", r->path);
    assert_int_equal(system(command), 0);
}

static esp_code write_to(const char *out, const synthetic_shape *shape, uint64_t seed,
                         uint64_t shard_bytes, esp_error *err) {
    synthetic_options o = {.shape = shape, .out = out, .seed = seed, .shard_bytes = shard_bytes};
    return synthetic_write(&o, err);
}

static file_view read_file(const char *folder, const char *name) {
    char path[160];
    file_view view;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_int_equal(file_map(&view, path, "a file", NULL), ESP_OK);
    return view;
}

/* Every family of the list, with its shape made small. */
static void each_family_opens_as_the_model_it_says(void **state) {
    (void)state;
    for (uint32_t i = 0; synthetic_at(i); i++) {
        room r = room_new();
        synthetic_shape shape = *synthetic_at(i);
        shape.layers = 3, shape.hidden = 64, shape.heads = 4, shape.kv_heads = 2;
        shape.head_dim = 16, shape.intermediate = 96, shape.vocab = 320;
        esp_error err = {0};
        model_file *file = NULL;
        assert_int_equal(write_to(r.out, &shape, 7, SYNTHETIC_SHARD_BYTES, &err), ESP_OK);
        assert_int_equal(model_file_open(&file, r.out, &err), ESP_OK);
        const model_spec *spec = &model_file_weights(file)->spec;
        assert_string_equal(spec->family, shape.family->model_type);
        assert_int_equal(spec->layers, 3);
        assert_int_equal(spec->kv_heads, 2);
        assert_int_equal(spec->vocab, 320);
        assert_int_equal(spec->context, shape.context);
        assert_int_equal(spec->tied_embeddings, shape.tied);
        assert_int_equal(spec->window, strncmp(shape.name, "gemma-2", 7) ? 0 : 4096);
        model_file_close(file);
        room_free(&r);
    }
}

/* The parameters that the models' cards state, without their embeddings' rounding. */
static void sizes_are_those_of_the_published_models(void **state) {
    (void)state;
    static const struct {
        const char *name;
        uint64_t parameters;
    } known[] = {{"llama-3.2-1b", 1235814400},
                 {"llama-3.1-8b", 8030261248},
                 {"gemma-2-9b", 9241705984},
                 {"qwen2.5-7b", 7615616512}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const synthetic_shape *shape = NULL;
        assert_int_equal(synthetic_find(known[i].name, &shape, NULL), ESP_OK);
        assert_int_equal(synthetic_parameters(shape), known[i].parameters);
    }
}

static void equal_seeds_give_equal_files_and_others_do_not(void **state) {
    (void)state;
    room r[3] = {room_new(), room_new(), room_new()};
    const synthetic_shape *tiny = NULL;
    file_view view[3];
    assert_int_equal(synthetic_find("tiny", &tiny, NULL), ESP_OK);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(write_to(r[i].out, tiny, i < 2 ? 1 : 2, SYNTHETIC_SHARD_BYTES, NULL),
                         ESP_OK);
        view[i] = read_file(r[i].out, "model.safetensors");
    }
    assert_int_equal(view[0].count, view[1].count);
    assert_memory_equal(view[0].bytes, view[1].bytes, view[0].count);
    assert_int_equal(view[0].count, view[2].count);
    assert_memory_not_equal(view[0].bytes, view[2].bytes, view[0].count);
    for (int i = 0; i < 3; i++) {
        file_unmap(&view[i]);
        room_free(&r[i]);
    }
}

/* The largest tensor has 64 KB, so 100 KB a file make three; each tensor is found through the index. */
static void shards_hold_what_one_file_would(void **state) {
    (void)state;
    room one = room_new(), many = room_new();
    const synthetic_shape *tiny = NULL;
    struct stat status;
    char path[160];
    assert_int_equal(synthetic_find("tiny", &tiny, NULL), ESP_OK);
    assert_int_equal(write_to(one.out, tiny, 1, SYNTHETIC_SHARD_BYTES, NULL), ESP_OK);
    assert_int_equal(write_to(many.out, tiny, 1, 100000, NULL), ESP_OK);
    snprintf(path, sizeof path, "%s/model-00003-of-00003.safetensors", many.out);
    assert_int_equal(stat(path, &status), 0);
    model_file *a = NULL, *b = NULL;
    assert_int_equal(model_file_open(&a, one.out, NULL), ESP_OK);
    assert_int_equal(model_file_open(&b, many.out, NULL), ESP_OK);
    checkpoint_matrix left, right;
    assert_int_equal(checkpoint_find_matrix(model_file_weights(a), TENSOR_DOWN, 1, &left, NULL),
                     ESP_OK);
    assert_int_equal(checkpoint_find_matrix(model_file_weights(b), TENSOR_DOWN, 1, &right, NULL),
                     ESP_OK);
    assert_int_equal(left.rows, 64);
    assert_int_equal(left.cols, 160);
    assert_memory_equal(left.tensor->data, right.tensor->data, 64 * 160 * 2);
    model_file_close(a);
    model_file_close(b);
    room_free(&one);
    room_free(&many);
}

/* A matrix of K columns has values of deviation 1/sqrt(K) about 0. */
static void values_keep_the_size_of_what_they_multiply(void **state) {
    (void)state;
    room r = room_new();
    const synthetic_shape *tiny = NULL;
    model_file *file = NULL;
    checkpoint_matrix m;
    assert_int_equal(synthetic_find("tiny", &tiny, NULL), ESP_OK);
    assert_int_equal(write_to(r.out, tiny, 3, SYNTHETIC_SHARD_BYTES, NULL), ESP_OK);
    assert_int_equal(model_file_open(&file, r.out, NULL), ESP_OK);
    assert_int_equal(checkpoint_find_matrix(model_file_weights(file), TENSOR_GATE, 0, &m, NULL),
                     ESP_OK);
    double sum = 0, squares = 0;
    const uint16_t *values = m.tensor->data;
    for (int i = 0; i < 160 * 64; i++) {
        double x = (double)f32_of_bf16(values[i]);
        sum += x, squares += x * x;
    }
    assert_true(sum / (160 * 64) < 0.01 && sum / (160 * 64) > -0.01);
    assert_true(squares / (160 * 64) * 64 > 0.9 && squares / (160 * 64) * 64 < 1.1);
    model_file_close(file);
    room_free(&r);
}

static void what_lies_there_is_not_touched(void **state) {
    (void)state;
    room r = room_new();
    const synthetic_shape *tiny = NULL;
    esp_error err = {0};
    assert_int_equal(synthetic_find("tiny", &tiny, NULL), ESP_OK);
    assert_int_equal(mkdir(r.out, 0755), 0);
    assert_int_equal(write_to(r.out, tiny, 1, SYNTHETIC_SHARD_BYTES, &err), ESP_EXISTS);
    assert_string_equal(err.field, "--out");
    assert_int_equal(rmdir(r.out), 0); /* still empty */
    room_free(&r);
}

/* 500 layers of the widest model there may be: no disk has 10^16 bytes. */
static void a_disk_without_room_is_told_before_anything_is_written(void **state) {
    (void)state;
    room r = room_new();
    synthetic_shape shape = *synthetic_at(0);
    shape.layers = 500, shape.hidden = 65536, shape.intermediate = 1048576;
    esp_error err = {0};
    assert_int_equal(write_to(r.out, &shape, 1, SYNTHETIC_SHARD_BYTES, &err), ESP_EXHAUSTED);
    assert_non_null(strstr(err.message, "GB left"));
    assert_int_equal(rmdir(r.path), 0); /* nothing lies in it */
}

static void an_unknown_shape_is_answered_with_the_known_ones(void **state) {
    (void)state;
    const synthetic_shape *shape = NULL;
    esp_error err = {0};
    assert_int_equal(synthetic_find("llama-9", &shape, &err), ESP_OUT_OF_RANGE);
    for (uint32_t i = 0; synthetic_at(i); i++)
        assert_non_null(strstr(err.message, synthetic_at(i)->name));
}

/* A bench that computes as a model of the shape would has it from here: Gemma 2 is no Llama. */
static void a_shape_says_what_a_model_of_it_is(void **state) {
    (void)state;
    const synthetic_shape *shape;
    model_spec gemma, llama;
    assert_int_equal(synthetic_find("gemma-2-9b", &shape, NULL), ESP_OK);
    assert_int_equal(synthetic_spec(shape, &gemma, NULL), ESP_OK);
    assert_int_equal(gemma.activation, ACTIVATION_GELU_TANH);
    assert_true(gemma.attention_softcap == 50 && gemma.logit_softcap == 30);
    assert_true(gemma.window == 4096 && gemma.slides[0] && !gemma.slides[1] && gemma.slides[40]);
    assert_true(gemma.attention_scale == 1 / 16.0f && gemma.embedding_scale > 59);
    assert_int_equal(synthetic_find("llama-3.1-8b", &shape, NULL), ESP_OK);
    assert_int_equal(synthetic_spec(shape, &llama, NULL), ESP_OK);
    assert_int_equal(llama.layers, 32);
    assert_int_equal(llama.activation, ACTIVATION_SILU);
    assert_true(llama.attention_softcap == 0 && llama.window == 0 && llama.embedding_scale == 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_shape_says_what_a_model_of_it_is),
        cmocka_unit_test(each_family_opens_as_the_model_it_says),
        cmocka_unit_test(sizes_are_those_of_the_published_models),
        cmocka_unit_test(equal_seeds_give_equal_files_and_others_do_not),
        cmocka_unit_test(shards_hold_what_one_file_would),
        cmocka_unit_test(values_keep_the_size_of_what_they_multiply),
        cmocka_unit_test(what_lies_there_is_not_touched),
        cmocka_unit_test(a_disk_without_room_is_told_before_anything_is_written),
        cmocka_unit_test(an_unknown_shape_is_answered_with_the_known_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
