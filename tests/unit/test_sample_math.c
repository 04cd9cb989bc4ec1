/* test_sample_math.c - the walks over a row of logits give, on every target that this processor can
 * run, the bits of the plain loops below: exp, the shape of the sums, ties, what is not finite. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <string.h>

#include "engine/sample_math.h"

enum { LONGEST = 5000 };

static const uint32_t COUNTS[] = {1,   3,   7,    15,   16,   17,   31,   64,   100,    255,
                                  256, 257, 1000, 1023, 1024, 1025, 2048, 3001, LONGEST};
enum { COUNT_COUNT = sizeof COUNTS / sizeof *COUNTS };

static uint32_t noise = 1;

static float random_value(void) {
    noise = noise * 1664525u + 1013904223u;
    return (float)(int32_t)noise * 0x1p-28f; /* -8..8 */
}

/* Some rows hold what a broken model or a mask would give. */
static void fill(float *values, uint32_t count, bool spoiled) {
    static const float odd[] = {NAN, INFINITY, -INFINITY, -NAN, -0.0f, 0.0f, FLT_MAX, -FLT_MAX};
    for (uint32_t i = 0; i < count; i++) {
        values[i] = random_value();
        if (spoiled && noise >> 28 == 0) values[i] = odd[noise >> 20 & 7];
    }
}

/* ---- in plain words ---- */

static int32_t plain_argmax(const float *values, uint32_t count) {
    int32_t best = -1;
    for (uint32_t i = 0; i < count; i++)
        if (isfinite(values[i]) && (best < 0 || values[i] > values[best])) best = (int32_t)i;
    return best;
}

static float plain_exp(float x) {
    if (!(x >= -87.0f && x <= 0.0f)) return 0;
    int32_t n = (int32_t)(x * 1.44269504f - 0.5f);
    float whole = (float)n, r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    float y = r * (1.0f / 5040) + 1.0f / 720;
    y = y * r + 1.0f / 120;
    y = y * r + 1.0f / 24;
    y = y * r + 1.0f / 6;
    y = y * r + 0.5f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
    int32_t bits;
    memcpy(&bits, &y, sizeof bits);
    bits += n * (1 << 23);
    memcpy(&y, &bits, sizeof bits);
    return y;
}

static double plain_block(const float *values, uint32_t count, float top, float temperature,
                          float *weights) {
    double l[8] = {0};
    for (uint32_t i = 0; i < count; i++) {
        weights[i] = plain_exp((values[i] - top) / temperature);
        l[i % 8] += (double)weights[i];
    }
    return ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]));
}

/* ---- the same on every target ---- */

static void the_lowest_index_of_the_largest(void **state) {
    (void)state;
    static float values[LONGEST];
    const sample_walks *w;
    for (uint32_t t = 0; (w = sample_walks_at(t)); t++)
        for (uint32_t c = 0; c < COUNT_COUNT; c++)
            for (uint32_t round = 0; round < 20; round++) {
                fill(values, COUNTS[c], round % 2);
                if (round % 4 == 3) values[noise % COUNTS[c]] = values[0]; /* a tie */
                int32_t wanted = plain_argmax(values, COUNTS[c]);
                assert_int_equal(w->argmax(values, COUNTS[c]), wanted);
                for (uint32_t i = 0; i < COUNTS[c]; i++)
                    values[i] = round % 2 ? -INFINITY : NAN;
                assert_int_equal(w->argmax(values, COUNTS[c]), -1);
                values[COUNTS[c] / 2] = -FLT_MAX;
                assert_int_equal(w->argmax(values, COUNTS[c]), COUNTS[c] / 2);
            }
}

static void weights_and_sums_bit_for_bit(void **state) {
    (void)state;
    static const float temperatures[] = {1, 0.7f, 0.01f, 10};
    float values[SAMPLE_BLOCK], wanted[SAMPLE_BLOCK], weights[SAMPLE_BLOCK + 1];
    const sample_walks *w;
    for (uint32_t t = 0; (w = sample_walks_at(t)); t++)
        for (uint32_t count = 1; count <= SAMPLE_BLOCK; count++) {
            float heat = temperatures[count % 4];
            fill(values, count, count % 3 == 0);
            int32_t best = plain_argmax(values, count);
            float top = best < 0 ? 0 : values[best];
            double sum = plain_block(values, count, top, heat, wanted);
            weights[count] = 77;
            double got = w->block_weights(values, count, top, heat, weights);
            assert_memory_equal(&got, &sum, sizeof sum);
            assert_memory_equal(weights, wanted, count * sizeof *wanted);
            assert_true(weights[count] == 77); /* nothing behind the end is written */
            got = w->block_weights(values, count, top, heat, NULL);
            assert_memory_equal(&got, &sum, sizeof sum);
        }
}

static void exp_is_within_two_units(void **state) {
    (void)state;
    for (float x = 0; x > -87; x -= 0.0137f) {
        double exact = exp((double)x), got = (double)plain_exp(x);
        assert_true(fabs(got - exact) <= 2 * exact * (double)FLT_EPSILON);
    }
    assert_true(plain_exp(0) == 1);
}

static void a_row_is_the_sum_of_its_blocks(void **state) {
    (void)state;
    static float values[LONGEST], weights[LONGEST];
    double sums[(LONGEST + SAMPLE_BLOCK - 1) / SAMPLE_BLOCK], sum = 0;
    fill(values, LONGEST, false);
    float top = values[plain_argmax(values, LONGEST)];
    double got = sample_weights(values, LONGEST, top, 0.8f, weights, sums);
    for (uint32_t b = 0; b < sample_blocks(LONGEST); b++)
        sum += sums[b];
    assert_true(sum == got);
    assert_true(sample_weights(values, LONGEST, top, 0.8f, NULL, NULL) == got);
}

static void the_next_one_above_a_bar(void **state) {
    (void)state;
    static float values[LONGEST];
    const sample_walks *w;
    for (uint32_t t = 0; (w = sample_walks_at(t)); t++)
        for (uint32_t round = 0; round < 60; round++) {
            uint32_t count = COUNTS[round % COUNT_COUNT];
            float bar = round % 5 ? 7.9f : -INFINITY;
            fill(values, count, round % 2);
            for (uint32_t at = 0; at <= count; at++) {
                uint32_t wanted = at;
                while (wanted < count && !(values[wanted] > bar))
                    wanted++;
                assert_int_equal(w->next(values, at, count, bar), wanted);
                if (t == 0) assert_int_equal(sample_next(values, at, count, bar), wanted);
                at = at + 300 < wanted ? wanted - 3 : at; /* long empty stretches are one case */
            }
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_lowest_index_of_the_largest),
        cmocka_unit_test(weights_and_sums_bit_for_bit),
        cmocka_unit_test(exp_is_within_two_units),
        cmocka_unit_test(a_row_is_the_sum_of_its_blocks),
        cmocka_unit_test(the_next_one_above_a_bar),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
