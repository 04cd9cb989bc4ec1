/* test_quant_finite.c - NaN and infinity are found in blocks of every format, wherever they stand.
 * */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/mem.h"
#include "engine/base/quant.h"

static uint64_t next_random(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static bool all_finite(const dtype_row *row, const void *blocks, size_t count) {
    float *values = mem_new(count, sizeof *values);
    bool finite = true;
    row->dequantise(blocks, values, count);
    for (size_t i = 0; i < count; i++)
        finite = finite && isfinite(values[i]);
    free(values);
    return finite;
}

/* Random bytes: what dequantises to finite numbers passes, and nothing else. Both happen often. */
static void verdict_is_that_of_the_dequantised_weights(void **state) {
    (void)state;
    uint64_t random = 7;
    for (int dtype = 0; dtype < DT_COUNT; dtype++) {
        const dtype_row *row = dtype_info((esp_dtype)dtype);
        uint32_t finite = 0, tries = 4000;
        for (uint32_t t = 0; t < tries; t++) {
            size_t blocks = row->block_elements == 1 ? 1 + next_random(&random) % 60 : 1;
            size_t bytes = blocks * row->block_bytes, count = blocks * row->block_elements;
            uint8_t *at = mem_new(bytes, 1);
            for (size_t i = 0; i < bytes; i++)
                at[i] = (uint8_t)next_random(&random);
            bool wanted = all_finite(row, at, count);
            finite += wanted;
            if (quant_finite((esp_dtype)dtype, at, count) != wanted)
                fail_msg("%s: wanted %d", row->name, wanted);
            free(at);
        }
        assert_true(finite > tries / 10 && finite < tries);
    }
}

/* One element among zeros, at every place of lengths around the stride, at an odd address. */
static void a_single_bad_element_is_found_at_every_place(void **state) {
    (void)state;
    static const struct {
        esp_dtype dtype;
        uint32_t bad[3], good[3];
    } formats[] = {
        {DT_F32, {0x7fc00000, 0x7f800000, 0xff800001}, {0x7f7fffff, 0xff7fffff, 0x80000000}},
        {DT_F16, {0x7e00, 0x7c00, 0xfc01}, {0x7bff, 0xfbff, 0x8000}},
        {DT_BF16, {0x7fc0, 0x7f80, 0xff81}, {0x7f7f, 0xff7f, 0x8000}},
    };
    uint8_t space[1 + 70 * 4];
    for (size_t f = 0; f < sizeof formats / sizeof formats[0]; f++)
        for (size_t count = 1; count <= 70; count++)
            for (size_t place = 0; place < count; place++)
                for (size_t i = 0; i < 3; i++) {
                    uint32_t bytes = dtype_info(formats[f].dtype)->block_bytes;
                    memset(space, 0, sizeof space);
                    memcpy(space + 1 + place * bytes, &formats[f].good[i], bytes);
                    assert_true(quant_finite(formats[f].dtype, space + 1, count));
                    memcpy(space + 1 + place * bytes, &formats[f].bad[i], bytes);
                    assert_false(quant_finite(formats[f].dtype, space + 1, count));
                }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(verdict_is_that_of_the_dequantised_weights),
        cmocka_unit_test(a_single_bad_element_is_found_at_every_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
