/* test_slab.c - matrices that are cut from common mappings. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/cpu/cpu.h"

enum { PIECES = 600 };

static bool is_zero(const uint8_t *bytes, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (bytes[i]) return false;
    return true;
}

/* Sizes of a small model's matrices, more of them than one slab holds. */
static void pieces_are_aligned_zeroed_and_apart(void **state) {
    (void)state;
    kern_device dev = {0};
    uint8_t *at[PIECES];
    cpu_slab *of[PIECES];
    size_t bytes[PIECES];
    for (uint32_t i = 0; i < PIECES; i++) {
        bytes[i] = 1 + (size_t)i * 40009 % 300000;
        at[i] = cpu_slab_cut(&dev, bytes[i], &of[i]);
        assert_non_null(at[i]);
        assert_int_equal((uintptr_t)at[i] % CACHE_LINE_BYTES, 0);
        assert_true(is_zero(at[i], bytes[i]));
        memset(at[i], (int)(i % 255) + 1, bytes[i]);
    }
    assert_ptr_equal(of[0], of[1]);
    assert_ptr_not_equal(of[0], of[PIECES - 1]);
    for (uint32_t i = 0; i < PIECES; i++) {
        assert_int_equal(at[i][0], i % 255 + 1);
        assert_int_equal(at[i][bytes[i] - 1], i % 255 + 1);
        cpu_slab_drop(of[i]);
    }
    cpu_slab_drop(dev.slab);
}

/* In any order, and after the device has gone on to another slab or has gone itself. */
static void a_slab_lives_until_its_last_piece_is_dropped(void **state) {
    (void)state;
    kern_device dev = {0};
    cpu_slab *first, *second, *large;
    uint8_t *a = cpu_slab_cut(&dev, 100, &first), *b = cpu_slab_cut(&dev, 100, &second);
    uint8_t *c = cpu_slab_cut(&dev, (size_t)20 << 20, &large);
    assert_true(a && b && c);
    assert_ptr_not_equal(large, first);
    cpu_slab_drop(dev.slab);
    cpu_slab_drop(first);
    memset(b, 1, 100);
    cpu_slab_drop(second);
    memset(c, 1, (size_t)20 << 20);
    cpu_slab_drop(large);
    cpu_slab_drop(NULL);
}

static void no_memory_is_an_answer(void **state) {
    (void)state;
    kern_device dev = {0};
    cpu_slab *slab;
    assert_null(cpu_slab_cut(&dev, (size_t)1 << 60, &slab));
    assert_null(slab);
    assert_null(cpu_slab_cut(&dev, SIZE_MAX - 10, &slab));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_are_aligned_zeroed_and_apart),
        cmocka_unit_test(a_slab_lives_until_its_last_piece_is_dropped),
        cmocka_unit_test(no_memory_is_an_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
