/* test_huge.c - what the kernel says of huge pages. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "engine/base/huge.h"

enum { BYTES = 4 * HUGE_PAGE_BYTES };

static uint8_t *map_touched(int advice) {
    uint8_t *at = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(at != MAP_FAILED);
    madvise(at, BYTES, advice);
    memset(at, 1, BYTES);
    return at;
}

static void memory_that_refuses_huge_pages_has_none(void **state) {
    (void)state;
    uint8_t *at = map_touched(MADV_NOHUGEPAGE);
    assert_int_equal(huge_bytes(at + BYTES / 2), 0);
    munmap(at, BYTES);
}

/* However many it was given: they are whole, and its own only. */
static void memory_that_asks_has_whole_ones(void **state) {
    (void)state;
    uint8_t *refuses = map_touched(MADV_NOHUGEPAGE), *at = map_touched(MADV_HUGEPAGE);
    uint64_t seen = huge_bytes(at + BYTES / 2);
    assert_true(seen <= BYTES && seen % HUGE_PAGE_BYTES == 0);
    if (!huge_is_allowed()) assert_int_equal(seen, 0);
    assert_int_equal(huge_bytes(refuses), 0);
    munmap(at, BYTES);
    munmap(refuses, BYTES);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_that_refuses_huge_pages_has_none),
        cmocka_unit_test(memory_that_asks_has_whole_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
