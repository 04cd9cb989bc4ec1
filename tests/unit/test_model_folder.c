/* test_model_folder.c - Hugging Face folders: which files make the model, shards held against their
 * index, links and paths that lead out. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/model/format/model_folder.h"
#include "tests/unit/safetensors_builder.h"

static char base[] = "/tmp/test_model_folder_XXXXXX";
static char folder[128]; /* base/model, fresh for each test */

#define TENSOR(name) "{\"" name "\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}"
#define TWO_FILES(a, b) "{\"metadata\":{},\"weight_map\":{\"a\":\"" a "\",\"b\":\"" b "\"}}"

static const char *in(const char *where, const char *name) {
    static char path[768];
    snprintf(path, sizeof path, "%s/%s", where, name);
    return path;
}

static void write_bytes(const char *path, const char *bytes, size_t count) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
}

static void write_text(const char *name, const char *text) {
    write_bytes(in(folder, name), text, strlen(text));
}

static void write_weights(const char *path, const char *header) {
    size_t bytes;
    char *file = st_build(header, 8, &bytes);
    write_bytes(path, file, bytes);
    free(file);
}

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "%s/model", base);
    return mkdir(folder, 0700);
}

static int remove_folder(void **state) {
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -r %s/*", base);
    return system(command);
}

static int make_base(void **state) {
    (void)state;
    return mkdtemp(base) ? 0 : -1;
}

static int remove_base(void **state) {
    (void)state;
    return rmdir(base);
}

static model_folder *open_folder(const char *path) {
    model_folder *opened;
    esp_error err = {0};
    if (model_folder_open(&opened, path, &err)) fail_msg("%s", err.message);
    return opened;
}

static void refused(esp_code wanted, const char *sentence) {
    model_folder *opened;
    esp_error err = {0};
    assert_int_equal(model_folder_open(&opened, folder, &err), wanted);
    assert_null(opened);
    assert_string_equal(err.message, sentence);
}

static void one_file_is_the_model(void **state) {
    (void)state;
    write_weights(in(folder, "model.safetensors"), TENSOR("a"));
    write_text("config.json", "{}");
    write_text("README.md", "not looked at");
    model_folder *opened =
        open_folder(in(folder, "/")); /* a closing slash is no part of the name */
    assert_string_equal(model_folder_name(opened), "model");
    assert_string_equal(model_folder_path(opened), folder);
    assert_int_equal(model_folder_shard_count(opened), 1);
    assert_int_equal(model_folder_bytes(opened), 8 + strlen(TENSOR("a")) + 8 + 2);
    tensor_set all = {0};
    assert_int_equal(model_folder_tensors(opened, &all, NULL), ESP_OK);
    assert_int_equal(all.count, 1);
    assert_non_null(tensor_set_find(&all, "a"));
    tensor_set_free(&all);
    model_folder_close(opened);
}

static void write_two_shards(void) {
    write_weights(in(folder, "m-1.safetensors"), TENSOR("a"));
    write_weights(in(folder, "m-2.safetensors"), TENSOR("b"));
    write_text("model.safetensors.index.json", TWO_FILES("m-1.safetensors", "m-2.safetensors"));
}

static void shards_make_one_set_of_tensors(void **state) {
    (void)state;
    write_two_shards();
    model_folder *opened = open_folder(folder);
    tensor_set all = {0};
    assert_int_equal(model_folder_shard_count(opened), 2);
    assert_int_equal(model_folder_tensors(opened, &all, NULL), ESP_OK);
    assert_int_equal(all.count, 2);
    assert_string_equal(tensor_set_find(&all, "b")->file, "m-2.safetensors");
    tensor_set_free(&all);
    model_folder_close(opened);
}

static void what_a_shard_and_the_index_disagree_on_is_named(void **state) {
    (void)state;
    write_two_shards();
    write_text("model.safetensors.index.json",
               "{\"weight_map\":{\"b\":\"m-2.safetensors\",\"c\":\"m-2.safetensors\"}}");
    refused(ESP_INVALID, "m-2.safetensors: the tensor c is missing, which "
                         "model.safetensors.index.json says is there; download the file again");
    write_text("model.safetensors.index.json",
               "{\"weight_map\":{\"b\":\"m-1.safetensors\",\"c\":\"m-2.safetensors\"}}");
    refused(ESP_INVALID, "m-1.safetensors: holds the tensor a, which model.safetensors.index.json "
                         "says is in no file");
    write_text("model.safetensors.index.json", TWO_FILES("m-2.safetensors", "m-1.safetensors"));
    refused(ESP_INVALID, "m-1.safetensors: holds the tensor a, which model.safetensors.index.json "
                         "says is in m-2.safetensors");
    write_text("model.safetensors.index.json", TWO_FILES("m-1.safetensors", "m-3.safetensors"));
    refused(ESP_NOT_FOUND, "m-3.safetensors: cannot open: No such file or directory");
}

