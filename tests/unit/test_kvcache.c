/* test_kvcache.c - pages and tables. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kvcache/kvcache.h"

/* The second group, if there is one, sees `window` tokens; 0: all. A step writes 16 tokens. */
static kv_cache *open_windowed(uint32_t pages, uint32_t groups, uint32_t window) {
    kv_options options = {.page_count = pages,
                          .group_count = groups,
                          .table_count = 4,
                          .table_pages_max = 8,
                          .step_tokens = 16,
                          .windows = {0, window}};
    kv_cache *kv;
    assert_int_equal(kv_open(&kv, &options, NULL), ESP_OK);
    assert_int_equal(kv_free_count(kv), pages);
    return kv;
}

static kv_cache *open_cache(uint32_t pages, uint32_t groups) {
    return open_windowed(pages, groups, 0);
}

static uint32_t pages_in(const kv_cache *kv, kv_table table) { return kv_pages(kv, table, 0).end; }

/* 16 tokens a page: the 17th needs the second one. */
static void a_table_grows_by_whole_pages(void **state) {
    (void)state;
    kv_cache *kv = open_cache(10, 1);
    const struct {
        uint32_t tokens, pages;
    } cases[] = {{0, 0}, {1, 1}, {16, 1}, {17, 2}, {5, 2}, {128, 8}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(kv_reserve(kv, 1, cases[i].tokens), ESP_OK);
        assert_int_equal(pages_in(kv, 1), cases[i].pages);
        kv_check(kv);
    }
    assert_int_equal(kv_free_count(kv), 2);
    kv_release(kv, 1);
    assert_int_equal(kv_free_count(kv), 10);
    kv_check(kv);
    kv_close(kv);
}

/* Growing must not move what is already written: the first pages stay the first pages. */
static void growth_keeps_the_pages_there_are(void **state) {
    (void)state;
    kv_cache *kv = open_cache(10, 1);
    assert_int_equal(kv_reserve(kv, 0, 16), ESP_OK);
    uint32_t first = kv_pages(kv, 0, 0).pages[0];
    assert_int_equal(kv_reserve(kv, 1, 16), ESP_OK);
    assert_int_equal(kv_reserve(kv, 0, 40), ESP_OK);
    assert_int_equal(pages_in(kv, 0), 3);
    const uint32_t *list = kv_pages(kv, 0, 0).pages;
    assert_int_equal(list[0], first);
    assert_true(list[0] != list[1] && list[1] != list[2] && list[0] != list[2]);
    kv_close(kv);
}

/* Two groups: each page of tokens costs two frames. 5 free ones hold two, not three. */
static void exhaustion_leaves_the_table_as_it_was(void **state) {
    (void)state;
    kv_cache *kv = open_cache(5, 2);
    assert_int_equal(kv_pages_for(kv, 33), 6);
    assert_int_equal(kv_reserve(kv, 0, 16), ESP_OK);
    assert_int_equal(kv_reserve(kv, 0, 48), ESP_EXHAUSTED);
    assert_int_equal(pages_in(kv, 0), 1);
    assert_int_equal(kv_free_count(kv), 3);
    kv_check(kv);
    assert_int_equal(kv_reserve(kv, 0, 32), ESP_OK);
    assert_int_equal(kv_free_count(kv), 1);
    kv_check(kv);
    kv_close(kv);
}

/* `from` ends first; its full pages live on in `to` until that one ends too. */
static void shared_pages_are_freed_by_the_last_holder(void **state) {
    (void)state;
    kv_cache *kv = open_cache(10, 2);
    uint32_t shared[2];
    assert_int_equal(kv_reserve(kv, 0, 40), ESP_OK);
    kv_slide(kv, 0, 40);
    assert_true(kv_share(kv, 0, 2, 32));
    kv_check(kv);
    assert_int_equal(kv_free_count(kv), 4);
    for (uint32_t group = 0; group < 2; group++) {
        kv_list list = kv_pages(kv, 2, group);
        shared[group] = list.pages[1];
        assert_int_equal(list.end, 2);
        assert_int_equal(shared[group], kv_pages(kv, 0, group).pages[1]);
    }
    assert_int_not_equal(shared[0], shared[1]);
    assert_int_equal(kv_reserve(kv, 2, 33), ESP_OK); /* its own third page */
    kv_check(kv);
    kv_release(kv, 0);
    kv_check(kv);
    assert_int_equal(kv_free_count(kv), 4);
    assert_int_equal(kv_pages(kv, 2, 1).pages[1], shared[1]);
    kv_release(kv, 2);
    assert_int_equal(kv_free_count(kv), 10);
    kv_check(kv);
    kv_close(kv);
}

