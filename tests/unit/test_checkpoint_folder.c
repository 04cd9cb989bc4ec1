/* test_checkpoint_folder.c - the tensors of a Hugging Face folder by role: what is passed over, and
 * what is refused. The folder is that of tests/vectors/families/qwen3, whose embeddings are tied and
 * written twice; its safetensors file is changed in memory and written elsewhere. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/model/checkpoint_folder.h"

/* A copy of a file that may be changed; free() it. */
static char *read_vector(const char *name, size_t *count) {
    char path[1024];
    file_view view;
    esp_error err = {0};
    snprintf(path, sizeof path, "%s/tests/vectors/families/qwen3/%s", TEST_SOURCE_DIR, name);
    if (file_map(&view, path, "a vector", &err)) fail_msg("%s", err.message);
    char *bytes = mem_copy_text((const char *)view.bytes, view.count);
    *count = view.count;
    file_unmap(&view);
    return bytes;
}

static void write_file(const char *folder, const char *name, const char *bytes, size_t count) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
}

static void remove_file(const char *folder, const char *name) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_int_equal(unlink(path), 0);
}

/* Opens a folder of these weights and the vector's config. */
static esp_code open_weights(const char *bytes, size_t count, esp_error *err) {
    char path[] = "/tmp/espalier-checkpoint-XXXXXX", *text;
    size_t text_bytes;
    model_folder *folder;
    hf_config *config;
    static checkpoint weights;
    weights = (checkpoint){0};
    assert_non_null(mkdtemp(path));
    text = read_vector("config.json", &text_bytes);
    write_file(path, "config.json", text, text_bytes);
    write_file(path, "model.safetensors", bytes, count);
    assert_int_equal(model_folder_open(&folder, path, err), ESP_OK);
    assert_int_equal(hf_config_open(&config, path, err), ESP_OK);
    esp_code code = checkpoint_read_folder(&weights, folder, config, err);
    tensor_set_free(&weights.tensors);
    hf_config_close(config);
    model_folder_close(folder);
    remove_file(path, "config.json");
    remove_file(path, "model.safetensors");
    assert_int_equal(rmdir(path), 0);
    free(text);
    return code;
}

/* The first byte of a tensor's data. */
static char *data_of(char *bytes, const char *name) {
    uint64_t header;
    memcpy(&header, bytes, sizeof header);
    json_t *root = json_loadb(bytes + 8, header, 0, NULL);
    json_t *offsets = json_object_get(json_object_get(root, name), "data_offsets");
    assert_non_null(offsets);
    char *at = bytes + 8 + header + json_integer_value(json_array_get(offsets, 0));
    json_decref(root);
    return at;
}

static void rename_tensor(char *bytes, const char *from, const char *to) {
    assert_int_equal(strlen(from), strlen(to));
    uint64_t header;
    memcpy(&header, bytes, sizeof header);
    char *at = memmem(bytes + 8, header, from, strlen(from));
    assert_non_null(at);
    memcpy(at, to, strlen(to));
}

static void tied_embeddings_may_be_written_twice(void **state) {
    (void)state;
    size_t count;
    esp_error err = {0};
    char *bytes = read_vector("model.safetensors", &count);
    if (open_weights(bytes, count, &err)) fail_msg("%s", err.message);
    free(bytes);
}

static void tied_embeddings_that_differ_are_refused(void **state) {
    (void)state;
    size_t count;
    esp_error err = {0};
    char *bytes = read_vector("model.safetensors", &count);
    data_of(bytes, "lm_head.weight")[5] ^= 1;
    assert_int_equal(open_weights(bytes, count, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "lm_head.weight"));
    assert_non_null(strstr(err.message, "tie_word_embeddings"));
    free(bytes);
}

static void a_tensor_without_a_place_is_refused(void **state) {
    (void)state;
    size_t count;
    esp_error err = {0};
    char *bytes = read_vector("model.safetensors", &count);
    rename_tensor(bytes, "lm_head.weight", "xx_head.weight");
    assert_int_equal(open_weights(bytes, count, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "xx_head.weight"));
    free(bytes);
}

static void a_missing_tensor_is_named(void **state) {
    (void)state;
    size_t count;
    esp_error err = {0};
    char *bytes = read_vector("model.safetensors", &count);
    rename_tensor(bytes, "model.layers.1.self_attn.k_norm.weight",
                  "model.layers.2.self_attn.k_norm.weight");
    assert_int_equal(open_weights(bytes, count, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "layers.1.self_attn.k_norm.weight"));
    free(bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tied_embeddings_may_be_written_twice),
        cmocka_unit_test(tied_embeddings_that_differ_are_refused),
        cmocka_unit_test(a_tensor_without_a_place_is_refused),
        cmocka_unit_test(a_missing_tensor_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
