/* test_quant_vectors.c - blocks of every quantised format mean what the format's own library says.
 *
 * tests/vectors/quant_blocks.jsonl, written by make_quant_vectors.py beside it. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/base/quant.h"
#include "tests/unit/vector_file.h"

static uint8_t nibble(char digit) {
    return (uint8_t)(digit <= '9' ? digit - '0' : digit - 'a' + 10);
}

/* The bytes of a member in hexadecimal; free() them. */
static uint8_t *bytes_of(const json_t *row, const char *key, size_t *count) {
    const json_t *value = json_object_get(row, key);
    const char *hex = json_string_value(value);
    assert_non_null(hex);
    *count = json_string_length(value) / 2;
    uint8_t *bytes = malloc(*count);
    for (size_t i = 0; i < *count; i++)
        bytes[i] = (uint8_t)(nibble(hex[2 * i]) << 4 | nibble(hex[2 * i + 1]));
    return bytes;
}

static esp_dtype dtype_named(const char *name) {
    for (int d = 0; d < DT_COUNT; d++)
        if (strcmp(dtype_info((esp_dtype)d)->name, name) == 0) return (esp_dtype)d;
    fail_msg("no format is called %s", name);
    return DT_COUNT;
}

static void check_row(const json_t *row, bool *seen) {
    esp_dtype dtype = dtype_named(json_string_value(json_object_get(row, "format")));
    const dtype_row *info = dtype_info(dtype);
    size_t block_bytes, weight_bytes;
    uint8_t *blocks = bytes_of(row, "blocks", &block_bytes);
    uint8_t *weights = bytes_of(row, "weights", &weight_bytes);
    size_t count = weight_bytes / sizeof(float);
    assert_int_equal(block_bytes / info->block_bytes * info->block_elements, count);
    float *got = malloc(weight_bytes);
    info->dequantise(blocks, got, count);
    for (size_t i = 0; i < count; i++) {
        float want;
        memcpy(&want, weights + i * sizeof want, sizeof want);
        if (bits_of_f32(got[i]) != bits_of_f32(want))
            fail_msg("%s: weight %zu is %a, not %a", info->name, i, (double)got[i], (double)want);
    }
    free(got);
    free(weights);
    free(blocks);
    seen[dtype] = true;
}

/* Random codes and small scales, f16 scales that are normal, subnormal or zero: the same bits. */
static void blocks_mean_what_the_reference_says(void **state) {
    (void)state;
    bool seen[DT_COUNT] = {false};
    FILE *file = vector_open("quant_blocks.jsonl");
    assert_non_null(file);
    for (json_t *row; (row = vector_next(file)); json_decref(row))
        check_row(row, seen);
    fclose(file);
    for (int d = 0; d < DT_G2; d++) /* those that follow are in no GGUF file */
        assert_true(seen[d] || dtype_info((esp_dtype)d)->block_elements == 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(blocks_mean_what_the_reference_says)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
