/* test_tensors.c - a set of named tensors. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "engine/model/format/tensors.h"

enum { MANY = 600 };

static void add(tensor_set *set, const char *name, const char *file) {
    model_tensor tensor = {.name = {name, strlen(name)},
                           .dim_count = 1,
                           .dims = {7, 1, 1, 1},
                           .dtype = DT_F16,
                           .file = file};
    tensor_set_add(set, &tensor);
}

/* Names that are prefixes of each other, added in no order. */
static void finds_each_of_many_by_name(void **state) {
    (void)state;
    static char names[MANY][16];
    tensor_set set = {0};
    for (int i = 0; i < MANY; i++) {
        snprintf(names[i], sizeof names[i], "t%d", (i * 7) % MANY);
        add(&set, names[i], "a");
    }
    assert_int_equal(tensor_set_seal(&set, NULL), ESP_OK);
    for (int i = 0; i < MANY; i++)
        assert_ptr_equal(tensor_set_find(&set, names[i]), &set.at[i]);
    assert_null(tensor_set_find(&set, "t"));
    assert_null(tensor_set_find(&set, "t6000"));
    tensor_set_free(&set);
    assert_null(set.at);
}

static void name_in_two_files_is_refused(void **state) {
    (void)state;
    tensor_set set = {0};
    esp_error err = {0};
    add(&set, "w", "one");
    add(&set, "v", "one");
    add(&set, "w", "two");
    assert_int_equal(tensor_set_seal(&set, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "the tensor w stands in"));
    tensor_set_free(&set);
}

static void types_have_names_and_counts(void **state) {
    (void)state;
    model_tensor tensor = {.dim_count = 2, .dims = {3, 5, 1, 1}, .dtype = DT_BF16};
    assert_string_equal(tensor_type_name(&tensor), "BF16");
    assert_int_equal(tensor_element_count(&tensor), 15);
    tensor.raw = RAW_I32;
    assert_string_equal(tensor_type_name(&tensor), "I32");
    tensor.dim_count = 0;
    assert_int_equal(tensor_element_count(&tensor), 1);
}

static void empty_set_finds_nothing(void **state) {
    (void)state;
    tensor_set set = {0};
    assert_int_equal(tensor_set_seal(&set, NULL), ESP_OK);
    assert_null(tensor_set_find(&set, "w"));
    tensor_set_free(&set);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_each_of_many_by_name),
        cmocka_unit_test(name_in_two_files_is_refused),
        cmocka_unit_test(types_have_names_and_counts),
        cmocka_unit_test(empty_set_finds_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
