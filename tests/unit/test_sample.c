/* test_sample.c - each policy against a slow and plain reading of sample.h. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/sample.h"

enum { SMALL = 8, LARGE = 1003, POSITIONS = 40000 };

static const sample_history no_history = {0};

/* Rows of logits that are the same in every run. */
static uint32_t random_state = 1;

static uint32_t random_below(uint32_t bound) {
    random_state = random_state * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)random_state * bound >> 32);
}

static float random_logit(void) { return (float)random_below(1u << 20) * 0x1p-16f - 8.0f; }

static sample_scratch *open_scratch(uint32_t vocab) {
    sample_scratch *s = NULL;
    assert_int_equal(sample_scratch_open(&s, vocab, NULL), ESP_OK);
    return s;
}

static int32_t pick(sample_scratch *s, const sample_policy *p, const sample_history *h,
                    const float *logits, uint32_t position) {
    sample_result r;
    assert_int_equal(sample_pick(s, p, h, logits, position, &r, NULL), ESP_OK);
    return r.id;
}

/* ---- greedy ---- */

/* Two equal largest logits, in different vector lanes: the lowest id wins, at every place. */
static void greedy_ties_go_to_the_lowest_id(void **state) {
    (void)state;
    sample_scratch *s = open_scratch(LARGE);
    float logits[LARGE];
    sample_policy p = {0};
    for (uint32_t first = 0; first < LARGE - 1; first++) {
        for (uint32_t i = 0; i < LARGE; i++)
            logits[i] = -1.0f - (float)i;
        uint32_t second = first + 1 + random_below(LARGE - first - 1);
        logits[first] = logits[second] = 3.5f;
        assert_int_equal(pick(s, &p, &no_history, logits, 0), first);
    }
    sample_scratch_close(s);
}

/* NaN and both infinities around one finite logit. */
static void values_that_are_not_finite_are_never_picked(void **state) {
    (void)state;
    sample_scratch *s = open_scratch(SMALL);
    float logits[SMALL] = {NAN, INFINITY, -INFINITY, NAN, -3e38f, INFINITY, NAN, -INFINITY};
    sample_policy policies[] = {{.temperature = 0},
                                {.temperature = 1},
                                {.temperature = 1, .top_k = 3},
                                {.temperature = 1, .top_p = 0.5f},
                                {.temperature = 10, .min_p = 0.01f, .repetition_penalty = 2}};
    for (uint32_t i = 0; i < sizeof policies / sizeof *policies; i++)
        assert_int_equal(pick(s, &policies[i], &no_history, logits, i), 4);
    sample_scratch_close(s);
}

/* A broken backend gives only NaN and infinities: the request ends with a sentence, not with a
 * token. */
static void no_finite_logit_is_an_internal_error(void **state) {
    (void)state;
    sample_scratch *s = open_scratch(4);
    float logits[4] = {NAN, INFINITY, -INFINITY, NAN};
    sample_policy p = {.temperature = 1};
    sample_result r;
    esp_error err = {0};
    assert_int_equal(sample_pick(s, &p, &no_history, logits, 7, &r, &err), ESP_INTERNAL);
    assert_non_null(strstr(err.message, "position 7"));
    sample_scratch_close(s);
}

/* ---- logprobs ---- */

/* Against exp and log of the C library in double. */
static void logprobs_are_the_log_softmax_of_the_raw_logits(void **state) {
    (void)state;
    sample_scratch *s = open_scratch(LARGE);
    float logits[LARGE];
    for (uint32_t i = 0; i < LARGE; i++)
        logits[i] = random_logit();
    double sum = 0;
    for (uint32_t i = 0; i < LARGE; i++)
        sum += exp((double)logits[i]);

    /* Whatever the policy does to the scores. */
    sample_bias bias = {.id = 17, .bias = 100};
    sample_policy p = {.temperature = 0.5f, .bias = &bias, .bias_count = 1, .top_logprobs = 20};
    sample_result r;
    assert_int_equal(sample_pick(s, &p, &no_history, logits, 3, &r, NULL), ESP_OK);
    assert_int_equal(r.id, 17);
    assert_true(fabs((double)r.logprob - ((double)logits[17] - log(sum))) < 1e-5);
    assert_int_equal(r.top_count, 20);
    for (uint32_t i = 0; i < r.top_count; i++) {
        uint32_t ahead = 0; /* tokens that must stand before this one */
        for (int32_t id = 0; id < LARGE; id++)
            ahead += logits[id] > logits[r.top[i].id] ||
                     (logits[id] == logits[r.top[i].id] && id < r.top[i].id);
        assert_int_equal(ahead, i);
        assert_true(fabs((double)r.top[i].logprob - ((double)logits[r.top[i].id] - log(sum))) <
                    1e-5);
    }
    sample_scratch_close(s);
}

