/* test_adapter_routes.c - bodies of the routes that load and unload adapters. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/serve/adapter_routes.h"

static const char load[] = "/v1/load_lora_adapter", unload[] = "/v1/unload_lora_adapter";

static esp_code read_text(adapter_ask *out, const char *path, const char *text, esp_error *err) {
    *err = (esp_error){0};
    return adapter_ask_read(out, path, text, strlen(text), err);
}

static void a_load_names_adapter_and_reference(void **state) {
    (void)state;
    adapter_ask ask;
    esp_error error;
    assert_int_equal(read_text(&ask, load, "{\"lora_name\":\"a\",\"lora_path\":\"b@3\"}", &error),
                     ESP_OK);
    assert_string_equal(ask.name, "a");
    assert_string_equal(ask.reference, "b@3");
    assert_false(ask.in_place || ask.unloads);
    static const char inplace[] =
        "{\"lora_name\":\"a\",\"lora_path\":\"b\",\"load_inplace\":true,\"base_model_name\":\"m\"}";
    assert_int_equal(read_text(&ask, load, inplace, &error), ESP_OK);
    assert_true(ask.in_place);
}

static void an_unload_names_the_adapter(void **state) {
    (void)state;
    adapter_ask ask;
    esp_error error;
    assert_int_equal(read_text(&ask, unload, "{\"lora_name\":\"a\",\"lora_int_id\":4}", &error),
                     ESP_OK);
    assert_true(ask.unloads);
    assert_string_equal(ask.name, "a");
}

static void what_is_wrong_is_named(void **state) {
    (void)state;
    static const struct {
        const char *body, *field;
    } bad[] = {
        {"", ""},
        {"[]", ""},
        {"{", ""},
        {"{\"lora_name\":\"a\",\"lora_name\":\"a\",\"lora_path\":\"b\"}", ""},
        {"{\"lora_path\":\"b\"}", "lora_name"},
        {"{\"lora_name\":\"\",\"lora_path\":\"b\"}", "lora_name"},
        {"{\"lora_name\":7,\"lora_path\":\"b\"}", "lora_name"},
        {"{\"lora_name\":\"a\\u0000\",\"lora_path\":\"b\"}", ""},
        {"{\"lora_name\":\"a\"}", "lora_path"},
        {"{\"lora_name\":\"a\",\"lora_path\":null}", "lora_path"},
        {"{\"lora_name\":\"a\",\"lora_path\":[\"b\"]}", "lora_path"},
    };
    adapter_ask ask;
    esp_error error;
    for (uint32_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(read_text(&ask, load, bad[i].body, &error), ESP_INVALID);
        assert_string_equal(error.field, bad[i].field);
    }
    assert_int_equal(read_text(&ask, unload, "{\"lora_name\":\"../a\"}", &error), ESP_INVALID);
}

static void only_the_two_routes_are_there(void **state) {
    (void)state;
    assert_true(adapter_routes_have(load) && adapter_routes_have(unload));
    assert_false(adapter_routes_have("/v1/load_lora_adapter/"));
    assert_false(adapter_routes_have("/v1/models"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_load_names_adapter_and_reference),
        cmocka_unit_test(an_unload_names_the_adapter),
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(only_the_two_routes_are_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
