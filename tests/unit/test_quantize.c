/* test_quantize.c - weights become the reference's Q8_0 bytes, and Q4_K no worse than others'.
 *
 * tests/vectors/quantize.jsonl, written by make_quantize_vectors.py beside it. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/base/quantize.h"
#include "tests/unit/vector_file.h"

static uint8_t nibble(char digit) {
    return (uint8_t)(digit <= '9' ? digit - '0' : digit - 'a' + 10);
}

/* The bytes of a member in hexadecimal; free() them. */
static void *bytes_of(const json_t *row, const char *key, size_t *count) {
    const json_t *value = json_object_get(row, key);
    const char *hex = json_string_value(value);
    assert_non_null(hex);
    *count = json_string_length(value) / 2;
    uint8_t *bytes = malloc(*count);
    for (size_t i = 0; i < *count; i++)
        bytes[i] = (uint8_t)(nibble(hex[2 * i]) << 4 | nibble(hex[2 * i + 1]));
    return bytes;
}

typedef struct quantize_case {
    json_t *row;
    float *weights;
    size_t count;
} quantize_case;

static bool case_next(FILE *file, quantize_case *c) {
    *c = (quantize_case){.row = vector_next(file)};
    if (!c->row) return false;
    c->weights = bytes_of(c->row, "weights", &c->count);
    c->count /= sizeof *c->weights;
    return true;
}

static void case_free(quantize_case *c) {
    free(c->weights);
    json_decref(c->row);
}

static void q8_0_is_the_reference_bytes(void **state) {
    (void)state;
    FILE *file = vector_open("quantize.jsonl");
    assert_non_null(file);
    for (quantize_case c; case_next(file, &c); case_free(&c)) {
        size_t bytes;
        uint8_t *want = bytes_of(c.row, "q8_0", &bytes), *got = malloc(bytes);
        assert_int_equal(bytes, c.count / 32 * 34);
        quantize_weights(DT_Q8_0, c.weights, got, c.count);
        assert_memory_equal(got, want, bytes);
        free(got);
        free(want);
    }
    fclose(file);
}

static double mean_error(const float *got, const float *want, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
    return sum / (double)count;
}

/* What the plain way gives: lowest and highest of 32 weights are the ends of the grid. Its scales
 * are not even rounded to six bits. */
static double plain_error(const float *weights, size_t count) {
    double sum = 0;
    for (size_t b = 0; b < count; b += 32) {
        float low = 0, high = 0, grid[32];
        for (size_t i = b; i < b + 32; i++) {
            low = fminf(low, weights[i]);
            high = fmaxf(high, weights[i]);
        }
        float scale = (high - low) / 15;
        for (size_t i = 0; i < 32; i++)
            grid[i] = scale > 0 ? roundf((weights[b + i] - low) / scale) * scale + low : low;
        sum += mean_error(grid, weights + b, 32) * 32;
    }
    return sum / (double)count;
}

static void q4_k_is_no_worse_than_other_quantisers(void **state) {
    (void)state;
    FILE *file = vector_open("quantize.jsonl");
    assert_non_null(file);
    for (quantize_case c; case_next(file, &c); case_free(&c)) {
        uint8_t *blocks = malloc(c.count / 256 * 144);
        float *got = malloc(c.count * sizeof *got);
        quantize_weights(DT_Q4_K, c.weights, blocks, c.count);
        dtype_info(DT_Q4_K)->dequantise(blocks, got, c.count);
        double error = mean_error(got, c.weights, c.count), plain = plain_error(c.weights, c.count);
        double llama = json_number_value(json_object_get(c.row, "q4_k_error"));
        if (!(error <= plain && error <= 1.02 * llama))
            fail_msg("%s: %g; plain %g, llama.cpp %g",
                     json_string_value(json_object_get(c.row, "name")), error, plain, llama);
        free(got);
        free(blocks);
    }
    fclose(file);
}

/* Ranges that leave no grid: equal weights, a single one, subnormal halves. */
static void q4_k_of_odd_ranges_stays_close(void **state) {
    (void)state;
    static const float levels[] = {0.0f, -0.3f, 0.7f, 1e-9f, -1e-7f, 3e4f};
    for (size_t l = 0; l < sizeof levels / sizeof *levels; l++)
        for (uint32_t alone = 0; alone < 2; alone++) {
            float weights[256], got[256];
            uint8_t block[144];
            for (uint32_t i = 0; i < 256; i++)
                weights[i] = !alone || i == 77 ? levels[l] : 0;
            quantize_weights(DT_Q4_K, weights, block, 256);
            dtype_info(DT_Q4_K)->dequantise(block, got, 256);
            for (uint32_t i = 0; i < 256; i++)
                assert_true(fabsf(got[i] - weights[i]) <= 0.04f * fabsf(levels[l]) + 2e-6f);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(q8_0_is_the_reference_bytes),
        cmocka_unit_test(q4_k_is_no_worse_than_other_quantisers),
        cmocka_unit_test(q4_k_of_odd_ranges_stays_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