/* top_logprobs 0 and logprobs false cost nothing and give zeros. */
static void logprobs_are_zero_unless_wanted(void **state) {
    (void)state;
    sample_scratch *s = open_scratch(3);
    float logits[3] = {0, 1, 2};
    sample_policy p = {0};
    sample_result r;
    assert_int_equal(sample_pick(s, &p, &no_history, logits, 0, &r, NULL), ESP_OK);
    assert_true(r.logprob == 0.0f && r.top_count == 0);
    p.logprobs = true;
    assert_int_equal(sample_pick(s, &p, &no_history, logits, 0, &r, NULL), ESP_OK);
    assert_true(fabs((double)r.logprob + 0.40760596) < 1e-6);
    assert_int_equal(r.top_count, 0);
    sample_scratch_close(s);
}

/* ---- distributions ---- */

static const float small_logits[SMALL] = {1.5f, -0.5f, 2.0f, 0.0f, 1.0f, -2.0f, 2.0f, 0.25f};

/* The distribution that sample.h describes, by sorting everything, in double. */
static void expected_distribution(const float *logits, uint32_t vocab, const sample_policy *p,
                                  double *probability) {
    uint32_t order[LARGE];
    for (uint32_t i = 0; i < vocab; i++)
        order[i] = i;
    for (uint32_t i = 1; i < vocab; i++) /* insertion sort: stable, so ties stay in id order */
        for (uint32_t j = i; j > 0 && logits[order[j]] > logits[order[j - 1]]; j--) {
            uint32_t swap = order[j];
            order[j] = order[j - 1], order[j - 1] = swap;
        }
    double best = (double)logits[order[0]], sum = 0, passed = 0, kept = 0;
    uint32_t k = p->top_k && p->top_k < vocab ? p->top_k : vocab;
    memset(probability, 0, vocab * sizeof *probability);
    for (uint32_t i = 0; i < k; i++)
        sum += exp(((double)logits[order[i]] - best) / (double)p->temperature);
    double top_p = p->top_p == 0 ? 1 : (double)p->top_p;
    for (uint32_t i = 0; i < k && passed < top_p * sum; i++) {
        double w = exp(((double)logits[order[i]] - best) / (double)p->temperature);
        if (w < (double)p->min_p) break;
        passed += w;
        probability[order[i]] = w;
    }
    for (uint32_t i = 0; i < vocab; i++)
        kept += probability[i];
    for (uint32_t i = 0; i < vocab; i++)
        probability[i] /= kept;
}

/* Picks at many positions; a token outside the expected head fails at once, the counts of the
 * others by chi-square at 0.0001 (the critical values: degrees of freedom 1 to 7). */
static void check_distribution(const sample_policy *p) {
    static const double critical[SMALL] = {0, 15.14, 18.42, 21.11, 23.51, 25.74, 27.86, 29.88};
    sample_scratch *s = open_scratch(SMALL);
    double probability[SMALL];
    uint32_t seen[SMALL] = {0}, freedom = 0;
    expected_distribution(small_logits, SMALL, p, probability);
    for (uint32_t i = 0; i < POSITIONS; i++)
        seen[pick(s, p, &no_history, small_logits, i)]++;
    double chi_square = 0;
    for (uint32_t i = 0; i < SMALL; i++) {
        double wanted = probability[i] * POSITIONS;
        if (wanted == 0) {
            assert_int_equal(seen[i], 0);
            continue;
        }
        chi_square += (seen[i] - wanted) * (seen[i] - wanted) / wanted;
        freedom++;
    }
    assert_true(freedom == 1 ? chi_square == 0 : chi_square < critical[freedom - 1]);
    sample_scratch_close(s);
}

