/* test_output_amx.c - the output matrix of the AMX level in Q8_0, held bit for bit to its definition
 * (kernels/cpu/amx/output_amx.h) in plain C. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/cpu/cpu.h"
#include "tests/unit/kernel_lab.h"

enum { TOKENS = 70, BLOCK = 32 };

typedef struct fixture {
    lab l;
    uint32_t rows, cols;
    uint8_t *blocks; /* as in a file */
    kern_matrix *matrix;
    float *x; /* [TOKENS][cols], exactly bf16 */
} fixture;

/* Sizes that differ much within a block, and blocks that do. */
static float input_at(uint64_t seed, size_t i) {
    float value = ldexpf(lab_value(seed, i), (int)(lab_hash(seed + i / 7) % 24) - 12);
    return f32_of_bf16(bf16_of_f32(value));
}

static void open_fixture(fixture *f, uint32_t rows, uint32_t cols, uint32_t threads) {
    f->l = lab_open(&kern_cpu, LEVEL_AMX, DT_BF16, threads);
    f->rows = rows;
    f->cols = cols;
    f->blocks = lab_blocks(DT_Q8_0, rows, cols, 5);
    esp_error err = {0};
    kern_matrix_desc desc = {
        .dtype = DT_Q8_0, .rows = rows, .cols = cols, .data = f->blocks, .output = true};
    assert_int_equal(f->l.ops->pack(f->l.dev, &desc, &f->matrix, &err), ESP_OK);
    f->x = mem_new((size_t)TOKENS * cols, sizeof *f->x);
    for (size_t i = 0; i < (size_t)TOKENS * cols; i++)
        f->x[i] = input_at(11, i);
}

static void close_fixture(fixture *f) {
    free(f->x);
    free(f->blocks);
    f->l.ops->matrix_close(f->l.dev, f->matrix);
    lab_close(&f->l);
}

/* A block of inputs as whole numbers; the unit, or NaN. */
static float whole_numbers(const float *x, int32_t *n) {
    float largest = 0;
    for (uint32_t k = 0; k < BLOCK; k++) {
        n[k] = 0;
        if (!isfinite(x[k])) largest = INFINITY;
        largest = fmaxf(largest, fabsf(x[k]));
    }
    if (!isfinite(largest)) return NAN;
    if (largest < 0x1p-100f) return 0;
    float unit = ldexpf(1, ilogbf(largest) - 11);
    for (uint32_t k = 0; k < BLOCK; k++)
        n[k] = (int32_t)rintf(x[k] / unit);
    return unit;
}

static float defined(const fixture *f, const float *x, uint32_t row) {
    float acc = 0;
    for (uint32_t b = 0; b < f->cols / BLOCK; b++) {
        int32_t n[BLOCK], sum = 0;
        float unit = whole_numbers(x + b * BLOCK, n);
        const uint8_t *block = f->blocks + ((size_t)row * (f->cols / BLOCK) + b) * 34;
        uint16_t half;
        memcpy(&half, block, sizeof half);
        for (uint32_t k = 0; k < BLOCK; k++)
            sum += n[k] * (int8_t)block[2 + k];
        acc = fmaf(f32_of_f16(half), unit * (float)sum, acc);
    }
    return acc;
}

/* The matrix times the first tokens; as the fixture's x says. */
static float *multiplied(const fixture *f, const kern_matrix *matrix, uint32_t tokens) {
    const lab *l = &f->l;
    void *in = lab_upload(l, KIND_ACT, f->x, (size_t)tokens * f->cols);
    void *out = lab_alloc(l, (size_t)tokens * f->rows * sizeof(float));
    kern_linear op = {
        .in = in, .token_count = tokens, .matrix = {matrix}, .matrix_count = 1, .out = out};
    l->ops->linear(l->dev, &op);
    float *got = lab_download(l, KIND_F32, out, (size_t)tokens * f->rows);
    lab_release(l, KIND_F32, out, (size_t)tokens * f->rows);
    lab_release(l, KIND_ACT, in, (size_t)tokens * f->cols);
    return got;
}

static bool same(float a, float b) { return (isnan(a) && isnan(b)) || a == b; }

static void check(const fixture *f, uint32_t tokens) {
    float *got = multiplied(f, f->matrix, tokens);
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t row = 0; row < f->rows; row++) {
            float want = defined(f, f->x + (size_t)t * f->cols, row);
            float y = got[(size_t)t * f->rows + row];
            if (!same(y, want))
                fail_msg("%u x %u, token %u of %u, row %u: %a, not %a", f->rows, f->cols, t, tokens,
                         row, (double)y, (double)want);
        }
    free(got);
}

static bool here(void) { return kern_cpu_best_level() >= LEVEL_AMX; }

