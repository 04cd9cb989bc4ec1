/* test_safetensors.c - the safetensors reader: what it gives, and each rule of the format broken
 * once. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/model/format/safetensors.h"
#include "tests/unit/safetensors_builder.h"

#define ENTRY(name, dtype, shape, begin, end)                                                      \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" #begin        \
    "," #end "]}"

static safetensors_file *open_bytes(char *file, size_t bytes, esp_code wanted, esp_error *err) {
    safetensors_file *opened = NULL;
    *err = (esp_error){0};
    esp_code code = safetensors_open_memory(&opened, file, bytes, "a.safetensors", err);
    if (code != wanted) print_error("%s\n", err->message);
    assert_int_equal(code, wanted);
    assert_true((code == ESP_OK) == (opened != NULL));
    return opened;
}

/* Metadata, tensors in an order other than that of their data, a scalar, blanks behind the header.
 * */
static void tensors_come_in_the_order_of_their_data(void **state) {
    (void)state;
    esp_error err;
    size_t bytes;
    char *file =
        st_build("{\"__metadata__\":{\"format\":\"pt\"}," ENTRY("b", "F32", "2,3", 4, 28) "," ENTRY(
                     "a", "BF16", "2", 0, 4) "," ENTRY("s", "I64", "", 28, 36) "}   ",
                 36, &bytes);
    safetensors_file *opened = open_bytes(file, bytes, ESP_OK, &err);
    const tensor_set *all = safetensors_tensors(opened);
    assert_int_equal(all->count, 3);
    assert_string_equal(all->at[0].name.at, "a");
    assert_string_equal(all->at[1].name.at, "b");
    assert_int_equal(all->at[1].dim_count, 2);
    assert_int_equal(all->at[1].dims[0], 3);
    assert_int_equal(all->at[1].dims[1], 2);
    assert_int_equal(all->at[1].dtype, DT_F32);
    assert_int_equal(all->at[1].bytes, 24);
    assert_ptr_equal(all->at[1].data, file + bytes - 32);
    assert_string_equal(all->at[1].file, "a.safetensors");
    assert_int_equal(all->at[2].dim_count, 0);
    assert_int_equal(all->at[2].raw, RAW_I64);
    assert_ptr_equal(tensor_set_find(all, "b"), &all->at[1]);
    assert_string_equal(safetensors_metadata(opened, "format"), "pt");
    assert_null(safetensors_metadata(opened, "other"));
    assert_int_equal(safetensors_bytes(opened), bytes);
    safetensors_close(opened);
    free(file);
}

static void every_type_that_a_checkpoint_may_hold_is_read(void **state) {
    (void)state;
    static const struct {
        const char *name;
        tensor_raw raw;
        uint32_t bytes;
    } types[] = {{"F32", RAW_NONE, 4},        {"F16", RAW_NONE, 2}, {"BF16", RAW_NONE, 2},
                 {"F8_E4M3", RAW_F8_E4M3, 1}, {"I64", RAW_I64, 8},  {"I32", RAW_I32, 4},
                 {"I16", RAW_I16, 2},         {"I8", RAW_I8, 1},    {"U8", RAW_U8, 1},
                 {"BOOL", RAW_BOOL, 1}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        char header[160];
        esp_error err;
        size_t bytes;
        snprintf(header, sizeof header,
                 "{\"a\":{\"dtype\":\"%s\",\"shape\":[5],\"data_offsets\":[0,%u]}}", types[i].name,
                 5 * types[i].bytes);
        char *file = st_build(header, 5 * types[i].bytes, &bytes);
        safetensors_file *opened = open_bytes(file, bytes, ESP_OK, &err);
        const model_tensor *tensor = &safetensors_tensors(opened)->at[0];
        assert_int_equal(tensor->raw, types[i].raw);
        assert_string_equal(tensor_type_name(tensor), types[i].name);
        safetensors_close(opened);
        free(file);
    }
}

static void a_file_without_tensors_is_read(void **state) {
    (void)state;
    esp_error err;
    size_t bytes;
    char *file = st_build("{}", 0, &bytes);
    safetensors_file *opened = open_bytes(file, bytes, ESP_OK, &err);
    assert_int_equal(safetensors_tensors(opened)->count, 0);
    safetensors_close(opened);
    free(file);
}

