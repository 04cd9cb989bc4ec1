/* test_check_layers.c - layers that a device does not compute are refused when the model is opened. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/kernel_lab.h"
#include "tests/unit/tiny_engine.h"

static uint32_t packed;

static esp_code refuse_layers(const kern_device *dev, const kern_kv_shape *shape, esp_error *err) {
    (void)dev;
    return esp_fail_field(err, ESP_INVALID, "--device", "heads of %u dims", shape->head_dim);
}

static esp_code count_pack(kern_device *dev, const kern_matrix_desc *desc, kern_matrix **out,
                           esp_error *err) {
    packed++;
    return kern_ref.pack(dev, desc, out, err);
}

/* Not after a minute of loading. */
static void a_model_is_refused_before_anything_of_it_is_packed(void **state) {
    (void)state;
    char path[] = "/tmp/espalier-layers-XXXXXX";
    kern_ops ops = kern_ref;
    model_config c = {.model_path = path, .device = DEVICE_REF, .ops = &ops, .threads = 1};
    engine *e = NULL;
    esp_error err = {0};
    ops.pack = count_pack;
    tiny_write(path, &(tiny_llama_options){.layers = 1, .head_dim = 16});
    engine_close(tiny_open(path, c));
    assert_true(packed > 0);
    packed = 0;
    ops.check_layers = refuse_layers;
    assert_int_equal(engine_open(&e, &c, NULL, NULL, &err), ESP_INVALID);
    unlink(path);
    assert_string_equal(err.message, "heads of 16 dims");
    assert_string_equal(err.field, "--device");
    assert_int_equal(packed, 0);
}

static void the_cpu_has_even_heads_of_up_to_512_dims_and_ref_any(void **state) {
    (void)state;
    static const uint32_t good[] = {2, 64, 256, 512}, bad[] = {0, 1, 127, 513, 514};
    lab ref = lab_open(&kern_ref, LEVEL_AUTO, DT_F32, 1);
    kern_kv_shape shape = {.layers = 1, .kv_heads = 1, .head_dim = 1023};
    assert_int_equal(kern_ref.check_layers(ref.dev, &shape, NULL), ESP_OK);
    lab_close(&ref);
    if (kern_cpu_best_level() == LEVEL_AUTO) skip();
    lab cpu = lab_open(&kern_cpu, LEVEL_AUTO, DT_BF16, 1);
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        shape.head_dim = good[i];
        assert_int_equal(kern_cpu.check_layers(cpu.dev, &shape, NULL), ESP_OK);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        esp_error err = {0};
        shape.head_dim = bad[i];
        assert_int_equal(kern_cpu.check_layers(cpu.dev, &shape, &err), ESP_INVALID);
        assert_non_null(strstr(err.message, "even number of at most 512: use --device ref"));
    }
    lab_close(&cpu);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_is_refused_before_anything_of_it_is_packed),
        cmocka_unit_test(the_cpu_has_even_heads_of_up_to_512_dims_and_ref_any),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
