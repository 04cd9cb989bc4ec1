/* test_device.c - which device auto is, and what becomes of those that are not there. Linked without CUDA. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/device.h"

static void auto_is_the_cpu_where_no_cuda_is_built_in(void **state) {
    (void)state;
    model_config c = {.device = DEVICE_AUTO};
    device_kind wanted = kern_cpu_best_level() == LEVEL_AUTO ? DEVICE_REF : DEVICE_CPU;
    assert_int_equal(device_choose(&c, NULL), ESP_OK);
    assert_int_equal(c.device, wanted);
    assert_int_equal(c.kv_dtype, wanted == DEVICE_CPU ? DT_BF16 : DT_F32);
}

static void a_device_that_was_asked_for_and_is_not_there_is_no_cpu(void **state) {
    (void)state;
    model_config c = {.device = DEVICE_CUDA};
    esp_error err = {0};
    assert_int_equal(device_choose(&c, &err), ESP_UNIMPLEMENTED);
    assert_string_equal(err.field, "--device");
    assert_non_null(strstr(err.message, "--device cpu"));
}

static void ref_keeps_float32_or_what_8_bits_stand_for(void **state) {
    (void)state;
    model_config c = {.device = DEVICE_REF};
    assert_int_equal(device_choose(&c, NULL), ESP_OK);
    assert_int_equal(c.kv_dtype, DT_F32);
    c = (model_config){.device = DEVICE_REF, .kv_dtype = DT_KV_INT8, .kv_dtype_given = true};
    assert_int_equal(device_choose(&c, NULL), ESP_OK);
    assert_int_equal(c.kv_dtype, DT_KV_INT8);
    c.kv_dtype = DT_BF16;
    assert_int_equal(device_choose(&c, NULL), ESP_INVALID);
}

/* The word after the colon is a level of the CPU or a number of a device, never both. */
static void a_level_is_the_cpus_and_a_number_the_devices(void **state) {
    (void)state;
    model_config cpu = {.device = DEVICE_CPU, .level = LEVEL_AVX512, .device_index = 2};
    model_config cuda = {.device = DEVICE_CUDA, .device_index = 2};
    assert_int_equal(device_level(&cpu), LEVEL_AVX512);
    assert_int_equal(device_index(&cpu), 0);
    assert_int_equal(device_level(&cuda), LEVEL_AUTO);
    assert_int_equal(device_index(&cuda), 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(auto_is_the_cpu_where_no_cuda_is_built_in),
        cmocka_unit_test(a_device_that_was_asked_for_and_is_not_there_is_no_cpu),
        cmocka_unit_test(ref_keeps_float32_or_what_8_bits_stand_for),
        cmocka_unit_test(a_level_is_the_cpus_and_a_number_the_devices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