typedef struct broken {
    const char *header;
    size_t data;
    const char *sentence; /* a part of it */
} broken;

static void each_wrong_header_is_refused_by_name(void **state) {
    (void)state;
    static const broken all[] = {
        {"{", 4, "the header is not valid JSON"},
        {"[]", 4, "does not begin with '{'"},
        {" {}", 4, "does not begin with '{'"},
        {"{}x", 0, "the header is not valid JSON"},
        {"{" ENTRY("a", "F32", "1", 0, 4) "," ENTRY("a", "F32", "1", 4, 8) "}", 8, "duplicate"},
        {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
         "duplicate"},
        {"{\"a\\u0000b\":1}", 4, "\\u0000"},
        {"{\"a\":1}", 4, "tensor a: wanted an object of dtype, shape and data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "wanted an object of dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"offsets\":[0,4]}}", 4,
         "data_offsets is no array"},
        {"{" ENTRY("", "F32", "1", 0, 4) "}", 4, "name has 0 bytes"},
        {"{" ENTRY("a\\nb", "F32", "1", 0, 4) "}", 4, "the tensor name a?b holds"},
        {"{" ENTRY("a", "F64", "1", 0, 8) "}", 8, "dtype is F64; wanted one of F32, F16, BF16"},
        {"{" ENTRY("a", "F8_E5M2", "4", 0, 4) "}", 4, "dtype is F8_E5M2"},
        {"{\"a\":{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "dtype is no text"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", 4, "shape is no array"},
        {"{" ENTRY("a", "F32", "1,1,1,1,1", 0, 4) "}", 4, "shape is longer"},
        {"{" ENTRY("a", "F32", "0", 0, 0) "}", 0, "size 0 of its shape is below 1"},
        {"{" ENTRY("a", "F32", "1,-1", 0, 4) "}", 4, "size 1 of its shape is below 1"},
        {"{" ENTRY("a", "F32", "1.0", 0, 4) "}", 4, "size 0 of its shape is no integer"},
        {"{" ENTRY("a", "F32", "9223372036854775808", 0, 4) "}", 4,
         "size 0 of its shape is no integer"},
        /* 2^62 * 2^2: the product wraps to 0; 2^32 * 2^31 * 2: to 2^64 */
        {"{" ENTRY("a", "F32", "4611686018427387904,4", 0, 4) "}", 4, "its shape overflows"},
        {"{" ENTRY("a", "F32", "4294967296,2147483648,2", 0, 4) "}", 4, "its shape overflows"},
        /* the product fits, times 4 bytes it wraps */
        {"{" ENTRY("a", "F32", "4611686018427387905", 0, 4) "}", 4, "size in bytes overflows"},
        {"{" ENTRY("a", "F32", "2", 0, 4) "}", 4, "span 4 bytes; its dtype and shape make 8"},
        {"{" ENTRY("a", "F32", "1", 4, 0) "}", 4, "data_offsets are 4 and 0"},
        {"{" ENTRY("a", "F32", "1", -4, 0) "}", 4, "data_offsets are -4 and 0"},
        {"{" ENTRY("a", "F32", "1", 0.0, 4.0) "}", 4, "no array of two integers"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4,
         "no array of two integers"},
        {"{" ENTRY("a", "F32", "2", 0, 8) "}", 7, "ends at byte 8 of the data, which has 7"},
        {"{" ENTRY("a", "F32", "1", 4, 8) "}", 8, "begins 4 bytes behind the end"},
        {"{" ENTRY("a", "F32", "2", 0, 8) "," ENTRY("b", "F32", "2", 4, 12) "}", 12,
         "tensor b begins 4 bytes before the end of the one before"},
        {"{" ENTRY("a", "F32", "1", 0, 4) "," ENTRY("b", "F32", "1", 0, 4) "}", 4,
         "begins 4 bytes before the end"},
        {"{" ENTRY("a", "F32", "1", 0, 4) "," ENTRY("b", "F32", "1", 8, 12) "}", 12,
         "tensor b begins 4 bytes behind the end"},
        {"{" ENTRY("a", "F32", "1", 0, 4) "}", 5, "has 1 bytes behind its last tensor"},
        {"{}", 1, "has 1 bytes behind its last tensor"},
        {"{\"__metadata__\":{\"a\":1}}", 0, "__metadata__ is no object of strings"},
        {"{\"__metadata__\":[]}", 0, "__metadata__ is no object of strings"},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        esp_error err;
        size_t bytes;
        char *file = st_build(all[i].header, all[i].data, &bytes);
        open_bytes(file, bytes, ESP_INVALID, &err);
        if (!strstr(err.message, all[i].sentence) ||
            strncmp(err.message, "a.safetensors: ", 15) != 0)
            fail_msg("%s\n  gives: %s\n  wanted: %s", all[i].header, err.message, all[i].sentence);
        free(file);
    }
}