static void picks_follow_the_softmax(void **state) {
    (void)state;
    check_distribution(&(sample_policy){.temperature = 1, .seed = 1});
    check_distribution(&(sample_policy){.temperature = 0.25f, .seed = 2});
    check_distribution(&(sample_policy){.temperature = 10, .seed = 0xffffffffffffffffull});
}

static void top_k_keeps_the_k_likeliest(void **state) {
    (void)state;
    for (uint32_t k = 1; k <= SMALL + 1; k++)
        check_distribution(&(sample_policy){.temperature = 1, .top_k = k, .seed = k});
}

static void top_p_keeps_the_shortest_head_that_reaches_p(void **state) {
    (void)state;
    const float values[] = {1e-6f, 0.2f, 0.3f, 0.5f, 0.75f, 0.9f, 0.99f, 0.99999f, 1};
    for (uint32_t i = 0; i < sizeof values / sizeof *values; i++)
        check_distribution(&(sample_policy){.temperature = 1, .top_p = values[i], .seed = i});
}

static void min_p_keeps_what_is_near_the_likeliest(void **state) {
    (void)state;
    const float values[] = {1e-6f, 0.02f, 0.1f, 0.3f, 0.6f, 1};
    for (uint32_t i = 0; i < sizeof values / sizeof *values; i++)
        check_distribution(&(sample_policy){.temperature = 1, .min_p = values[i], .seed = i});
}

static void filters_combine_in_the_documented_order(void **state) {
    (void)state;
    check_distribution(&(sample_policy){.temperature = 2, .top_k = 5, .top_p = 0.7f, .seed = 3});
    check_distribution(
        &(sample_policy){.temperature = 2, .top_p = 0.95f, .min_p = 0.3f, .seed = 4});
    check_distribution(
        &(sample_policy){.temperature = 3, .top_k = 6, .top_p = 0.9f, .min_p = 0.2f, .seed = 5});
}

/* Large rows, where the partial selection does its work: every pick lies in the head that a full
 * sort gives (weights so near the border that float and double may differ are left out). */
static void picks_from_large_rows_lie_in_the_sorted_head(void **state) {
    (void)state;
    sample_scratch *s = open_scratch(LARGE);
    static float logits[LARGE];
    static double probability[LARGE];
    for (uint32_t round = 0; round < 200; round++) {
        for (uint32_t i = 0; i < LARGE; i++)
            logits[i] = random_logit();
        sample_policy p = {.temperature = 0.1f + (float)random_below(30) * 0.1f, .seed = round};
        if (round % 2) p.top_k = 1 + random_below(LARGE);
        if (round % 3) p.top_p = 0.01f + (float)random_below(99) * 0.01f;
        if (round % 5 == 0) p.min_p = (float)random_below(100) * 0.01f;
        expected_distribution(logits, LARGE, &p, probability);
        for (uint32_t position = 0; position < 50; position++)
            assert_true(probability[pick(s, &p, &no_history, logits, position)] > 0);
    }
    sample_scratch_close(s);
}

/* All logits equal: the head is as long as top-p says, lowest ids first. */
static void a_flat_row_is_cut_by_id(void **state) {
    (void)state;
    sample_scratch *s = open_scratch(LARGE);
    float logits[LARGE] = {0};
    sample_policy p = {.temperature = 1, .top_p = 0.1f};
    int32_t highest = 0;
    for (uint32_t i = 0; i < 5000; i++) {
        int32_t id = pick(s, &p, &no_history, logits, i);
        if (id > highest) highest = id;
    }
    assert_int_equal(highest, 100); /* 101 of 1003 tokens are the first to weigh a tenth */
    p = (sample_policy){.temperature = 1, .top_k = 2};
    for (uint32_t i = 0; i < 100; i++)
        assert_true(pick(s, &p, &no_history, logits, i) < 2);
    sample_scratch_close(s);
}

/* ---- seeds ---- */

/* The noise is a function of seed and position: not of what was picked before, nor of the scratch.
 */
