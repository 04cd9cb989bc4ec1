/* test_adapter_metrics.c - series by adapter: a bounded number, no counter that falls. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/serve/adapter_metrics.h"

static char *page_of(adapter_metrics *m, const adapter_info *infos, size_t count,
                     const adapters_stats *stats) {
    char *page = NULL;
    size_t bytes;
    adapters_stats none = {0};
    FILE *out = open_memstream(&page, &bytes);
    adapter_metrics_write(m, out, infos, count, stats ? stats : &none);
    fclose(out);
    char *copy = strdup(page); /* gcc takes what open_memstream gave for a pointer to `page` */
    free(page);
    return copy;
}

static double value(adapter_metrics *m, const char *series) {
    char *page = page_of(m, NULL, 0, NULL), line[256];
    snprintf(line, sizeof line, "\nespalier_adapter_%s ", series);
    const char *found = strstr(page, line);
    if (!found) fail_msg("no series %s", series);
    double out = strtod(found + strlen(line), NULL);
    free(page);
    return out;
}

static bool has(adapter_metrics *m, const char *name) {
    char *page = page_of(m, NULL, 0, NULL), line[256];
    snprintf(line, sizeof line, "requests_total{adapter=\"%s\"}", name);
    bool found = strstr(page, line) != NULL;
    free(page);
    return found;
}

static void count(adapter_metrics *m, const char *name, uint32_t prompt, uint32_t output,
                  int64_t now_us) {
    request r = {.prompt_count = prompt,
                 .submitted_us = 1,
                 .scheduled_us = 1,
                 .first_token_us = 1 + 4000,
                 .last_token_us = 1 + 4000 + 2500 * (int64_t)(output - 1),
                 .finish = FINISH_STOP};
    r.itl_count[histogram_bucket(2500)] = output - 1;
    atomic_init(&r.published, output);
    snprintf(r.by.name, sizeof r.by.name, "%s", name);
    adapter_metrics_count(m, &r, now_us);
}

static void count_many(adapter_metrics *m, const char *form, uint32_t first, uint32_t names,
                       uint32_t tokens) {
    for (uint32_t i = first; i < first + names; i++) {
        char name[32];
        snprintf(name, sizeof name, form, i);
        count(m, name, tokens, 1, 0);
    }
}

static void a_request_is_counted_under_its_adapter(void **state) {
    (void)state;
    adapter_metrics *m = adapter_metrics_open();
    count(m, "a", 10, 5, 0);
    count(m, "a", 20, 1, 0);
    count(m, "b", 1, 1, 0);
    count(m, "", 99, 99, 0); /* the base */
    assert_true(value(m, "requests_total{adapter=\"a\"}") == 2);
    assert_true(value(m, "prompt_tokens_total{adapter=\"a\"}") == 30);
    assert_true(value(m, "output_tokens_total{adapter=\"a\"}") == 6);
    assert_true(value(m, "time_to_first_token_seconds_bucket{adapter=\"a\",le=\"0.003\"}") == 0);
    assert_true(value(m, "time_to_first_token_seconds_bucket{adapter=\"a\",le=\"0.005\"}") == 2);
    assert_true(value(m, "time_to_first_token_seconds_sum{adapter=\"a\"}") == 0.008);
    assert_true(value(m, "inter_token_latency_seconds_count{adapter=\"a\"}") == 4);
    assert_true(value(m, "inter_token_latency_seconds_sum{adapter=\"a\"}") == 0.01);
    assert_true(value(m, "requests_total{adapter=\"b\"}") == 1);
    assert_true(value(m, "requests_total{adapter=\"other\"}") == 0);
    assert_false(has(m, ""));
    adapter_metrics_close(m);
}

static void failed_requests_are_errors_without_latencies(void **state) {
    (void)state;
    adapter_metrics *m = adapter_metrics_open();
    static const finish_reason ends[] = {FINISH_ERROR, FINISH_DEADLINE, FINISH_CANCELLED};
    for (uint32_t i = 0; i < 3; i++) {
        request r = {.prompt_count = 7, .submitted_us = 1, .finish = ends[i], .by = {.name = "a"}};
        adapter_metrics_count(m, &r, 0);
    }
    assert_true(value(m, "requests_total{adapter=\"a\"}") == 3);
    assert_true(value(m, "errors_total{adapter=\"a\"}") == 2);
    assert_true(value(m, "prompt_tokens_total{adapter=\"a\"}") == 0); /* none was computed */
    assert_true(value(m, "time_to_first_token_seconds_count{adapter=\"a\"}") == 0);
    adapter_metrics_close(m);
}

