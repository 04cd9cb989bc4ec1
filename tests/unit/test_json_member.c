/* test_json_member.c - one member of an object: what it is, and what of the others is looked at. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/mem.h"
#include "engine/model/format/json_member.h"

/* Of memory that ends where the text does. */
static esp_code read_member(const char *text, size_t count, json_t **out, esp_error *err) {
    char *bytes = mem_new(count + 1, 1);
    memcpy(bytes + 1, text, count);
    esp_code code = json_read_member(out, bytes + 1, count, "list", "x.json", err);
    free(bytes);
    return code;
}

static json_t *read_well(const char *text) {
    json_t *value;
    esp_error err = {0};
    if (read_member(text, strlen(text), &value, &err)) fail_msg("%s: %s", text, err.message);
    return value;
}

static void the_member_is_found_wherever_it_stands(void **state) {
    (void)state;
    static const char *const texts[] = {
        "{\"list\":[1,2]}",
        " {\n\"list\" : [ 1 , 2 ] }\n",
        "{\"a\":{\"list\":7},\"list\":[1,2],\"b\":[\"list\",[{}]]}",
        "{\"b\":{\"\\\"list\\\"\":7},\"a\":\"\\\\\",\"list\":[1,2]}",
        "{\"a\":\"}],\\\"list\\\":[\",\"list\":[1,2],\"list2\":null}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        json_t *value = read_well(texts[i]);
        assert_int_equal(json_array_size(value), 2);
        assert_int_equal(json_integer_value(json_array_get(value, 1)), 2);
        json_decref(value);
    }
}

static void it_may_be_any_value_or_missing(void **state) {
    (void)state;
    json_t *value = read_well("{\"list\":\"x\\u0000y\"}");
    assert_int_equal(json_string_length(value), 3);
    json_decref(value);
    value = read_well("{\"list\":null}");
    assert_true(json_is_null(value));
    json_decref(value);
    assert_null(read_well("{}"));
    assert_null(read_well("{\"a\":{\"list\":1}}"));
}

/* Others are as they like, but strings and brackets end. */
static void others_are_not_looked_at(void **state) {
    (void)state;
    json_t *value = read_well("{\"a\":{x 7 \"y\",,},\"list\":1,\"b\":01e}");
    assert_int_equal(json_integer_value(value), 1);
    json_decref(value);
}

static void what_is_no_object_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *text, *wanted;
    } cases[] = {
        {"", "not a valid JSON object, at its byte 0"},
        {"[1]", "at its byte 0"},
        {"{\"list\":1", "at its byte 9"},
        {"{\"list\":1}}", "at its byte 10"},
        {"{\"list\":1,}", "at its byte 10"},
        {"{\"list\" 1}", "at its byte 8"},
        {"{\"list\":}", "at its byte 8"},
        {"{\"a\":\"b}", "at its byte 8"},
        {"{\"a\":\"b\\", "at its byte 8"},
        {"{\"a\":[[1],\"list\":1", "at its byte"},
        {"{\"list\":1,\"list\":1}", "2 members \"list\""},
        {"{\"a\":1,\"li\\u0073t\":1}", "a name written with escapes (\\), at its byte 7"},
        {"{\"list\":1,\"\\\"\":1}", "a name written with escapes"},
        {"{\"list\":[1}", "at its byte"},
        {"{\"list\":{x}}", "x.json: list is not valid JSON"},
        {"{\"list\":1 2}", "x.json: list is not valid JSON"},
        {"{\"list\":{\"a\":1,\"a\":1}}", "x.json: list is not valid JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *value;
        esp_error err = {0};
        esp_code code = read_member(cases[i].text, strlen(cases[i].text), &value, &err);
        if (code != ESP_INVALID || value || !strstr(err.message, cases[i].wanted))
            fail_msg("%s: wanted \"%s\": %s", cases[i].text, cases[i].wanted, err.message);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_member_is_found_wherever_it_stands),
        cmocka_unit_test(it_may_be_any_value_or_missing),
        cmocka_unit_test(others_are_not_looked_at),
        cmocka_unit_test(what_is_no_object_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