/* The 8 bytes before the header: longer than the file by one, by 2^63, longer than the limit; and
 * the sum with the header's place wraps. */
static void a_header_length_that_lies_is_refused(void **state) {
    (void)state;
    static const struct {
        uint64_t length;
        const char *sentence;
    } all[] = {{0, "does not begin with"},
               {3, "announces a header of 3 bytes, but only 2 follow"},
               {SAFETENSORS_HEADER_MAX, "but only 2 follow"},
               {SAFETENSORS_HEADER_MAX + 1ull, "wanted 100000000 at most"},
               {1ull << 63, "wanted 100000000 at most"},
               {UINT64_MAX - 7, "wanted 100000000 at most"},
               {UINT64_MAX, "wanted 100000000 at most"}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        esp_error err;
        size_t bytes;
        char *file = st_build_length(all[i].length, "{}", 0, &bytes);
        open_bytes(file, bytes, ESP_INVALID, &err);
        if (!strstr(err.message, all[i].sentence))
            fail_msg("%llu: %s", (unsigned long long)all[i].length, err.message);
        free(file);
    }
}

static void every_truncation_is_refused(void **state) {
    (void)state;
    esp_error err;
    size_t bytes;
    char *file = st_build("{" ENTRY("a", "F32", "2", 0, 8) "," ENTRY("b", "F16", "2", 8, 12) "}",
                          12, &bytes);
    for (size_t cut = 0; cut < bytes; cut++) {
        char *part =
            mem_new(cut ? cut : 1, 1); /* of its own, so that a sanitizer sees one too far */
        memcpy(part, file, cut);
        open_bytes(part, cut, ESP_INVALID, &err);
        free(part);
    }
    safetensors_close(open_bytes(file, bytes, ESP_OK, &err));
    free(file);
}

/* 10,000 arrays in each other: refused by depth, whatever the parser's stack. */
static void deep_nesting_is_refused(void **state) {
    (void)state;
    enum { DEPTH = 10000 };
    char *header = mem_new(2 * DEPTH + 16, 1);
    esp_error err;
    size_t bytes;
    memcpy(header, "{\"a\":", 5);
    memset(header + 5, '[', DEPTH);
    memset(header + 5 + DEPTH, ']', DEPTH);
    header[5 + 2 * DEPTH] = '}';
    char *file = st_build(header, 0, &bytes);
    open_bytes(file, bytes, ESP_INVALID, &err);
    assert_non_null(strstr(err.message, "maximum parsing depth"));
    free(file);
    free(header);
}

static void a_file_is_mapped_and_a_missing_one_named(void **state) {
    (void)state;
    char path[] = "/tmp/test_safetensors_XXXXXX";
    safetensors_file *opened;
    esp_error err = {0};
    size_t bytes;
    char *file = st_build("{" ENTRY("a", "F32", "2", 0, 8) "}", 8, &bytes);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    FILE *out = fdopen(fd, "wb");
    assert_int_equal(fwrite(file, 1, bytes, out), bytes);
    assert_int_equal(fclose(out), 0);
    assert_int_equal(safetensors_open(&opened, path, &err), ESP_OK);
    assert_memory_equal(safetensors_data(opened), file, bytes);
    assert_string_equal(safetensors_name(opened), strrchr(path, '/') + 1);
    safetensors_close(opened);
    remove(path);
    assert_int_equal(safetensors_open(&opened, path, &err), ESP_NOT_FOUND);
    assert_null(opened);
    free(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_come_in_the_order_of_their_data),
        cmocka_unit_test(every_type_that_a_checkpoint_may_hold_is_read),
        cmocka_unit_test(a_file_without_tensors_is_read),
        cmocka_unit_test(each_wrong_header_is_refused_by_name),
        cmocka_unit_test(a_header_length_that_lies_is_refused),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(a_file_is_mapped_and_a_missing_one_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
