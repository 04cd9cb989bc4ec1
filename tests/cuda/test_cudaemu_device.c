/* test_cudaemu_device.c - what --device auto and cuda[:N] are, with as many devices as the emulator is told. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "emu_control.h"
#include "engine/device.h"

static void auto_is_a_cuda_device_where_one_is(void **state) {
    (void)state;
    model_config c = {.device = DEVICE_AUTO};
    emu_set_devices(1);
    assert_int_equal(device_choose(&c, NULL), ESP_OK);
    assert_int_equal(c.device, DEVICE_CUDA);
    assert_int_equal(c.kv_dtype, DT_BF16);
    assert_ptr_equal(device_ops(c.device), &kern_cuda);
}

static void auto_is_the_cpu_where_none_is(void **state) {
    (void)state;
    model_config c = {.device = DEVICE_AUTO};
    emu_set_devices(0);
    assert_int_equal(device_choose(&c, NULL), ESP_OK);
    assert_int_equal(c.device, kern_cpu_best_level() == LEVEL_AUTO ? DEVICE_REF : DEVICE_CPU);
    emu_set_devices(1);
}

/* What the CUDA backend does not compute is the CPU's. */
static void auto_is_the_cpu_for_types_that_only_the_cpu_has(void **state) {
    (void)state;
    model_config int8 = {.device = DEVICE_AUTO, .activations = ACT_INT8};
    model_config f32 = {.device = DEVICE_AUTO, .kv_dtype = DT_F32, .kv_dtype_given = true};
    assert_int_equal(device_choose(&int8, NULL), ESP_OK);
    assert_int_equal(device_choose(&f32, NULL), ESP_OK);
    assert_int_not_equal(int8.device, DEVICE_CUDA);
    assert_int_not_equal(f32.device, DEVICE_CUDA);
}

static void a_number_that_is_not_there_is_refused_with_how_many_are(void **state) {
    (void)state;
    model_config c = {.device = DEVICE_CUDA, .device_index = 2};
    esp_error err = {0};
    emu_set_devices(2);
    assert_int_equal(device_choose(&c, &err), ESP_OUT_OF_RANGE);
    assert_non_null(strstr(err.message, "cuda:2: this machine has 2"));
    emu_set_devices(3);
    assert_int_equal(device_choose(&c, &err), ESP_OK);
    emu_set_devices(0);
    assert_int_equal(device_choose(&c, &err), ESP_UNAVAILABLE);
    assert_non_null(strstr(err.message, "--device cpu"));
    emu_set_devices(1);
}

static void a_link_is_as_far_as_the_driver_says(void **state) {
    (void)state;
    emu_set_devices(3);
    emu_set_link(0, 1, 3);
    emu_set_link(1, 2, -1);
    assert_int_equal(kern_cuda_link(0, 2), 0);
    assert_int_equal(kern_cuda_link(0, 1), 3);
    assert_int_equal(kern_cuda_link(1, 0), 3);
    assert_int_equal(kern_cuda_link(2, 1), KERN_LINK_NONE);
    emu_set_link(0, 1, 0);
    emu_set_link(1, 2, 0);
    emu_set_devices(1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(auto_is_a_cuda_device_where_one_is),
        cmocka_unit_test(auto_is_the_cpu_where_none_is),
        cmocka_unit_test(auto_is_the_cpu_for_types_that_only_the_cpu_has),
        cmocka_unit_test(a_link_is_as_far_as_the_driver_says),
        cmocka_unit_test(a_number_that_is_not_there_is_refused_with_how_many_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
