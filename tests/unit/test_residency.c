/* test_residency.c - what goes first out of a tier. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/adapters/residency.h"

enum { MB = 1 << 20 };

static double used(residency_level *level, uint32_t times, uint64_t bytes) {
    residency_use use = {0};
    for (uint32_t i = 0; i < times; i++)
        residency_note(level, &use, RESIDENCY_FROM_DISK, bytes);
    return use.value;
}

static void the_more_often_used_stays(void **state) {
    (void)state;
    residency_level level = {0};
    assert_true(used(&level, 3, MB) > used(&level, 2, MB));
    assert_true(used(&level, 5000, MB) == used(&level, RESIDENCY_USES_MAX, MB));
}

/* A small one costs nearly the same start as a large one, for less room. */
static void of_the_equally_used_the_small_one_stays(void **state) {
    (void)state;
    residency_level level = {0};
    assert_true(used(&level, 1, MB) > used(&level, 1, 20 * MB));
}

/* Used a thousand times, then never again: others that come and go, each used once, raise the level until
 * it is the least. */
static void what_was_used_once_upon_a_time_goes_in_the_end(void **state) {
    (void)state;
    residency_level level = {0};
    residency_use old = {0};
    for (int i = 0; i < 1000; i++)
        residency_note(&level, &old, RESIDENCY_FROM_HOST, MB);
    uint32_t passed = 0;
    for (residency_use other; passed < 100000; passed++) {
        other = (residency_use){0};
        residency_note(&level, &other, RESIDENCY_FROM_HOST, MB);
        if (other.value > old.value) break;
        residency_leave(&level, &other);
        assert_int_equal(other.uses, 0);
    }
    assert_true(passed > 10 && passed < 2000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_more_often_used_stays),
        cmocka_unit_test(of_the_equally_used_the_small_one_stays),
        cmocka_unit_test(what_was_used_once_upon_a_time_goes_in_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
