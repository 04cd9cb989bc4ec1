/* test_chat_json.c - JSON of a client within its bounds, and the names its variables may have. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/chat_json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void check_read(const char *text, size_t bytes, chat_json_kind kind, const char *refusal) {
    json_t *value;
    esp_error err = {0};
    esp_code code = chat_json_read(&value, "field", text, bytes, kind, &err);
    assert_int_equal(code, refusal ? ESP_INVALID : ESP_OK);
    assert_int_equal(!value, !!refusal);
    if (refusal) assert_string_equal(err.field, "field");
    if (refusal && !strstr(err.message, refusal)) fail_msg("%s", err.message);
    json_decref(value);
}

static void kinds_are_told_apart(void **state) {
    (void)state;
    check_read("[1]", 3, CHAT_JSON_ARRAY, NULL);
    check_read("[1]", 3, CHAT_JSON_OBJECT, "wanted a JSON object");
    check_read("{}", 2, CHAT_JSON_OBJECT, NULL);
    check_read("{}", 2, CHAT_JSON_ARRAY, "wanted a JSON array");
    check_read("false", 5, CHAT_JSON_ANY, NULL);
    check_read("\"a\\u0000\"", 9, CHAT_JSON_ANY, NULL);
    check_read("2025", 4, CHAT_JSON_ARRAY, "wanted a JSON array");
}

static void what_is_no_json_is_refused_by_its_place(void **state) {
    (void)state;
    check_read(NULL, 0, CHAT_JSON_ANY, "no JSON at line 1");
    check_read("[1,\n2", 5, CHAT_JSON_ARRAY, "no JSON at line 2");
    check_read("[1] x", 5, CHAT_JSON_ARRAY, "no JSON at line 1");
    check_read("word", 4, CHAT_JSON_ANY, "texts stand in double quotes");
    check_read("\"\xff\"", 3, CHAT_JSON_ANY, "no JSON");
    check_read("{\"a\":1,\"a\":1}", 13, CHAT_JSON_OBJECT, "no JSON");
    check_read("99999999999999999999", 20, CHAT_JSON_ANY, "no JSON");
    check_read("1e999", 5, CHAT_JSON_ANY, "no JSON");
}

static void bytes_and_depth_have_limits(void **state) {
    (void)state;
    enum { DEEP = 10000 };
    char *text = malloc(CHAT_JSON_BYTES_MAX + 1);
    memset(text, ' ', CHAT_JSON_BYTES_MAX + 1);
    memcpy(text, "[]", 2);
    check_read(text, CHAT_JSON_BYTES_MAX, CHAT_JSON_ARRAY, NULL);
    check_read(text, CHAT_JSON_BYTES_MAX + 1, CHAT_JSON_ARRAY, "524289 bytes of JSON");
    memset(text, '[', DEEP);
    memset(text + DEEP, ']', DEEP);
    check_read(text, 2 * DEEP, CHAT_JSON_ARRAY, "no JSON");
    free(text);
}

static void check_name(const char *key, const char *refusal) {
    esp_error err = {0};
    assert_int_equal(chat_variable_check(key, "arg", &err), refusal ? ESP_INVALID : ESP_OK);
    if (refusal && !strstr(err.message, refusal)) fail_msg("%s", err.message);
}

static void variables_have_names_of_their_own(void **state) {
    (void)state;
    static const char *const taken[] = {"messages", "tools", "add_generation_prompt", "bos_token",
                                        "eos_token"};
    static const char *const odd[] = {"", "1a", "a-b", "a b", "a.b", "\xc3\xa9"};
    check_name("enable_thinking", NULL);
    check_name("_A9", NULL);
    check_name("documents", NULL);
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
        check_name(taken[i], "can't be given");
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++)
        check_name(odd[i], "is no name");
    json_t *object = json_pack("{s:b, s:i}", "fine", 1, "tools", 2);
    assert_int_equal(chat_variables_check(object, "arg", NULL), ESP_INVALID);
    json_object_del(object, "tools");
    assert_int_equal(chat_variables_check(object, "arg", NULL), ESP_OK);
    json_decref(object);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kinds_are_told_apart),
        cmocka_unit_test(what_is_no_json_is_refused_by_its_place),
        cmocka_unit_test(bytes_and_depth_have_limits),
        cmocka_unit_test(variables_have_names_of_their_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