/* Ten thousand names: so many series, and the rest in one. */
static void the_number_of_series_is_bounded(void **state) {
    (void)state;
    adapter_metrics *m = adapter_metrics_open();
    count_many(m, "n%u", 0, 10000, 3);
    char *page = page_of(m, NULL, 0, NULL);
    uint32_t series = 0;
    for (char *at = page; (at = strstr(at, "requests_total{")); at++)
        series++;
    free(page);
    assert_int_equal(series, ADAPTER_METRICS_SHOWN + 1);
    assert_true(value(m, "requests_total{adapter=\"other\"}") == 10000 - ADAPTER_METRICS_SHOWN);
    adapter_metrics_close(m);
}

/* One that has twice the traffic of the least takes its place, beginning at 0; "other" keeps what it had,
 * and does not fall. Less than twice moves nobody. */
static void the_busiest_come_to_have_series(void **state) {
    (void)state;
    adapter_metrics *m = adapter_metrics_open();
    count_many(m, "n%02u", 0, ADAPTER_METRICS_SHOWN, 100);
    count(m, "n00", 900, 1, 0);
    count(m, "late", 150, 1, 0);
    assert_false(has(m, "late"));
    assert_true(value(m, "requests_total{adapter=\"other\"}") == 1);
    count(m, "late", 100, 1, 0);
    assert_true(has(m, "late"));
    assert_true(value(m, "requests_total{adapter=\"late\"}") == 1);
    assert_true(value(m, "prompt_tokens_total{adapter=\"late\"}") == 100);
    assert_true(value(m, "requests_total{adapter=\"other\"}") == 1);
    assert_true(has(m, "n00"));
    assert_false(has(m, "n01"));
    count(m, "n01", 100, 1, 0); /* it had 101: now 202, which is not twice */
    assert_false(has(m, "n01"));
    adapter_metrics_close(m);
}

/* Yesterday's busiest gives way to today's busy one. */
static void traffic_of_long_ago_counts_less(void **state) {
    (void)state;
    adapter_metrics *m = adapter_metrics_open();
    count_many(m, "n%02u", 0, ADAPTER_METRICS_SHOWN, 1000000);
    for (int64_t hour = 1; hour <= 4; hour++)
        for (int64_t ten = 0; ten < 6; ten++)
            count(m, "today", 10, 1, (hour * 6 + ten) * 600000000);
    assert_true(has(m, "today"));
    adapter_metrics_close(m);
}

/* A name that is the rest's. */
static void an_adapter_called_other_is_counted_there(void **state) {
    (void)state;
    adapter_metrics *m = adapter_metrics_open();
    count(m, "other", 5, 1, 0);
    char *page = page_of(m, NULL, 0, NULL);
    const char *first = strstr(page, "requests_total{adapter=\"other\"}");
    assert_non_null(first);
    assert_null(strstr(first + 1, "requests_total{adapter=\"other\"}"));
    free(page);
    assert_true(value(m, "requests_total{adapter=\"other\"}") == 1);
    adapter_metrics_close(m);
}

static uint64_t number(const char *page, const char *line) {
    const char *found = strstr(page, line);
    if (!found) fail_msg("no %s", line);
    return strtoull(found + strlen(line), NULL, 10);
}

