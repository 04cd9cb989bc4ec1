/* test_cudaemu_device.c - what --device auto and cuda[:N] are, with as many devices as the emulator is told. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "emu_control.h"
#include "engine/base/pool.h"
#include "engine/device.h"
#include "engine/profile.h"

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

/* What is written to stderr until end_listening, into a file. */
static int begin_listening(FILE **heard) {
    int was = dup(STDERR_FILENO);
    *heard = tmpfile();
    assert_non_null(*heard);
    assert_true(was >= 0 && dup2(fileno(*heard), STDERR_FILENO) >= 0);
    return was;
}

static void end_listening(FILE *heard, int was, char *out, size_t bytes) {
    fflush(stderr);
    assert_true(dup2(was, STDERR_FILENO) >= 0);
    close(was);
    rewind(heard);
    out[fread(out, 1, bytes - 1, heard)] = 0;
    fclose(heard);
}

/* A server says once why it does not compute on the device that is there. */
static void auto_is_the_cpu_where_the_device_is_too_old(void **state) {
    (void)state;
    model_config c = {.device = DEVICE_AUTO, .serves = true};
    char said[2048];
    FILE *heard;
    emu_set_sm(75);
    int was = begin_listening(&heard);
    esp_code code = device_choose(&c, NULL);
    end_listening(heard, was, said, sizeof said);
    emu_set_sm(80);
    assert_int_equal(code, ESP_OK);
    assert_int_equal(c.device, kern_cpu_best_level() == LEVEL_AUTO ? DEVICE_REF : DEVICE_CPU);
    assert_non_null(strstr(said, "device_chosen"));
    assert_non_null(strstr(said, "Emulated sm_75 has compute capability 7.5"));
    assert_ptr_equal(strchr(said, '\n'), said + strlen(said) - 1); /* one line */
}

static void a_device_that_is_too_old_is_refused_with_what_is_wanted(void **state) {
    (void)state;
    model_config c = {.device = DEVICE_CUDA, .device_index = 1};
    kern_options options = {.index = 1, .kv_dtype = DT_BF16, .tokens_max = 1};
    kern_device *dev = NULL;
    thread_pool *pool = NULL;
    esp_error err = {0}, opened = {0};
    assert_int_equal(pool_open(&pool, 1, &err), ESP_OK);
    options.pool = pool;
    emu_set_devices(2);
    emu_set_sm(75);
    assert_int_equal(device_choose(&c, &err), ESP_INVALID);
    assert_int_equal(kern_cuda.open(&dev, &options, &opened), ESP_INVALID);
    emu_set_sm(80);
    emu_set_devices(1);
    pool_close(pool);
    assert_null(dev);
    assert_string_equal(err.field, "--device");
    assert_string_equal(err.message, opened.message);
    assert_non_null(strstr(err.message, "cuda:1"));
    assert_non_null(strstr(err.message, "7.5, and 8.0 or higher is wanted"));
    assert_non_null(strstr(err.message, "--device cpu"));
}

/* What inspect prints. */
static void the_profile_of_auto_is_the_cpus_where_the_device_is_too_old(void **state) {
    (void)state;
    char here[PROFILE_BYTES_MAX], there[PROFILE_BYTES_MAX];
    esp_error err = {0};
    assert_int_equal(profile_of_auto(there, &err), ESP_OK);
    emu_set_sm(75);
    assert_int_equal(profile_of_auto(here, &err), ESP_OK);
    emu_set_sm(80);
    assert_int_equal(strncmp(there, "cuda:", 5), 0);
    assert_int_not_equal(strncmp(here, "cuda:", 5), 0);
}

/* The build's own instructions where it has some, else what the driver makes of its PTX. */
static void a_profile_names_the_code_that_runs(void **state) {
    (void)state;
    static const struct {
        int sm;
        const char *profile;
    } devices[] = {{80, "cuda:sm_80,act=bf16,kv=bf16"},
                   {86, "cuda:sm_86,act=bf16,kv=bf16"},
                   {87, "cuda:sm_86,act=bf16,kv=bf16"},
                   {90, "cuda:sm_90,act=bf16,kv=bf16"},
                   {120, "cuda:sm_120/ptx_90/driver_13.0,act=bf16,kv=bf16"}};
    char profile[PROFILE_BYTES_MAX];
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
        emu_set_sm(devices[i].sm);
        assert_int_equal(profile_of_auto(profile, NULL), ESP_OK);
        assert_memory_equal(profile, devices[i].profile, strlen(devices[i].profile));
        assert_int_equal(profile[strlen(devices[i].profile)], ',');
    }
    emu_set_sm(80);
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
        cmocka_unit_test(auto_is_the_cpu_where_the_device_is_too_old),
        cmocka_unit_test(a_device_that_is_too_old_is_refused_with_what_is_wanted),
        cmocka_unit_test(the_profile_of_auto_is_the_cpus_where_the_device_is_too_old),
        cmocka_unit_test(a_profile_names_the_code_that_runs),
        cmocka_unit_test(a_link_is_as_far_as_the_driver_says),
        cmocka_unit_test(a_number_that_is_not_there_is_refused_with_how_many_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