static void a_pick_depends_on_seed_and_position_alone(void **state) {
    (void)state;
    sample_scratch *a = open_scratch(SMALL), *b = open_scratch(SMALL);
    sample_policy p = {.temperature = 5, .seed = 42}, q = {.temperature = 5, .seed = 43};
    uint32_t differ_by_seed = 0, differ_by_position = 0;
    for (uint32_t i = 1000; i-- > 0;)
        pick(b, &q, &no_history, small_logits, i);
    for (uint32_t i = 0; i < 1000; i++) {
        int32_t id = pick(a, &p, &no_history, small_logits, i);
        assert_int_equal(pick(b, &p, &no_history, small_logits, i), id);
        differ_by_seed += pick(b, &q, &no_history, small_logits, i) != id;
        differ_by_position += pick(b, &p, &no_history, small_logits, i + 1) != id;
    }
    assert_true(differ_by_seed > 500 && differ_by_position > 500);
    /* The high half of the seed counts too. */
    q.seed = 42 + (1ull << 32);
    for (uint32_t i = 0; i < 1000; i++)
        differ_by_seed +=
            pick(a, &q, &no_history, small_logits, i) != pick(a, &p, &no_history, small_logits, i);
    assert_true(differ_by_seed > 1000);
    sample_scratch_close(a);
    sample_scratch_close(b);
}

/* Changing these numbers changes every sampled answer: it needs a new numerics version. */
static void picks_are_the_same_in_every_build(void **state) {
    (void)state;
    static const int32_t wanted[12] = {6, 6, 6, 2, 6, 2, 2, 2, 6, 7, 2, 2};
    sample_scratch *s = open_scratch(SMALL);
    for (uint32_t i = 0; i < 12; i++) {
        sample_policy p = {.temperature = 1, .seed = 7, .top_p = i % 2 ? 0.9f : 1};
        assert_int_equal(pick(s, &p, &no_history, small_logits, 100 + i), wanted[i]);
    }
    sample_scratch_close(s);
}

/* ---- bias and penalties ---- */

static void bias_is_added_to_the_logit(void **state) {
    (void)state;
    sample_scratch *s = open_scratch(3);
    float logits[3] = {1, 2, 3};
    sample_bias bias[2] = {{.id = 0, .bias = 2.5f}, {.id = 2, .bias = -100}};
    sample_policy p = {.bias = bias, .bias_count = 2};
    assert_int_equal(pick(s, &p, &no_history, logits, 0), 0);
    p.bias_count = 0;
    assert_int_equal(pick(s, &p, &no_history, logits, 0), 2);
    sample_scratch_close(s);
}

/* Token 1 stands in the prompt, once; a positive logit is divided, a negative one multiplied. */
static void repetition_penalty_looks_at_prompt_and_output(void **state) {
    (void)state;
    sample_scratch *s = open_scratch(3);
    int32_t tokens[2] = {1, 1};
    sample_history h = {.tokens = tokens, .prompt_count = 2, .count = 2};
    sample_policy p = {.repetition_penalty = 2};
    float positive[3] = {2.4f, 4.5f, 1.0f}; /* 4.5 / 2 = 2.25; twice would be 1.125 */
    assert_int_equal(pick(s, &p, &h, positive, 2), 0);
    positive[0] = 2.2f;
    assert_int_equal(pick(s, &p, &h, positive, 2), 1);
    float negative[3] = {-1.5f, -1.0f, -9.0f};
    assert_int_equal(pick(s, &p, &h, negative, 2), 0);
    sample_scratch_close(s);
}

/* The prompt's tokens are free; the output's cost presence once and frequency each time. */
static void presence_and_frequency_look_at_the_output_only(void **state) {
    (void)state;
    sample_scratch *s = open_scratch(3);
    int32_t tokens[6] = {2, 2, 2, 1, 1, 1};
    sample_history h = {.tokens = tokens, .prompt_count = 3, .count = 6};
    float logits[3] = {0, 1.4f, -1};
    sample_policy presence = {.presence_penalty = 1.5f};
    sample_policy frequency = {.frequency_penalty = 0.5f};
    assert_int_equal(pick(s, &presence, &h, logits, 6), 0);
    assert_int_equal(pick(s, &frequency, &h, logits, 6), 0);
    presence.presence_penalty = 1.3f;
    frequency.frequency_penalty = 0.4f; /* 1.2 for three */
    assert_int_equal(pick(s, &presence, &h, logits, 6), 1);
    assert_int_equal(pick(s, &frequency, &h, logits, 6), 1);
    logits[2] = 1.6f;
    assert_int_equal(pick(s, &presence, &h, logits, 6), 2);
    sample_scratch_close(s);
}

