/* test_cuda_absent.c - a build without CUDA says so, and what mends it. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/kernels.h"

static void open_says_what_is_missing_and_which_flag_mends_it(void **state) {
    (void)state;
    kern_device *dev = (kern_device *)&dev;
    esp_error err = {0};
    kern_options options = {.kv_dtype = DT_BF16, .tokens_max = 1};
    assert_int_equal(kern_cuda.open(&dev, &options, &err), ESP_UNIMPLEMENTED);
    assert_null(dev);
    assert_string_equal(err.field, "--device");
    assert_non_null(strstr(err.message, "-DESPALIER_CUDA=ON"));
    assert_non_null(strstr(err.message, "--device cpu"));
    assert_non_null(strstr(err.message, "no CUDA backend, for "));
    kern_cuda.close(dev);
    esp_error why = {0};
    assert_int_equal(kern_cuda_count(&why), 0);
    assert_int_equal(why.code, ESP_UNIMPLEMENTED);
    assert_string_equal(why.message, err.message);
    assert_int_equal(kern_cuda_check(0, &why), ESP_UNIMPLEMENTED);
    assert_string_equal(why.message, err.message);
}

/* The table is as long as the others: no entry may be NULL. */
static void every_entry_is_filled(void **state) {
    (void)state;
    void *const *entry = (void *const *)&kern_cuda;
    for (size_t i = 0; i < sizeof kern_cuda / sizeof *entry; i++)
        assert_non_null(entry[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(open_says_what_is_missing_and_which_flag_mends_it),
        cmocka_unit_test(every_entry_is_filled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
