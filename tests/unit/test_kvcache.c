/* test_kvcache.c - pages and tables. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kvcache/kvcache.h"

static kv_cache *open_cache(uint32_t pages, uint32_t groups) {
    kv_options options = {
        .page_count = pages, .group_count = groups, .table_count = 4, .table_pages_max = 8};
    kv_cache *kv;
    assert_int_equal(kv_open(&kv, &options, NULL), ESP_OK);
    assert_int_equal(kv_free_count(kv), pages);
    return kv;
}

static uint32_t pages_in(const kv_cache *kv, kv_table table) {
    uint32_t count;
    kv_pages(kv, table, 0, &count);
    return count;
}

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
    uint32_t count, first;
    assert_int_equal(kv_reserve(kv, 0, 16), ESP_OK);
    first = kv_pages(kv, 0, 0, &count)[0];
    assert_int_equal(kv_reserve(kv, 1, 16), ESP_OK);
    assert_int_equal(kv_reserve(kv, 0, 40), ESP_OK);
    const uint32_t *list = kv_pages(kv, 0, 0, &count);
    assert_int_equal(count, 3);
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
    uint32_t count, shared[2];
    assert_int_equal(kv_reserve(kv, 0, 40), ESP_OK);
    kv_share(kv, 0, 2, 32);
    kv_check(kv);
    assert_int_equal(kv_free_count(kv), 4);
    for (uint32_t group = 0; group < 2; group++) {
        shared[group] = kv_pages(kv, 2, group, &count)[1];
        assert_int_equal(count, 2);
        assert_int_equal(shared[group], kv_pages(kv, 0, group, &count)[1]);
    }
    assert_int_not_equal(shared[0], shared[1]);
    assert_int_equal(kv_reserve(kv, 2, 33), ESP_OK); /* its own third page */
    kv_check(kv);
    kv_release(kv, 0);
    kv_check(kv);
    assert_int_equal(kv_free_count(kv), 4);
    assert_int_equal(kv_pages(kv, 2, 1, &count)[1], shared[1]);
    kv_release(kv, 2);
    assert_int_equal(kv_free_count(kv), 10);
    kv_check(kv);
    kv_close(kv);
}

static void options_that_cannot_serve_are_refused_by_flag(void **state) {
    (void)state;
    const kv_options good = {
        .page_count = 1, .group_count = 1, .table_count = 1, .table_pages_max = 1};
    kv_options bad[5] = {good, good, good, good, good};
    const char *fields[] = {"--kv-memory", "", "", "--max-seqs", "--max-context"};
    bad[0].page_count = 0;
    bad[1].group_count = 0;
    bad[2].group_count = KV_GROUPS_MAX + 1;
    bad[3].table_count = 0;
    bad[4].table_pages_max = 0;
    for (int i = 0; i < 5; i++) {
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
                          .table_pages_max = UINT32_MAX};
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
        cmocka_unit_test(options_that_cannot_serve_are_refused_by_flag),
        cmocka_unit_test(absurd_table_sizes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
