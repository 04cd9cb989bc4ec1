/* test_mem.c - allocation, maps, arenas. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include <cmocka.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"

static void an_arena_gives_zeroed_aligned_memory_up_to_its_cap(void **state) {
    (void)state;
    mem_arena *arena = mem_arena_open(1000);
    unsigned char *last = NULL;
    for (int i = 0; i < 62; i++) { /* 62 x 16 = 992 bytes */
        unsigned char *p = mem_arena_take(arena, 1 + (size_t)i % 16);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 16, 0);
        assert_int_equal(p[0], 0);
        assert_ptr_not_equal(p, last);
        memset(p, 0xff, 16);
        last = p;
    }
    assert_int_equal(mem_arena_used(arena), 992);
    assert_null(mem_arena_take(arena, 1));
    assert_int_equal(mem_arena_used(arena), 992);
    mem_arena_close(arena);
}

/* A hostile length: padding it, or adding it to what is used, would wrap around. */
static void an_arena_refuses_lengths_that_overflow(void **state) {
    (void)state;
    mem_arena *arena = mem_arena_open(SIZE_MAX);
    assert_non_null(mem_arena_take(arena, 100));
    assert_null(mem_arena_take(arena, SIZE_MAX));
    assert_null(mem_arena_take(arena, SIZE_MAX - 64));
    assert_int_equal(mem_arena_used(arena), 112);
    mem_arena_close(arena);
    mem_arena_close(NULL);
}

static void an_arena_holds_pieces_larger_than_its_chunks(void **state) {
    (void)state;
    mem_arena *arena = mem_arena_open(10 << 20);
    char *small = mem_arena_take(arena, 10), *large = mem_arena_take(arena, 1 << 20);
    assert_non_null(large);
    memset(large, 1, 1 << 20);
    assert_int_equal(small[0], 0);
    assert_non_null(mem_arena_take(arena, 10));
    mem_arena_close(arena);
}

static void maps_are_zeroed_and_large_ones_lie_on_huge_page_borders(void **state) {
    (void)state;
    const size_t sizes[] = {1, 5000, (2 << 20), (2 << 20) + 1, (9 << 20) + 12345};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        unsigned char *p = mem_map(sizes[i]);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % (sizes[i] >= 2 << 20 ? 2 << 20 : 64), 0);
        assert_int_equal(p[0] | p[sizes[i] - 1], 0);
        p[0] = p[sizes[i] - 1] = 1;
        mem_unmap(p, sizes[i]);
    }
    mem_unmap(NULL, 1);
}

/* A process may be forbidden them whatever the system says. */
static void huge_pages_are_refused_with_a_reason(void **state) {
    (void)state;
    const char *why;
    bool allowed = mem_huge_pages(&why);
    assert_int_equal(allowed, !why);
    assert_int_equal(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), 0);
    assert_false(mem_huge_pages(&why));
    assert_non_null(why);
    assert_int_equal(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0), 0);
}

static void a_map_that_cannot_be_is_null(void **state) {
    (void)state;
    assert_null(mem_map(SIZE_MAX));
    assert_null(mem_map(SIZE_MAX - (1 << 20)));
    assert_null(mem_map((size_t)1 << 60));
}

static void text_is_copied_with_a_closing_nul(void **state) {
    (void)state;
    char *copy = mem_copy_text("abcdef", 3), *empty = mem_copy_text(NULL, 0);
    assert_string_equal(copy, "abc");
    assert_string_equal(empty, "");
    free(copy);
    free(empty);
}

/* The engine's allocation test rests on this counter. */
static void the_thread_counter_sees_an_allocation(void **state) {
    (void)state;
    uint64_t before = mem_thread_allocated();
    assert_true(mem_thread_allocated() == before);
    void *volatile p = malloc(10000);
    uint64_t taken = mem_thread_allocated() - before;
    free(p);
#ifdef ESPALIER_SANITIZED
    assert_true(taken == 0);
#else
    assert_true(taken >= 10000);
#endif
}

static void available_memory_is_some_and_not_absurd(void **state) {
    (void)state;
    uint64_t bytes = mem_available();
    assert_true(bytes > 1 << 20 && bytes < (uint64_t)1 << 50);
}

static void checked_arithmetic_refuses_what_overflows(void **state) {
    (void)state;
    uint64_t out = 7;
    assert_false(check_add(UINT64_MAX, 1, &out));
    assert_false(check_mul(UINT64_MAX / 2, 3, &out));
    assert_false(check_align(UINT64_MAX - 5, 64, &out));
    assert_true(out == 7);
    assert_true(check_align(65, 64, &out) && out == 128);
    assert_true(check_span(10, 20, 30));
    assert_false(check_span(10, 21, 30));
    assert_false(check_span(UINT64_MAX, 2, 30));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_arena_gives_zeroed_aligned_memory_up_to_its_cap),
        cmocka_unit_test(an_arena_refuses_lengths_that_overflow),
        cmocka_unit_test(an_arena_holds_pieces_larger_than_its_chunks),
        cmocka_unit_test(maps_are_zeroed_and_large_ones_lie_on_huge_page_borders),
        cmocka_unit_test(huge_pages_are_refused_with_a_reason),
        cmocka_unit_test(a_map_that_cannot_be_is_null),
        cmocka_unit_test(text_is_copied_with_a_closing_nul),
        cmocka_unit_test(the_thread_counter_sees_an_allocation),
        cmocka_unit_test(available_memory_is_some_and_not_absurd),
        cmocka_unit_test(checked_arithmetic_refuses_what_overflows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
