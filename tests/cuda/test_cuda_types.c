/* test_cuda_types.c - half and bfloat16 are the toolkit's bit for bit; the numbers are those of
 * CUDA 13.0's own host code, which the same source gives when nvcc compiles it. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "type_hash.h"

static void every_value_widens_exactly(void **state) {
    (void)state;
    assert_int_equal(type_hash_widen(), 0x89ef5e7c17021e8f);
}

static void floats_round_to_nearest_even(void **state) {
    (void)state;
    assert_int_equal(type_hash_narrow(), 0x75112b9d07da1f4c);
}

static void arithmetic_rounds_once(void **state) {
    (void)state;
    assert_int_equal(type_hash_arithmetic(), 0xd68bf5153a966a87);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_value_widens_exactly),
        cmocka_unit_test(floats_round_to_nearest_even),
        cmocka_unit_test(arithmetic_rounds_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
