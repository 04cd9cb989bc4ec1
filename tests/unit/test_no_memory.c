/* test_no_memory.c - where the host's memory ends, the sentence says how much was wanted and which flag takes less. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/adapters/adapter_image.h"
#include "tests/unit/kernel_lab.h"
#include "tests/unit/tiny_engine.h"

static void *take_nothing(const kern_device *dev, size_t bytes) {
    (void)dev, (void)bytes;
    return NULL;
}

static void a_model_whose_results_find_none_is_refused(void **state) {
    (void)state;
    char path[] = "/tmp/espalier-memory-XXXXXX";
    kern_ops ops = kern_ref;
    model_config c = {.model_path = path, .device = DEVICE_REF, .ops = &ops, .threads = 1};
    engine *e = NULL;
    esp_error err = {0};
    ops.host_take = take_nothing;
    tiny_write(path, &(tiny_llama_options){.layers = 1, .head_dim = 16});
    assert_int_equal(engine_open(&e, &c, NULL, NULL, &err), ESP_EXHAUSTED);
    unlink(path);
    assert_string_equal(err.field, "--device");
    assert_non_null(strstr(err.message, "bytes left for the results of a step"));
    assert_non_null(strstr(err.message, "--device cpu"));
}

static void an_adapter_whose_frames_find_none_is_refused(void **state) {
    (void)state;
    static const float values[64];
    lab l = lab_open(&kern_ref, LEVEL_AUTO, DT_F32, 1);
    kern_ops ops = kern_ref;
    ops.host_take = take_nothing;
    adapter_image *image = image_open(&(image_options){
        .ops = &ops, .dev = l.dev, .layers = 1, .frame_bytes = 8192, .frames_max = 4});
    const kern_lora_desc desc = {
        .cols = 32,
        .part_count = 1,
        .part[0] = {.rank = 1, .rows = 32, .scale = 1, .a = values, .b = values}};
    esp_error err = {0};
    assert_int_equal(image_add(image, ROLE_DOWN, 0, &desc, &err), ESP_EXHAUSTED);
    assert_string_equal(err.field, "--adapter-memory");
    assert_non_null(strstr(err.message, "no 8192 bytes left for frame 0 of the adapter"));
    image_close(image);
    lab_close(&l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_whose_results_find_none_is_refused),
        cmocka_unit_test(an_adapter_whose_frames_find_none_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
