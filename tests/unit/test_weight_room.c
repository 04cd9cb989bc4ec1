/* test_weight_room.c - matrices share mappings, never bytes. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/cpu/cpu.h"

static bool is_zero(const uint8_t *at, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        if (at[i]) return false;
    return true;
}

static void small_ones_lie_side_by_side(void **state) {
    (void)state;
    kern_device dev = {0};
    uint8_t *last = NULL, *first = NULL;
    size_t last_bytes = 0;
    uint32_t count = 0;
    for (size_t bytes = 1; bytes < 100000; bytes = bytes * 3 + 1) {
        uint8_t *at = cpu_room_take(&dev, bytes);
        assert_non_null(at);
        assert_int_equal((uintptr_t)at % CACHE_LINE_BYTES, 0);
        assert_true(is_zero(at, bytes));
        memset(at, 0xff, bytes);
        if (last) assert_true(at >= last + last_bytes && at < last + last_bytes + CACHE_LINE_BYTES);
        if (!first) first = at;
        last = at;
        last_bytes = bytes;
        count++;
    }
    while (count--)
        cpu_room_give_back(&dev, first); /* any of its bytes says which room */
    assert_null(dev.rooms);
}

/* What was given back is not given out again: it would not be zero. */
static void a_room_goes_with_its_last_matrix(void **state) {
    (void)state;
    kern_device dev = {0};
    uint8_t *a = cpu_room_take(&dev, 5000), *b = cpu_room_take(&dev, 5000);
    memset(a, 0xff, 5000);
    cpu_room_give_back(&dev, a);
    uint8_t *c = cpu_room_take(&dev, 5000);
    assert_true(c != a && is_zero(c, 5000));
    cpu_room_give_back(&dev, c);
    assert_non_null(dev.rooms);
    cpu_room_give_back(&dev, b);
    assert_null(dev.rooms);
}

/* Larger than any room, between small ones that go on in theirs. */
static void a_large_one_has_a_room_of_its_own(void **state) {
    (void)state;
    kern_device dev = {0};
    const size_t large = 80 << 20;
    uint8_t *a = cpu_room_take(&dev, 100), *b = cpu_room_take(&dev, large);
    uint8_t *c = cpu_room_take(&dev, 100);
    assert_true(a && b && c == a + 128);
    assert_true(b[0] == 0 && b[large - 1] == 0);
    cpu_room_give_back(&dev, b);
    cpu_room_give_back(&dev, c);
    cpu_room_give_back(&dev, a);
    assert_null(dev.rooms);
    assert_null(cpu_room_take(&dev, SIZE_MAX));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_ones_lie_side_by_side),
        cmocka_unit_test(a_room_goes_with_its_last_matrix),
        cmocka_unit_test(a_large_one_has_a_room_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
