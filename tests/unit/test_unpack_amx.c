/* test_unpack_amx.c - weights of the AMX level, one by one: a token that is 1 at one column and 0 elsewhere gives
 * that column of the matrix as it was multiplied. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/cpu/cpu.h"
#include "tests/unit/kernel_lab.h"

enum { ROWS = 80, COLS = 512, FEW = 32 };

/* Half of the distance between bf16s around a weight, and what float32 may have rounded off before. */
static float half_unit(float weight) {
    int exponent;
    (void)frexpf(weight, &exponent);
    return ldexpf(1, exponent - 9) + fabsf(weight) * 0x1p-20f;
}

/* Columns first .. first + count of the matrix, as rows of the identity meet them. */
static float *read_columns(const lab *l, const kern_matrix *matrix, uint32_t first,
                           uint32_t count) {
    float *ones = mem_new((size_t)count * COLS, sizeof *ones);
    for (uint32_t t = 0; t < count; t++)
        ones[(size_t)t * COLS + first + t] = 1;
    void *in = lab_upload(l, KIND_ACT, ones, (size_t)count * COLS);
    void *out = lab_alloc(l, (size_t)count * ROWS * sizeof(float));
    kern_linear op = {
        .in = in, .token_count = count, .matrix = {matrix}, .matrix_count = 1, .out = out};
    l->ops->linear(l->dev, &op);
    float *got = lab_download(l, KIND_F32, out, (size_t)count * ROWS);
    lab_release(l, KIND_F32, out, (size_t)count * ROWS);
    lab_release(l, KIND_ACT, in, (size_t)count * COLS);
    free(ones);
    return got;
}

static void check_columns(const lab *l, const kern_matrix *matrix, uint32_t first, uint32_t count) {
    float *got = read_columns(l, matrix, first, count);
    for (uint32_t t = 0; t < count; t++)
        for (uint32_t row = 0; row < ROWS; row++) {
            float want = cpu_weight_at(matrix, row, first + t), y = got[(size_t)t * ROWS + row];
            if (!(fabsf(y - want) <= half_unit(want)))
                fail_msg("%s row %u column %u: %a, not %a", dtype_info(matrix->dtype)->name, row,
                         first + t, (double)y, (double)want);
        }
    free(got);
}

static void weights_are_within_half_a_unit_of_bf16(void **state) {
    (void)state;
    if (kern_cpu_best_level() < LEVEL_AMX) skip();
    lab l = lab_open(&kern_cpu, LEVEL_AMX, DT_BF16, 1);
    for (esp_dtype d = DT_F32; d < DT_COUNT; d++) {
        kern_matrix *matrix = lab_matrix(&l, d, ROWS, COLS, 7 + d);
        for (uint32_t first = 0; first < COLS; first += FEW)
            check_columns(&l, matrix, first, FEW);
        check_columns(&l, matrix, 33, 1);
        check_columns(&l, matrix, 0, COLS);
        l.ops->matrix_close(l.dev, matrix);
    }
    lab_close(&l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_are_within_half_a_unit_of_bf16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