static void paths_in_the_index_are_refused(void **state) {
    (void)state;
    static const char *const names[] = {
        "../m.safetensors",  "/etc/passwd", "sub/m.safetensors", "..", ".", "", ".hidden",
        "m\\\\.safetensors", "a\\nb"};
    write_two_shards();
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char text[200];
        model_folder *opened;
        esp_error err = {0};
        snprintf(text, sizeof text, "{\"weight_map\":{\"a\":\"m-1.safetensors\",\"b\":\"%s\"}}",
                 names[i]);
        write_text("model.safetensors.index.json", text);
        assert_int_equal(model_folder_open(&opened, folder, &err), ESP_INVALID);
        assert_non_null(strstr(err.message, "model.safetensors.index.json: weight_map of b is \""));
        assert_non_null(strstr(err.message, "without a path"));
    }
}

static void an_index_that_is_none_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *text, *sentence;
    } all[] = {{"{}", "weight_map is missing"},
               {"{\"weight_map\":[]}", "weight_map is no object"},
               {"{\"weight_map\":{}}", "weight_map is empty"},
               {"{\"weight_map\":{\"a\":1}}", "weight_map of a is no text"},
               {"{\"weight_map\":{\"a\":\"b\",\"a\":\"b\"}}", "duplicate object key"},
               {"[]", "is a JSON array"},
               {"{", "is not valid JSON"}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        model_folder *opened;
        esp_error err = {0};
        write_text("model.safetensors.index.json", all[i].text);
        assert_int_equal(model_folder_open(&opened, folder, &err), ESP_INVALID);
        if (!strstr(err.message, all[i].sentence)) fail_msg("%s: %s", all[i].text, err.message);
    }
}

/* A shard, the index and a tokenizer that are links to files beside the folder. */
static void links_that_lead_out_of_the_folder_are_refused(void **state) {
    (void)state;
    write_two_shards();
    write_weights(in(base, "outside"), TENSOR("b"));
    assert_int_equal(unlink(in(folder, "m-2.safetensors")), 0);
    assert_int_equal(symlink("../outside", in(folder, "m-2.safetensors")), 0);
    refused(ESP_INVALID, "m-2.safetensors: is a link that leads out of the folder model; copy the "
                         "file itself into the folder");
    assert_int_equal(symlink("/etc/hostname", in(folder, "tokenizer.json")), 0);
    refused(ESP_INVALID, "tokenizer.json: is a link that leads out of the folder model; copy the "
                         "file itself into the folder");
    unlink(in(folder, "tokenizer.json"));
    assert_int_equal(mkdir(in(folder, "additional_chat_templates"), 0700), 0);
    assert_int_equal(
        symlink("/etc/hostname", in(folder, "additional_chat_templates/tool_use.jinja")), 0);
    refused(ESP_INVALID, "additional_chat_templates/tool_use.jinja: is a link that leads out of "
                         "the folder model; copy the "
                         "file itself into the folder");
    unlink(in(folder, "additional_chat_templates/tool_use.jinja"));
    /* a folder whose name only begins like this one's */
    assert_int_equal(mkdir(in(base, "model2"), 0700), 0);
    write_weights(in(base, "model2/m"), TENSOR("b"));
    unlink(in(folder, "m-2.safetensors"));
    assert_int_equal(symlink("../model2/m", in(folder, "m-2.safetensors")), 0);
    refused(ESP_INVALID, "m-2.safetensors: is a link that leads out of the folder model; copy the "
                         "file itself into the folder");
    unlink(in(folder, "m-2.safetensors"));
    assert_int_equal(symlink("gone", in(folder, "m-2.safetensors")), 0);
    refused(ESP_NOT_FOUND, "m-2.safetensors: cannot open: No such file or directory");
}

static void links_within_the_folder_are_followed(void **state) {
    (void)state;
    write_two_shards();
    char target[768];
    snprintf(target, sizeof target, "%s", in(folder, "real"));
    assert_int_equal(rename(in(folder, "m-2.safetensors"), target), 0);
    assert_int_equal(symlink("real", in(folder, "m-2.safetensors")), 0);
    model_folder_close(open_folder(folder));
}