static void every_number_of_tokens_gives_what_is_defined(void **state) {
    (void)state;
    static const uint32_t shapes[][2] = {{16, 32}, {80, 576}, {213, 640}, {64, 1312}, {37, 96}};
    static const uint32_t tokens[] = {1, 2, 3, 4, 5, 15, 16, 17, 32, 33, TOKENS};
    if (!here()) skip();
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (uint32_t threads = 1; threads <= 3; threads += 2) {
            fixture f;
            open_fixture(&f, shapes[s][0], shapes[s][1], threads);
            for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++)
                check(&f, tokens[i]);
            close_fixture(&f);
        }
}

/* The largest sums there are, a block of zeros, of numbers too small, of an infinity, of a NaN. */
static void blocks_at_the_borders_too(void **state) {
    (void)state;
    if (!here()) skip();
    fixture f;
    open_fixture(&f, 48, 192, 1);
    for (size_t i = 0; i < (size_t)48 * 6; i++)
        for (uint32_t k = 0; k < BLOCK; k++)
            f.blocks[i * 34 + 2 + k] = i % 3 == 0 ? 0x80 : i % 3 == 1 ? 0x7f : (uint8_t)(k * 9);
    f.l.ops->matrix_close(f.l.dev, f.matrix);
    esp_error err = {0};
    kern_matrix_desc desc = {
        .dtype = DT_Q8_0, .rows = 48, .cols = 192, .data = f.blocks, .output = true};
    assert_int_equal(f.l.ops->pack(f.l.dev, &desc, &f.matrix, &err), ESP_OK);
    for (uint32_t t = 0; t < TOKENS; t++)
        for (uint32_t k = 0; k < BLOCK; k++) {
            float *x = f.x + (size_t)t * 192 + k;
            x[0] = t % 2 ? 0x1.fep3f : -0x1.fep3f;
            x[BLOCK] = 0;
            x[2 * BLOCK] = ldexpf(1, -101 - (int)k % 20);
            x[3 * BLOCK] = t % 5 == 4 && k == 7 ? INFINITY : 1;
            x[4 * BLOCK] = t % 7 == 6 && k == 31 ? NAN : (float)k - 15;
            x[5 * BLOCK] = ldexpf(k % 2 ? 1 : -1, 100 - (int)k);
        }
    for (uint32_t tokens = 1; tokens <= TOKENS; tokens += tokens < 6 ? 1 : 16)
        check(&f, tokens);
    close_fixture(&f);
}

static void an_image_of_it_is_it(void **state) {
    (void)state;
    if (!here()) skip();
    fixture f;
    open_fixture(&f, 80, 320, 2);
    esp_error err = {0};
    kern_image image;
    kern_matrix *again = NULL;
    assert_int_equal(f.l.ops->image(f.matrix, &image, &err), ESP_OK);
    assert_true(image.output);
    assert_int_equal(f.l.ops->open_image(f.l.dev, &image, &again, &err), ESP_OK);
    for (uint32_t tokens = 1; tokens < 30; tokens += 14) {
        float *a = multiplied(&f, f.matrix, tokens), *b = multiplied(&f, again, tokens);
        assert_memory_equal(a, b, (size_t)tokens * f.rows * sizeof *a);
        free(a);
        free(b);
    }
    f.l.ops->matrix_close(f.l.dev, again);
    close_fixture(&f);
}

/* A tied embedding. */
static void its_rows_are_embedded_exactly(void **state) {
    (void)state;
    if (!here()) skip();
    fixture f;
    open_fixture(&f, 80, 320, 2);
    int32_t ids[80];
    for (int32_t i = 0; i < 80; i++)
        ids[i] = 79 - i;
    float *out = lab_alloc(&f.l, (size_t)80 * 320 * sizeof *out);
    kern_embed op = {.table = f.matrix, .ids = ids, .token_count = 80, .scale = 1, .out = out};
    f.l.ops->embed(f.l.dev, &op);
    for (uint32_t t = 0; t < 80; t++)
        for (uint32_t k = 0; k < 320; k++) {
            const uint8_t *block = f.blocks + ((size_t)(79 - t) * 10 + k / BLOCK) * 34;
            uint16_t half;
            memcpy(&half, block, sizeof half);
            float want = f32_of_f16(half) * (float)(int8_t)block[2 + k % BLOCK];
            assert_true(out[(size_t)t * 320 + k] == want);
        }
    lab_release(&f.l, KIND_F32, out, (size_t)80 * 320);
    close_fixture(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_number_of_tokens_gives_what_is_defined),
        cmocka_unit_test(blocks_at_the_borders_too),
        cmocka_unit_test(an_image_of_it_is_it),
        cmocka_unit_test(its_rows_are_embedded_exactly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
