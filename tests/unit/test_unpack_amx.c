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

/* Formats of which amx_unpack cuts weights; the others are rounded. */
static bool is_cut(esp_dtype dtype) { return cpu_formats[dtype].low_bits == 4 || dtype == DT_Q8_0; }

static float largest_of_block(const kern_matrix *matrix, uint32_t row, uint32_t col) {
    float largest = 0;
    for (uint32_t c = col / TILE_COLS * TILE_COLS; c < (col / TILE_COLS + 1) * TILE_COLS; c++)
        largest = fmaxf(largest, fabsf(cpu_weight_at(matrix, row, c)));
    return largest;
}

/* Half of the distance between bf16s around a weight, or two thirds of it, and what float32 may have rounded off
 * before; of bytes a part of their scale, whose 64 times are surely in a block. */
static float allowed(const kern_matrix *matrix, uint32_t row, uint32_t col) {
    const float weight = cpu_weight_at(matrix, row, col);
    int exponent = -126;
    if (weight != 0) (void)frexpf(weight, &exponent);
    float unit = ldexpf(1, exponent - 8), slack = fabsf(weight) * 0x1p-20f;
    if (matrix->dtype == DT_Q8_0) slack += largest_of_block(matrix, row, col) / 64 * 0x1p-9f;
    if (matrix->dtype == DT_Q6_K) slack += largest_of_block(matrix, row, col) * 0x1p-17f;
    return unit * (is_cut(matrix->dtype) ? 2.0f / 3 : 0.5f) + slack;
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
            if (!(fabsf(y - want) <= allowed(matrix, row, first + t)))
                fail_msg("%s row %u column %u: %a, not %a", dtype_info(matrix->dtype)->name, row,
                         first + t, (double)y, (double)want);
        }
    free(got);
}

static void weights_are_within_a_part_of_a_unit_of_bf16(void **state) {
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

/* What a matrix is multiplied by, as a whole, by least squares: weights that were only cut would lose 1 / 384. */
static void no_format_makes_weights_larger_or_smaller(void **state) {
    (void)state;
    if (kern_cpu_best_level() < LEVEL_AMX) skip();
    lab l = lab_open(&kern_cpu, LEVEL_AMX, DT_BF16, 1);
    for (esp_dtype d = DT_F32; d < DT_COUNT; d++) {
        kern_matrix *matrix = lab_matrix(&l, d, ROWS, COLS, 7 + d);
        float *got = read_columns(&l, matrix, 0, COLS);
        double both = 0, squares = 0;
        for (uint32_t col = 0; col < COLS; col++)
            for (uint32_t row = 0; row < ROWS; row++) {
                double want = (double)cpu_weight_at(matrix, row, col);
                both += want * (double)got[(size_t)col * ROWS + row];
                squares += want * want;
            }
        if (!(fabs(both / squares - 1) <= 3e-4))
            fail_msg("%s: weights are %.5f of what they are", dtype_info(d)->name, both / squares);
        free(got);
        l.ops->matrix_close(l.dev, matrix);
    }
    lab_close(&l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_are_within_a_part_of_a_unit_of_bf16),
        cmocka_unit_test(no_format_makes_weights_larger_or_smaller),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