/* Loads of versions add up, an unload sets nothing back, and what the shown ones have not is the rest's. */
static void moves_never_fall(void **state) {
    (void)state;
    adapter_metrics *m = adapter_metrics_open();
    count(m, "a", 5, 1, 0);
    adapter_info infos[3] = {{.name = "a", .version = 1, .loads = 4, .tier = ADAPTER_DEVICE},
                             {.name = "a", .version = 2, .loads = 1},
                             {.name = "b", .version = 1, .loads = 7, .evictions = 2}};
    adapters_stats stats = {.known = 3, .device = 1, .loads = 12, .evictions = 2};
    static const char mine[] = "loads_total{adapter=\"a\"} ",
                      rest[] = "loads_total{adapter=\"other\"} ";
    char *page = page_of(m, infos, 3, &stats);
    assert_int_equal(number(page, mine), 5);
    assert_int_equal(number(page, rest), 7);
    assert_int_equal(number(page, "evictions_total{adapter=\"other\"} "), 2);
    assert_int_equal(number(page, "adapter_tier{adapter=\"a\"} "), 2);
    assert_int_equal(number(page, "adapters{tier=\"disk\"} "), 2);
    free(page);
    infos[0].loads = 6;
    stats.loads = 14;
    page = page_of(m, infos, 3, &stats);
    assert_int_equal(number(page, mine), 7);
    assert_int_equal(number(page, rest), 7);
    free(page);
    page = page_of(m, infos + 1, 2, &stats); /* its first version is over */
    assert_int_equal(number(page, mine), 7);
    assert_int_equal(number(page, rest), 7);
    free(page);
    page = page_of(m, infos + 2, 1, &stats); /* unloaded */
    assert_int_equal(number(page, mine), 7);
    assert_null(strstr(page, "adapter_tier{adapter=\"a\"}"));
    free(page);
    infos[0].loads = 3; /* and loaded again */
    stats.loads = 17;
    page = page_of(m, infos, 1, &stats);
    assert_int_equal(number(page, mine), 10);
    assert_int_equal(number(page, rest), 7);
    free(page);
    adapter_metrics_close(m);
}

/* One falls, of which a version is left that did not move, beside one that rises: the moves are the latter's. */
static void who_falls_takes_no_moves_of_others(void **state) {
    (void)state;
    adapter_metrics *m = adapter_metrics_open();
    count(m, "a", 5, 1, 0);
    count(m, "b", 5, 1, 0);
    adapter_info infos[3] = {{.name = "a", .version = 1, .loads = 6},
                             {.name = "a", .version = 2, .loads = 1},
                             {.name = "b", .version = 1, .loads = 2}};
    adapters_stats stats = {.known = 3, .loads = 9};
    free(page_of(m, infos, 3, &stats));
    infos[2].loads = 3;
    stats.loads = 10;
    for (int i = 0; i < 2; i++) {
        char *page = page_of(m, infos + 1, 2, &stats);
        assert_int_equal(number(page, "loads_total{adapter=\"a\"} "), 7);
        assert_int_equal(number(page, "loads_total{adapter=\"b\"} "), 3);
        assert_int_equal(number(page, "loads_total{adapter=\"other\"} "), 0);
        free(page);
    }
    adapter_metrics_close(m);
}

/* What a page has told of under "other" is not told again when the name gets a series; what none has told
 * of is the name's. */
static void no_move_is_told_twice(void **state) {
    (void)state;
    adapter_metrics *m = adapter_metrics_open();
    adapter_info infos[2] = {{.name = "a", .version = 1, .loads = 2}, {.name = "b", .version = 1}};
    adapters_stats stats = {.known = 2, .loads = 2};
    static const char a[] = "loads_total{adapter=\"a\"} ", b[] = "loads_total{adapter=\"b\"} ",
                      rest[] = "loads_total{adapter=\"other\"} ";
    char *page = page_of(m, infos, 2, &stats);
    assert_int_equal(number(page, rest), 2);
    free(page);
    count(m, "a", 5, 1, 0);
    count(m, "b", 5, 1, 0);
    infos[1].loads = 3;
    stats.loads = 5;
    page = page_of(m, infos, 2, &stats);
    assert_int_equal(number(page, a) + number(page, b), 3);
    assert_int_equal(number(page, rest), 2);
    free(page);
    infos[0].loads = 3;
    stats.loads = 6;
    page = page_of(m, infos, 2, &stats);
    assert_int_equal(number(page, a) + number(page, b), 4);
    assert_int_equal(number(page, rest), 2);
    free(page);
    adapter_metrics_close(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_is_counted_under_its_adapter),
        cmocka_unit_test(failed_requests_are_errors_without_latencies),
        cmocka_unit_test(the_number_of_series_is_bounded),
        cmocka_unit_test(the_busiest_come_to_have_series),
        cmocka_unit_test(traffic_of_long_ago_counts_less),
        cmocka_unit_test(an_adapter_called_other_is_counted_there),
        cmocka_unit_test(moves_never_fall),
        cmocka_unit_test(who_falls_takes_no_moves_of_others),
        cmocka_unit_test(no_move_is_told_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
