/* test_gguf_parts.c - a model split over several GGUF files: opened by its first part, each rule
 * broken once. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/model/model.h"
#include "tests/unit/gguf_builder.h"

static char folder[] = "/tmp/test_gguf_parts_XXXXXX";

/* What a part says of itself; the name of the file follows from what it ought to say. */
typedef struct part {
    uint32_t number, count, tensors;
    const char *tensor; /* its only one, NULL: none */
} part;

static const char *in_folder(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void save(gguf_builder *b, const char *name) {
    size_t bytes;
    char *file = gb_finish(b, &bytes);
    assert_true(gb_save(in_folder(name), file, bytes));
    free(file);
}

static void write_part(const char *name, part p) {
    gguf_builder b = {0};
    float weights[4] = {1, 2, 3, (float)p.number};
    gb_u32(&b, "split.no", p.number);
    gb_u32(&b, "split.count", p.count);
    if (p.tensors) gb_u32(&b, "split.tensors.count", p.tensors);
    gb_u32(&b, "only.here", p.number);
    if (p.tensor) gb_tensor(&b, p.tensor, 1, (uint64_t[]){4}, DT_F32, weights);
    save(&b, name);
}

/* The first part holds no tensor, as a writer may choose. */
static void write_three(void) {
    write_part("m-00001-of-00003.gguf", (part){0, 3, 2, NULL});
    write_part("m-00002-of-00003.gguf", (part){1, 3, 2, "a"});
    write_part("m-00003-of-00003.gguf", (part){2, 3, 2, "b"});
}

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int empty_folder(void **state) {
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -f %s/*", folder);
    return system(command);
}

static int remove_folder(void **state) {
    (void)state;
    return rmdir(folder);
}

static void refused(const char *name, esp_code wanted, const char *sentence) {
    gguf_file *file;
    esp_error err = {0};
    assert_int_equal(gguf_open(&file, in_folder(name), &err), wanted);
    assert_null(file);
    assert_string_equal(err.message, sentence);
}

static void the_first_part_brings_the_tensors_of_all(void **state) {
    (void)state;
    gguf_file *file;
    esp_error err = {0};
    bool found;
    uint32_t number = 9;
    write_three();
    if (gguf_open(&file, in_folder("m-00001-of-00003.gguf"), &err)) fail_msg("%s", err.message);
    assert_int_equal(gguf_part_count(file), 3);
    assert_int_equal(gguf_tensor_count(file), 2);
    const model_tensor *b = gguf_find(file, "b");
    assert_non_null(b);
    assert_float_equal(((const float *)b->data)[3], 2, 0);
    assert_string_equal(b->file, "m-00003-of-00003.gguf");
    assert_string_equal(gguf_name(gguf_part(file, 1)), "m-00002-of-00003.gguf");
    assert_int_equal(gguf_get_u32(file, "only.here", &found, &number, &err), ESP_OK);
    assert_int_equal(number, 0);
    gguf_close(file);
}

static void another_part_than_the_first_says_which_to_give(void **state) {
    (void)state;
    write_three();
    refused("m-00002-of-00003.gguf", ESP_INVALID,
            "m-00002-of-00003.gguf: is part 2 of a model; give part 1, whose name ends in "
            "-00001-of-00003.gguf");
}

static void a_missing_part_is_named(void **state) {
    (void)state;
    write_three();
    unlink(in_folder("m-00003-of-00003.gguf"));
    refused("m-00001-of-00003.gguf", ESP_NOT_FOUND,
            "m-00003-of-00003.gguf: cannot open: No such file or directory");
}

static void a_part_called_otherwise_is_refused(void **state) {
    (void)state;
    write_part("model.gguf", (part){0, 3, 2, NULL});
    refused("model.gguf", ESP_INVALID,
            "model.gguf: is part 1 of 3 of a model, so its name must end in -00001-of-00003.gguf; "
            "give the parts the names that they were written with");
    write_part("-00001-of-00004.gguf", (part){0, 3, 2, NULL});
    refused("-00001-of-00004.gguf", ESP_INVALID,
            "-00001-of-00004.gguf: is part 1 of 3 of a model, so its name must end in "
            "-00001-of-00003.gguf; give the parts the names that they were written with");
}

static void a_part_of_another_model_is_refused(void **state) {
    (void)state;
    static const part strangers[] = {
        {0, 3, 2, "a"}, {1, 2, 2, "a"}, {1, 3, 3, "a"}, {1, 1, 2, "a"}};
    static const char *const seen[] = {"0, 3, 2", "1, 2, 2", "1, 3, 3", "0, 1, 0"};
    for (size_t i = 0; i < 4; i++) {
        char sentence[256];
        write_three();
        write_part("m-00002-of-00003.gguf", strangers[i]);
        snprintf(sentence, sizeof sentence,
                 "m-00002-of-00003.gguf: split.no, .count and .tensors.count are %s; wanted 1, 3, "
                 "2, as the first part says: it is of another model",
                 seen[i]);
        refused("m-00001-of-00003.gguf", ESP_INVALID, sentence);
    }
}

static void parts_that_hold_other_tensors_than_announced_are_refused(void **state) {
    (void)state;
    write_three();
    write_part("m-00003-of-00003.gguf", (part){2, 3, 2, NULL});
    refused("m-00001-of-00003.gguf", ESP_INVALID,
            "m-00001-of-00003.gguf: split.tensors.count is 2, but the parts hold 1 tensors: "
            "download them again");
    write_part("m-00003-of-00003.gguf", (part){2, 3, 2, "a"});
    refused("m-00001-of-00003.gguf", ESP_INVALID,
            "m-00001-of-00003.gguf: the tensor a stands there twice");
}

static void numbers_out_of_range_are_refused(void **state) {
    (void)state;
    static const part wrong[] = {
        {3, 3, 2, NULL}, {UINT32_MAX, 2, 2, NULL}, {0, 1025, 2, NULL}, {0, UINT32_MAX, 2, NULL}};
    for (size_t i = 0; i < 4; i++) {
        gguf_file *file;
        esp_error err = {0};
        write_part("m-00001-of-00003.gguf", wrong[i]);
        assert_int_equal(gguf_open(&file, in_folder("m-00001-of-00003.gguf"), &err), ESP_INVALID);
        assert_non_null(strstr(err.message, "wanted a number below the count, and 1024 parts"));
    }
    write_part("m-00001-of-00003.gguf", (part){0, 3, 0, NULL});
    refused("m-00001-of-00003.gguf", ESP_INVALID,
            "m-00001-of-00003.gguf: split.count is 3, but split.tensors.count is missing");
}

/* A tiny model cut in two by hand: the metadata and half of the tensors, then the rest. */
static void a_split_model_is_one_model(void **state) {
    (void)state;
    gb_tiny whole = {.o = gb_tiny_defaults(&(tiny_llama_options){.layers = 1})}, first = whole;
    gb_tiny_metadata(&first.b, &first.o, NULL);
    gb_tiny_tokenizer(&first.b);
    gb_tiny_tensors(&whole);
    uint32_t tensors = (uint32_t)whole.b.tensor_count;
    for (int i = 0; i < 2; i++) {
        gguf_builder *b = i ? &whole.b : &first.b;
        gb_u32(b, "split.no", (uint32_t)i);
        gb_u32(b, "split.count", 2);
        gb_u32(b, "split.tensors.count", tensors);
    }
    save(&first.b, "t-00001-of-00002.gguf");
    save(&whole.b, "t-00002-of-00002.gguf");
    model_file *file;
    esp_error err = {0};
    if (model_file_open(&file, in_folder("t-00001-of-00002.gguf"), &err))
        fail_msg("%s", err.message);
    assert_int_equal(model_file_weights(file)->tensors.count, tensors);
    char before[64];
    snprintf(before, sizeof before, "%s", model_file_digest(file));
    char *text = model_file_describe(file);
    assert_non_null(strstr(text, "\"files\": 2"));
    free(text);
    model_file_close(file);
    /* the digest is of both */
    FILE *last = fopen(in_folder("t-00002-of-00002.gguf"), "r+b");
    assert_non_null(last);
    assert_int_equal(fseek(last, -1, SEEK_END), 0);
    assert_int_equal(fputc(0x01, last), 0x01);
    assert_int_equal(fclose(last), 0);
    assert_int_equal(model_file_open(&file, in_folder("t-00001-of-00002.gguf"), &err), ESP_OK);
    assert_string_not_equal(model_file_digest(file), before);
    model_file_close(file);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, NULL, empty_folder)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(the_first_part_brings_the_tensors_of_all),
        TEST(another_part_than_the_first_says_which_to_give),
        TEST(a_missing_part_is_named),
        TEST(a_part_called_otherwise_is_refused),
        TEST(a_part_of_another_model_is_refused),
        TEST(parts_that_hold_other_tensors_than_announced_are_refused),
        TEST(numbers_out_of_range_are_refused),
        TEST(a_split_model_is_one_model),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
