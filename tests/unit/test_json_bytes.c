/* test_json_bytes.c - what every JSON file is held to before and while it is parsed. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/mem.h"
#include "engine/model/format/json_bytes.h"

static json_t *read_well(const char *text) {
    json_t *object;
    esp_error err = {0};
    if (json_read_object(&object, text, strlen(text), "x.json", "the file", &err))
        fail_msg("%s", err.message);
    return object;
}

static void assert_refused(const char *text, size_t count, const char *words) {
    json_t *object;
    esp_error err = {0};
    assert_int_equal(json_read_object(&object, text, count, "x.json", "the file", &err),
                     ESP_INVALID);
    assert_null(object);
    if (!strstr(err.message, words)) fail_msg("%s\n  wanted: %s", err.message, words);
}

static void a_number_beyond_64_bits_makes_reals(void **state) {
    (void)state;
    json_t *object = read_well("{\"a\":1000000000000000019884624838656,\"b\":7}");
    assert_true(json_is_real(json_object_get(object, "a")));
    assert_true(json_real_value(json_object_get(object, "a")) == 1e30);
    assert_true(json_is_real(json_object_get(object, "b")));
    json_decref(object);
    object = read_well("{\"b\":7}");
    assert_true(json_is_integer(json_object_get(object, "b")));
    json_decref(object);
}

static void only_a_tokenizer_has_nul_in_its_strings(void **state) {
    (void)state;
    static const char text[] = "{\"a\":\"x\\u0000y\"}", key[] = "{\"x\\u0000y\":1}";
    json_t *object;
    esp_error err = {0};
    assert_refused(text, strlen(text), "x.json: the file is not valid JSON");
    assert_int_equal(json_read_tokens(&object, text, strlen(text), "x.json", &err), ESP_OK);
    assert_int_equal(json_string_length(json_object_get(object, "a")), 3);
    json_decref(object);
    assert_int_equal(json_read_tokens(&object, key, strlen(key), "x.json", &err), ESP_INVALID);
    assert_null(object);
}

/* {"a":[{},{},..]}, of which 6 MB would take the parser's 600 MB. */
static void millions_of_empty_objects_are_refused_unparsed(void **state) {
    (void)state;
    size_t count = JSON_CONTAINERS_MAX, bytes = 0;
    char *text = mem_new(3 * count + 16, 1);
    memcpy(text, "{\"a\":[", 6);
    for (bytes = 6; count; count--, bytes += 3)
        memcpy(text + bytes, "{},", 3);
    memcpy(text + bytes - 1, "]}", 2);
    assert_refused(text, bytes + 1, "objects and arrays");
    free(text);
}

/* What stands in a string is no structure, not even behind an escaped quote. */
static void brackets_in_a_string_are_text(void **state) {
    (void)state;
    size_t count = JSON_CONTAINERS_MAX + 16;
    char *text = mem_new(count + 32, 1);
    memcpy(text, "{\"a\":\"\\\"", 8);
    memset(text + 8, '[', count);
    memcpy(text + 8 + count, "\"}", 2);
    json_t *object = read_well(text);
    assert_int_equal(json_string_length(json_object_get(object, "a")), count + 1);
    json_decref(object);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_number_beyond_64_bits_makes_reals),
        cmocka_unit_test(only_a_tokenizer_has_nul_in_its_strings),
        cmocka_unit_test(millions_of_empty_objects_are_refused_unparsed),
        cmocka_unit_test(brackets_in_a_string_are_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