/* A list as text: "." for each page freed, "x" for each held. */
static void assert_list(const kv_cache *kv, uint32_t group, const char *wanted) {
    char seen[16] = "";
    kv_list list = kv_pages(kv, 0, group);
    for (uint32_t i = 0; i < list.end; i++) {
        assert_true((i < list.begin) == (list.pages[i] == KV_PAGE_NONE));
        seen[i] = i < list.begin ? '.' : 'x';
    }
    assert_string_equal(seen, wanted);
    kv_check(kv);
}

/* A window of 20: the token at 34 is the last that sees position 15, so page 0 goes when the next
 * one is 35. The other group keeps everything. */
static void pages_behind_the_window_are_freed(void **state) {
    (void)state;
    kv_cache *kv = open_windowed(16, 2, 20);
    const struct {
        uint32_t next;
        const char *window, *all;
    } cases[] = {{16, "xx", "xx"},
                 {34, "xxx", "xxx"},
                 {35, ".xx", "xxx"},
                 {50, ".xxx", "xxxx"},
                 {51, "..xx", "xxxx"},
                 {66, "..xxx", "xxxxx"},
                 {82, "...xxx", "xxxxxx"},
                 {98, "....xxx", "xxxxxxx"},
                 {114, ".....xxx", "xxxxxxxx"},
                 {127, "......xx", "xxxxxxxx"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(kv_reserve(kv, 0, cases[i].next + 1), ESP_OK);
        kv_slide(kv, 0, cases[i].next);
        assert_list(kv, 0, cases[i].all);
        assert_list(kv, 1, cases[i].window);
    }
    assert_int_equal(kv_free_count(kv), 16 - 8 - 2);
    kv_release(kv, 0);
    assert_int_equal(kv_free_count(kv), 16);
    kv_check(kv);
    kv_close(kv);
}

/* 100 tokens are wanted, 16 a step: the window group takes what 19 tokens before a chunk and its 16
 * can touch, four pages at most, and moves on; the number held never grows. */
static void a_window_group_holds_what_a_step_can_touch(void **state) {
    (void)state;
    kv_cache *kv = open_windowed(16, 2, 20);
    assert_int_equal(kv_group_pages(0, 16, 100), 7);
    assert_int_equal(kv_group_pages(20, 16, 100), 4);
    assert_int_equal(kv_group_pages(20, 16, 40), 3);
    assert_int_equal(kv_group_pages(1, 1, 100), 1);
    assert_int_equal(kv_group_pages(2, 1, 100), 2);
    assert_int_equal(kv_group_pages(UINT32_MAX, UINT32_MAX, UINT32_MAX), 1u << 28);
    assert_int_equal(kv_pages_for(kv, 100), 11);
    const char *lists[] = {"xxxx", "xxxx", "xxxx", ".xxxx", "..xxxx", "...xxxx"};
    for (uint32_t step = 0; step < 6; step++) {
        kv_slide(kv, 0, step * 16);
        assert_int_equal(kv_reserve(kv, 0, 100), ESP_OK);
        assert_list(kv, 0, "xxxxxxx");
        assert_list(kv, 1, lists[step]);
    }
    kv_close(kv);
}

/* Two pages are free, the groups want two and one more: neither gets any. */
static void exhaustion_leaves_windows_as_they_were(void **state) {
    (void)state;
    kv_cache *kv = open_windowed(8, 2, 20);
    assert_int_equal(kv_reserve(kv, 0, 48), ESP_OK);
    assert_int_equal(kv_reserve(kv, 0, 80), ESP_EXHAUSTED);
    assert_list(kv, 1, "xxx");
    kv_slide(kv, 0, 40); /* frees one */
    assert_int_equal(kv_reserve(kv, 0, 64), ESP_OK);
    assert_list(kv, 0, "xxxx");
    assert_list(kv, 1, ".xxx");
    assert_int_equal(kv_free_count(kv), 1);
    kv_close(kv);
}

/* Computed anew from the start, a table needs pages that it has freed: it begins again there, and
 * keeps what still fits. */
static void going_back_drops_a_window_that_moved(void **state) {
    (void)state;
    kv_cache *kv = open_windowed(16, 2, 20);
    assert_int_equal(kv_reserve(kv, 0, 30), ESP_OK);
    kv_slide(kv, 0, 30);
    kv_slide(kv, 0, 0);
    assert_list(kv, 1, "xx"); /* nothing was freed yet */
    assert_int_equal(kv_reserve(kv, 0, 60), ESP_OK);
    kv_slide(kv, 0, 60);
    assert_list(kv, 1, "..xx");
    kv_slide(kv, 0, 0);
    assert_list(kv, 0, "xxxx");
    assert_list(kv, 1, "");
    assert_int_equal(kv_reserve(kv, 0, 60), ESP_OK);
    assert_list(kv, 1, "xxxx");
    kv_close(kv);
}

/* What a new sequence at 32 reads lies from 13 on. As long as `from` has that, both share it; at 36
 * its window has left page 0 behind. */
static void a_prefix_is_shared_while_its_window_is_there(void **state) {
    (void)state;
    kv_cache *kv = open_windowed(16, 2, 20);
    assert_int_equal(kv_reserve(kv, 0, 50), ESP_OK);
    kv_slide(kv, 0, 34);
    assert_true(kv_share(kv, 0, 1, 32));
    assert_int_equal(kv_pages(kv, 1, 1).pages[0], kv_pages(kv, 0, 1).pages[0]);
    kv_check(kv);
    kv_slide(kv, 0, 36);
    kv_check(kv);
    assert_false(kv_share(kv, 0, 2, 32));
    kv_slide(kv, 0, 50);
    assert_true(kv_share(kv, 0, 2, 48)); /* reads from 29 on: page 0 is not needed */
    assert_int_equal(kv_pages(kv, 2, 1).begin, 1);
    assert_int_equal(kv_pages(kv, 2, 1).pages[0], KV_PAGE_NONE);
    kv_check(kv);
    for (kv_table table = 0; table < 3; table++)
        kv_release(kv, table);
    assert_int_equal(kv_free_count(kv), 16);
    kv_check(kv);
    kv_close(kv);
}

/* Leased frames are no page of anybody until they are returned. */
static void frames_are_leased_all_or_none(void **state) {
    (void)state;
    kv_cache *kv = open_cache(10, 1);
    uint32_t frames[10];
    assert_int_equal(kv_reserve(kv, 0, 64), ESP_OK);
    assert_false(kv_lease(kv, 7, frames));
    assert_int_equal(kv_free_count(kv), 6);
    assert_true(kv_lease(kv, 5, frames));
    kv_check(kv);
    assert_int_equal(kv_leased_count(kv), 5);
    assert_int_equal(kv_reserve(kv, 1, 17), ESP_EXHAUSTED);
    for (uint32_t i = 0; i < 5; i++)
        for (uint32_t j = 0; j < 4; j++)
            assert_int_not_equal(frames[i], kv_pages(kv, 0, 0).pages[j]);
    kv_return(kv, 2, frames + 3);
    kv_check(kv);
    assert_int_equal(kv_reserve(kv, 1, 33), ESP_OK);
    kv_return(kv, 3, frames);
    kv_release(kv, 0);
    kv_release(kv, 1);
    kv_check(kv);
    assert_int_equal(kv_free_count(kv), 10);
    assert_int_equal(kv_leased_count(kv), 0);
    kv_close(kv);
}

/* Tables and leases take and give at random; the books are right after each, and a frame that is leased
 * stays so, however pages come and go around it. */
static void random_leases_and_tables_keep_the_books(void **state) {
    (void)state;
    enum { LEASES = 6, MOST = 5 };
    kv_cache *kv = open_windowed(40, 2, 20);
    uint32_t frames[LEASES][MOST], counts[LEASES] = {0}, next[4] = {0};
    uint64_t random = 88172645463325252ull;
    for (uint32_t step = 0; step < 20000; step++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        uint32_t i = (uint32_t)(random >> 8) % LEASES, table = (uint32_t)(random >> 16) % 4;
        uint32_t wanted = 1 + (uint32_t)(random >> 24) % MOST;
        if (random % 4 == 0 && counts[i] == 0) {
            uint32_t free_before = kv_free_count(kv);
            bool leased = kv_lease(kv, wanted, frames[i]);
            assert_int_equal(leased, wanted <= free_before);
            counts[i] = leased ? wanted : 0;
        } else if (random % 4 == 1) {
            kv_return(kv, counts[i], frames[i]);
            counts[i] = 0;
        } else if (random % 4 == 2 && next[table] < 112) {
            if (kv_reserve(kv, table, next[table] + 16) != ESP_OK) continue;
            next[table] += 16;
            kv_slide(kv, table, next[table]);
        } else if (random % 4 == 3 && random % 5 == 0) {
            kv_release(kv, table);
            next[table] = 0;
        }
        kv_check(kv);
        uint32_t leased = 0;
        for (uint32_t l = 0; l < LEASES; l++)
            leased += counts[l];
        assert_int_equal(kv_leased_count(kv), leased);
    }
    kv_close(kv);
}

static void options_that_cannot_serve_are_refused_by_flag(void **state) {
    (void)state;
    const kv_options good = {.page_count = 1,
                             .group_count = 1,
                             .table_count = 1,
                             .table_pages_max = 1,
                             .step_tokens = 1};
    kv_options bad[6] = {good, good, good, good, good, good};
    const char *fields[] = {"--kv-memory", "", "", "--max-seqs", "--max-context", "--step-tokens"};
    bad[0].page_count = 0;
    bad[1].group_count = 0;
    bad[2].group_count = KV_GROUPS_MAX + 1;
    bad[3].table_count = 0;
    bad[4].table_pages_max = 0;
    bad[5].step_tokens = 0;
    for (int i = 0; i < 6; i++) {
        kv_cache *kv;
        esp_error err;
        assert_int_equal(kv_open(&kv, &bad[i], &err), ESP_INVALID);
        assert_string_equal(err.field, fields[i]);
        assert_null(kv);
    }
    kv_close(NULL);
}

/* 2^32 tables of 2^32 pages: the size must not wrap around to something small. */
static void absurd_table_sizes_are_refused(void **state) {
    (void)state;
    kv_options options = {.page_count = 1,
                          .group_count = 4,
                          .table_count = UINT32_MAX,
                          .table_pages_max = UINT32_MAX,
                          .step_tokens = 1};
    kv_cache *kv;
    esp_error err;
    assert_int_equal(kv_open(&kv, &options, &err), ESP_EXHAUSTED);
    assert_null(kv);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_table_grows_by_whole_pages),
        cmocka_unit_test(growth_keeps_the_pages_there_are),
        cmocka_unit_test(exhaustion_leaves_the_table_as_it_was),
        cmocka_unit_test(shared_pages_are_freed_by_the_last_holder),
        cmocka_unit_test(pages_behind_the_window_are_freed),
        cmocka_unit_test(a_window_group_holds_what_a_step_can_touch),
        cmocka_unit_test(exhaustion_leaves_windows_as_they_were),
        cmocka_unit_test(going_back_drops_a_window_that_moved),
        cmocka_unit_test(a_prefix_is_shared_while_its_window_is_there),
        cmocka_unit_test(frames_are_leased_all_or_none),
        cmocka_unit_test(random_leases_and_tables_keep_the_books),
        cmocka_unit_test(options_that_cannot_serve_are_refused_by_flag),
        cmocka_unit_test(absurd_table_sizes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
