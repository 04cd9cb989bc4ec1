/* test_sample_math.c - the walks over a row of logits, against plain loops. */
// SPDX-License-Identifier: Apache-2.0
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/sample.h"
#include "engine/sample_math.h"

enum { MOST = 5000 };

static void fill(float *values, uint32_t count, uint32_t seed) {
    const uint32_t key[2] = {seed, 0};
    for (uint32_t i = 0; i < count; i++) {
        uint32_t counter[4] = {i}, word[4];
        philox(counter, key, word);
        values[i] = (float)(int32_t)word[0] * 0x1p-28f;
    }
}

static int32_t plain_argmax(const float *values, uint32_t count) {
    int32_t at = -1;
    for (uint32_t i = 0; i < count; i++)
        if (sample_finite(values[i]) && (at < 0 || values[i] > values[at])) at = (int32_t)i;
    return at;
}

/* Values that are not finite, and the largest one twice, wherever they stand. */
static void the_largest_finite_value_is_found_whatever_stands_around_it(void **state) {
    (void)state;
    static float values[MOST];
    const float strange[] = {NAN, -NAN, INFINITY, -INFINITY, FLT_MAX, -FLT_MAX, 0.0f, -0.0f};
    for (uint32_t round = 0; round < 300; round++) {
        uint32_t count = 1 + round * 977 % MOST;
        fill(values, count, round);
        for (uint32_t i = 0; i < round % 20; i++)
            values[(i * 7919 + round) % count] = strange[(i + round) % 8];
        assert_int_equal(sample_argmax(values, count), plain_argmax(values, count));
        values[round * 31 % count] = values[round * 17 % count] = 9;
        assert_int_equal(sample_argmax(values, count), plain_argmax(values, count));
    }
}

static void no_finite_value_is_none(void **state) {
    (void)state;
    static float values[MOST];
    for (uint32_t i = 0; i < MOST; i++)
        values[i] = i % 3 == 0 ? NAN : i % 3 == 1 ? INFINITY : -INFINITY;
    assert_int_equal(sample_argmax(values, MOST), -1);
    values[MOST - 1] = -FLT_MAX;
    assert_int_equal(sample_argmax(values, MOST), MOST - 1);
}

static void weights_and_their_sum_are_those_of_exp(void **state) {
    (void)state;
    static float values[MOST], weights[MOST];
    for (uint32_t count = 1; count < MOST; count += 331) {
        fill(values, count, count);
        values[count / 2] = NAN;
        values[count / 3] = -INFINITY;
        double sum = sample_weights(values, count, 8, 0.7f, weights), wanted = 0;
        assert_true(sum == sample_weights(values, count, 8, 0.7f, NULL));
        for (uint32_t i = 0; i < count; i++) {
            double w = sample_finite(values[i]) ? exp(((double)values[i] - 8) / 0.7) : 0;
            assert_true(fabs((double)weights[i] - w) <= 4e-6 * w);
            wanted += (double)weights[i];
        }
        assert_true(fabs(sum - wanted) <= 1e-12 * wanted);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_largest_finite_value_is_found_whatever_stands_around_it),
        cmocka_unit_test(no_finite_value_is_none),
        cmocka_unit_test(weights_and_their_sum_are_those_of_exp),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