/* The counts of one request are gone when the next is sampled. */
static void penalties_leave_nothing_behind(void **state) {
    (void)state;
    sample_scratch *s = open_scratch(3);
    int32_t tokens[3] = {2, 2, 2};
    sample_history h = {.tokens = tokens, .prompt_count = 0, .count = 3};
    sample_history other = {.tokens = tokens, .prompt_count = 0, .count = 1};
    float logits[3] = {0, 1, 2};
    sample_policy p = {.frequency_penalty = 0.9f};
    assert_int_equal(pick(s, &p, &h, logits, 3), 1);
    assert_int_equal(pick(s, &p, &other, logits, 1), 2);
    assert_true(logits[2] == 2.0f); /* the row is read only */
    sample_scratch_close(s);
}

/* Extreme but legal fields: scores stay finite and a token comes out. */
static void extreme_policies_still_pick(void **state) {
    (void)state;
    sample_scratch *s = open_scratch(SMALL);
    int32_t tokens[2] = {2, 6};
    sample_history h = {.tokens = tokens, .prompt_count = 1, .count = 2};
    float logits[SMALL] = {-3e38f, 3e38f, 1, 0, -1, 3e38f, 3e38f, -3e38f};
    sample_policy policies[] = {{.temperature = 1e-40f, .repetition_penalty = 1e-30f},
                                {.temperature = 1e-40f, .top_p = 1e-40f},
                                {.temperature = 10, .repetition_penalty = 10, .min_p = 1},
                                {.temperature = 1, .top_k = UINT32_MAX, .top_p = 0.5f},
                                {.temperature = 1, .top_k = 1, .presence_penalty = 2}};
    for (uint32_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        assert_int_equal(sample_policy_check(&policies[i], SMALL, NULL), ESP_OK);
        int32_t id = pick(s, &policies[i], &h, logits, 2);
        assert_true(id == 1 || id == 5 || id == 6);
    }
    sample_scratch_close(s);
}

/* ---- refusals ---- */

static void refused(sample_policy p, const char *field) {
    esp_error err = {0};
    assert_int_equal(sample_policy_check(&p, SMALL, &err), ESP_INVALID);
    assert_string_equal(err.field, field);
    assert_non_null(strstr(err.message, field));
}

/* T01: each field with NaN, infinities and values just outside its range. */
static void fields_out_of_range_are_refused_by_name(void **state) {
    (void)state;
    const float bad[] = {NAN, INFINITY, -INFINITY, -1e30f, 1e30f};
    for (uint32_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        refused((sample_policy){.temperature = bad[i]}, "temperature");
        refused((sample_policy){.top_p = bad[i]}, "top_p");
        refused((sample_policy){.min_p = bad[i]}, "min_p");
        refused((sample_policy){.repetition_penalty = bad[i]}, "repetition_penalty");
        refused((sample_policy){.presence_penalty = bad[i]}, "presence_penalty");
        refused((sample_policy){.frequency_penalty = bad[i]}, "frequency_penalty");
        sample_bias bias = {.id = 0, .bias = bad[i]};
        refused((sample_policy){.bias = &bias, .bias_count = 1}, "logit_bias");
    }
    refused((sample_policy){.temperature = 10.01f}, "temperature");
    refused((sample_policy){.temperature = -0.01f}, "temperature");
    refused((sample_policy){.top_p = 1.001f}, "top_p");
    refused((sample_policy){.top_p = -0.001f}, "top_p");
    refused((sample_policy){.min_p = 1.001f}, "min_p");
    refused((sample_policy){.repetition_penalty = 10.1f}, "repetition_penalty");
    refused((sample_policy){.presence_penalty = -2.01f}, "presence_penalty");
    refused((sample_policy){.frequency_penalty = 2.01f}, "frequency_penalty");
    refused((sample_policy){.top_logprobs = SAMPLE_LOGPROBS_MAX + 1}, "top_logprobs");
    sample_bias ids[2] = {{.id = SMALL}, {.id = -1}};
    refused((sample_policy){.bias = &ids[0], .bias_count = 1}, "logit_bias");
    refused((sample_policy){.bias = &ids[1], .bias_count = 1}, "logit_bias");
    sample_bias *many = mem_new(SAMPLE_BIAS_MAX + 1, sizeof *many);
    refused((sample_policy){.bias = many, .bias_count = SAMPLE_BIAS_MAX + 1}, "logit_bias");
    free(many);
}