/* models--x/snapshots/<revision>/ with links into models--x/blobs: errors still say the file's
 * name. */
static void a_snapshot_of_the_download_cache_is_opened(void **state) {
    (void)state;
    char snapshot[256];
    static const char *const parts[] = {"models--x", "models--x/blobs", "models--x/snapshots",
                                        "models--x/snapshots/0123abcd"};
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(mkdir(in(base, parts[i]), 0700), 0);
    snprintf(snapshot, sizeof snapshot, "%s/%s", base, parts[3]);
    write_weights(in(base, "models--x/blobs/cafe"), TENSOR("a"));
    assert_int_equal(symlink("../../blobs/cafe", in(snapshot, "model.safetensors")), 0);
    model_folder *opened = open_folder(snapshot);
    assert_string_equal(safetensors_name(model_folder_shard(opened, 0)), "model.safetensors");
    model_folder_close(opened);
    write_weights(in(base, "models--x/other"), TENSOR("a"));
    unlink(in(snapshot, "model.safetensors"));
    assert_int_equal(symlink("../../other", in(snapshot, "model.safetensors")), 0);
    esp_error err = {0};
    assert_int_equal(model_folder_open(&opened, snapshot, &err), ESP_INVALID);
}

static void a_folder_without_readable_weights_says_what_it_holds(void **state) {
    (void)state;
    refused(ESP_INVALID, "model: the folder holds neither model.safetensors nor "
                         "model.safetensors.index.json; give a Hugging Face folder, or a GGUF file "
                         "itself");
    write_text("adapter_config.json", "{}");
    refused(ESP_INVALID, "model: the folder holds adapter_config.json and no model.safetensors; "
                         "that is an adapter: give the model it was trained for");
    write_text("pytorch_model.bin", "x");
    refused(ESP_INVALID, "model: the folder holds pytorch_model.bin and no model.safetensors; "
                         "convert it: transformers' save_pretrained writes model.safetensors");
}

static void what_is_no_folder_is_named(void **state) {
    (void)state;
    model_folder *opened;
    esp_error err = {0};
    write_text("file", "x");
    assert_int_equal(model_folder_open(&opened, in(folder, "file"), &err), ESP_INVALID);
    assert_string_equal(err.message, "file: is a file; wanted a folder");
    assert_int_equal(model_folder_open(&opened, in(folder, "none"), &err), ESP_NOT_FOUND);
    assert_string_equal(err.message, "none: cannot open: No such file or directory");
    assert_true(model_folder_is(folder));
    assert_false(model_folder_is(in(folder, "file")));
    assert_false(model_folder_is(in(folder, "none")));
}

static void digest(char out[MODEL_DIGEST_CHARS]) {
    model_folder *opened = open_folder(folder);
    model_folder_digest(opened, out);
    model_folder_close(opened);
}

/* It depends on weights, index and configuration, on their names, and on nothing else. */
static void digest_is_of_the_files_that_make_the_model(void **state) {
    (void)state;
    char first[MODEL_DIGEST_CHARS], second[MODEL_DIGEST_CHARS];
    write_two_shards();
    write_text("config.json", "{}");
    digest(first);
    assert_int_equal(strlen(first), strlen("xxh3-128:") + 32);
    write_text("README.md", "x");
    digest(second);
    assert_string_equal(first, second);
    write_text("config.json", "{ }");
    digest(second);
    assert_string_not_equal(first, second);
    write_text("config.json", "{}");
    digest(second);
    assert_string_equal(first, second);
    unlink(in(folder, "config.json"));
    write_text("tokenizer.json", "{}");
    digest(second);
    assert_string_not_equal(first, second);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(one_file_is_the_model),
        TEST(shards_make_one_set_of_tensors),
        TEST(what_a_shard_and_the_index_disagree_on_is_named),
        TEST(paths_in_the_index_are_refused),
        TEST(an_index_that_is_none_is_refused),
        TEST(links_that_lead_out_of_the_folder_are_refused),
        TEST(links_within_the_folder_are_followed),
        TEST(a_snapshot_of_the_download_cache_is_opened),
        TEST(a_folder_without_readable_weights_says_what_it_holds),
        TEST(what_is_no_folder_is_named),
        TEST(digest_is_of_the_files_that_make_the_model),
    };
    return cmocka_run_group_tests(tests, make_base, remove_base);
}
