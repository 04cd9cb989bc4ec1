/* test_metrics.c - the Prometheus page (text exposition format 0.0.4). */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/serve/metrics.h"

static char *page_of(const engine_stats *stats, const char *name) {
    metrics_input in = {.stats = stats,
                        .now_us = 5000000,
                        .calls = 3,
                        .serving = true,
                        .model = name,
                        .profile = "ref",
                        .version = "1.2.3"};
    size_t bytes;
    char *page = metrics_page(&in, &bytes);
    assert_int_equal(strlen(page), bytes);
    return page;
}

static void assert_line(const char *page, const char *line) {
    char whole[256];
    snprintf(whole, sizeof whole, "\n%s\n", line);
    if (!strstr(page, whole)) fail_msg("no line \"%s\"", line);
}

static void numbers_stand_under_their_names(void **state) {
    (void)state;
    engine_stats stats = {.waiting = 4,
                          .running = 2,
                          .pages_used = 17,
                          .pages_total = 100,
                          .prompt_tokens_total = 18446744073709551615u,
                          .output_tokens_total = 9};
    stats.finished_total[FINISH_CANCELLED] = 6;
    char *page = page_of(&stats, "m");
    assert_line(page, "espalier_requests_waiting 4");
    assert_line(page, "espalier_requests_running 2");
    assert_line(page, "espalier_kv_pages_used 17");
    assert_line(page, "espalier_kv_pages_total 100");
    assert_line(page, "espalier_prompt_tokens_total 18446744073709551615");
    assert_line(page, "espalier_output_tokens_total 9");
    assert_line(page, "espalier_requests_finished_total{reason=\"cancelled\"} 6");
    assert_line(page, "espalier_calls 3");
    assert_line(page, "espalier_serving 1");
    free(page);
}

/* Without --record there are no such numbers: 0 lost would be a promise. */
static void records_are_counted_where_there_are_any(void **state) {
    (void)state;
    engine_stats stats = {0};
    char *page = page_of(&stats, "m");
    assert_null(strstr(page, "records"));
    free(page);
    record_stats records = {.written = 12, .lost = 3};
    metrics_input in = {
        .stats = &stats, .model = "m", .profile = "ref", .version = "1", .records = &records};
    size_t bytes;
    page = metrics_page(&in, &bytes);
    assert_line(page, "espalier_records_total 12");
    assert_line(page, "espalier_records_lost_total 3");
    free(page);
}

/* Sums under the names that one engine has, and some numbers of each. */
static void replicas_are_told_apart_where_there_are_several(void **state) {
    (void)state;
    engine_stats sum = {.output_tokens_total = 12};
    metrics_replica of[] = {
        {.up = true, .stats = {.output_tokens_total = 5}},
        {.stats = {.output_tokens_total = 7, .step_running = true, .step_began_us = 1000000}}};
    metrics_input in = {.stats = &sum,
                        .replicas = of,
                        .replica_count = 2,
                        .now_us = 4000000,
                        .model = "m",
                        .profile = "ref",
                        .version = "1"};
    size_t bytes;
    char *page = metrics_page(&in, &bytes);
    assert_line(page, "espalier_output_tokens_total 12");
    assert_line(page, "espalier_replica_up{replica=\"0\"} 1");
    assert_line(page, "espalier_replica_up{replica=\"1\"} 0");
    assert_line(page, "espalier_replica_output_tokens_total{replica=\"0\"} 5");
    assert_line(page, "espalier_replica_output_tokens_total{replica=\"1\"} 7");
    assert_line(page, "espalier_step_age_seconds 3");
    free(page);
    in.replica_count = 1;
    page = metrics_page(&in, &bytes);
    assert_null(strstr(page, "replica"));
    free(page);
}

/* Buckets are cumulative; the last is +Inf and equals the count. */
static void histogram_buckets_add_up(void **state) {
    (void)state;
    engine_stats stats = {0};
    stats.ttft.count[0] = 1;
    stats.ttft.count[2] = 5;
    stats.ttft.count[HISTOGRAM_BUCKETS - 1] = 2;
    stats.ttft.sum = 1.5;
    char *page = page_of(&stats, "m");
    assert_line(page, "# TYPE espalier_time_to_first_token_seconds histogram");
    assert_line(page, "espalier_time_to_first_token_seconds_bucket{le=\"0.001\"} 1");
    assert_line(page, "espalier_time_to_first_token_seconds_bucket{le=\"0.003\"} 6");
    assert_line(page, "espalier_time_to_first_token_seconds_bucket{le=\"60\"} 6");
    assert_line(page, "espalier_time_to_first_token_seconds_bucket{le=\"+Inf\"} 8");
    assert_line(page, "espalier_time_to_first_token_seconds_sum 1.5");
    assert_line(page, "espalier_time_to_first_token_seconds_count 8");
    free(page);
}

/* "Label values ... backslash, double-quote and line feed have to be escaped." */
static void label_values_are_escaped(void **state) {
    (void)state;
    engine_stats stats = {0};
    char *page = page_of(&stats, "a\"b\\c\nd");
    assert_line(
        page, "espalier_build_info{version=\"1.2.3\",model=\"a\\\"b\\\\c\\nd\",profile=\"ref\"} 1");
    free(page);
}

/* Every sample line has a TYPE line of its name before it, and every TYPE stands once. */
static void each_metric_has_its_type_once(void **state) {
    (void)state;
    engine_stats stats = {0};
    char *page = page_of(&stats, "m"), *rest = page;
    uint32_t types = 0;
    for (char *line; (line = strsep(&rest, "\n")) && *line;) {
        if (strncmp(line, "# TYPE ", 7) != 0) continue;
        types++;
        char *name = line + 7, *again = rest ? strstr(rest, line) : NULL;
        assert_null(again);
        assert_ptr_equal(strstr(name, "espalier_"), name);
    }
    assert_in_range(types, 10, 100);
    free(page);
}

static void step_age_counts_only_while_there_is_work(void **state) {
    (void)state;
    engine_stats idle = {.last_step_us = 1000000};
    engine_stats stepping = {
        .step_running = true, .step_began_us = 2000000, .last_step_us = 1000000};
    engine_stats between = {.running = 1, .last_step_us = 4000000};
    assert_true(metrics_step_age(&idle, 9000000) == 0);
    assert_true(metrics_step_age(&stepping, 9000000) == 7.0);
    assert_true(metrics_step_age(&between, 9000000) == 5.0);
    assert_true(metrics_step_age(&stepping, 1000000) == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_stand_under_their_names),
        cmocka_unit_test(records_are_counted_where_there_are_any),
        cmocka_unit_test(replicas_are_told_apart_where_there_are_several),
        cmocka_unit_test(histogram_buckets_add_up),
        cmocka_unit_test(label_values_are_escaped),
        cmocka_unit_test(each_metric_has_its_type_once),
        cmocka_unit_test(step_age_counts_only_while_there_is_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