static void borders_of_the_ranges_are_taken(void **state) {
    (void)state;
    sample_bias *bias = mem_new(SAMPLE_BIAS_MAX, sizeof *bias);
    bias[0] = (sample_bias){.id = SMALL - 1, .bias = -100};
    bias[1] = (sample_bias){.id = 0, .bias = 100};
    sample_policy policies[] = {
        {0},
        {.temperature = 10, .top_k = UINT32_MAX, .top_p = 1, .min_p = 1, .repetition_penalty = 10},
        {.presence_penalty = -2, .frequency_penalty = 2, .top_logprobs = SAMPLE_LOGPROBS_MAX},
        {.bias = bias, .bias_count = SAMPLE_BIAS_MAX},
    };
    for (uint32_t i = 0; i < sizeof policies / sizeof *policies; i++)
        assert_int_equal(sample_policy_check(&policies[i], SMALL, NULL), ESP_OK);
    free(bias);
}

/* Law 2: the heaviest policy there is, with logprobs, takes no memory. */
static void a_pick_allocates_nothing(void **state) {
    (void)state;
    sample_scratch *s = open_scratch(LARGE);
    static float logits[LARGE];
    for (uint32_t i = 0; i < LARGE; i++)
        logits[i] = random_logit();
    int32_t tokens[4] = {1, 2, 3, 2};
    sample_history h = {.tokens = tokens, .prompt_count = 2, .count = 4};
    sample_bias bias = {.id = 9, .bias = 1};
    sample_policy p = {.temperature = 1,
                       .top_k = 500,
                       .top_p = 0.9f,
                       .min_p = 0.01f,
                       .repetition_penalty = 1.1f,
                       .presence_penalty = 0.5f,
                       .frequency_penalty = 0.5f,
                       .bias = &bias,
                       .bias_count = 1,
                       .top_logprobs = 20,
                       .logprobs = true};
    sample_result r;
    uint64_t before = mem_thread_allocated();
    assert_int_equal(sample_pick(s, &p, &h, logits, 4, &r, NULL), ESP_OK);
    assert_int_equal(mem_thread_allocated() - before, 0);
    sample_scratch_close(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_ties_go_to_the_lowest_id),
        cmocka_unit_test(values_that_are_not_finite_are_never_picked),
        cmocka_unit_test(no_finite_logit_is_an_internal_error),
        cmocka_unit_test(logprobs_are_the_log_softmax_of_the_raw_logits),
        cmocka_unit_test(logprobs_are_zero_unless_wanted),
        cmocka_unit_test(picks_follow_the_softmax),
        cmocka_unit_test(top_k_keeps_the_k_likeliest),
        cmocka_unit_test(top_p_keeps_the_shortest_head_that_reaches_p),
        cmocka_unit_test(min_p_keeps_what_is_near_the_likeliest),
        cmocka_unit_test(filters_combine_in_the_documented_order),
        cmocka_unit_test(picks_from_large_rows_lie_in_the_sorted_head),
        cmocka_unit_test(a_flat_row_is_cut_by_id),
        cmocka_unit_test(a_pick_depends_on_seed_and_position_alone),
        cmocka_unit_test(picks_are_the_same_in_every_build),
        cmocka_unit_test(bias_is_added_to_the_logit),
        cmocka_unit_test(repetition_penalty_looks_at_prompt_and_output),
        cmocka_unit_test(presence_and_frequency_look_at_the_output_only),
        cmocka_unit_test(penalties_leave_nothing_behind),
        cmocka_unit_test(extreme_policies_still_pick),
        cmocka_unit_test(fields_out_of_range_are_refused_by_name),
        cmocka_unit_test(borders_of_the_ranges_are_taken),
        cmocka_unit_test(a_pick_allocates_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
