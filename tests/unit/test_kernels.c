/* test_kernels.c - the CPU levels held to ref, and to themselves bit for bit (Law 1). */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/unit/linear_case.h"

/* Of F32 outputs, relative to the largest of them; both sides see the same bf16 inputs. */
static const float F32_TOLERANCE = 2e-5f;
/* The same where the AMX level rounds weights to bf16: of capped outputs the largest is below the sums that
 * the roundings were of. */
static const float ROUNDED_TOLERANCE = 2e-2f;
/* Of bf16 outputs: half a step of bf16 is 2^-9; and F32_TOLERANCE of the largest, for what was rounded. */
static const float ACT_TOLERANCE = 6e-3f;

static const kern_level levels[] = {LEVEL_AVX2, LEVEL_AVX512, LEVEL_AMX};
enum { LEVELS = sizeof levels / sizeof levels[0] };

static bool have(kern_level level) { return kern_cpu_best_level() >= level; }

static float largest(const float *values, size_t count) {
    float top = 0;
    for (size_t i = 0; i < count; i++)
        top = fmaxf(top, fabsf(values[i]));
    return top;
}

/* |got - want| <= tolerance * (|want| + floor); a NaN on either side fails. */
static void assert_close(const float *got, const float *want, size_t count, float tolerance,
                         float floor, const char *what) {
    for (size_t i = 0; i < count; i++) {
        float error = fabsf(got[i] - want[i]);
        if (!(error <= tolerance * (fabsf(want[i]) + floor)))
            fail_msg("%s: element %zu is %g, ref has %g", what, i, (double)got[i], (double)want[i]);
    }
}

/* --- linear ------------------------------------------------------------------------------- */

/* Columns near `wanted` that the format allows. */
static uint32_t cols_of(esp_dtype dtype, uint32_t wanted) {
    uint32_t block = dtype_info(dtype)->block_elements;
    return (wanted + block - 1) / block * block;
}

/* The op over tokens first .. first + count of the case's inputs; free() the result. */
static float *linear_of(const lab *l, const linear_case *c, uint32_t first, uint32_t count) {
    size_t in_count = (size_t)c->tokens * c->cols, out_count = (size_t)count * out_cols(c);
    float *in = lab_random(7, in_count), *before = lab_random(9, (size_t)c->tokens * out_cols(c));
    size_t skip = (size_t)first * c->cols;
    kern_linear op = {
        .token_count = count,
        .epilogue = c->epilogue,
        .softcap = 2,
        .in = lab_upload(l, KIND_ACT, in + skip, in_count - skip),
        .out = lab_upload(l, out_kind(c), before + (size_t)first * out_cols(c), out_count)};
    take_matrices(l, c, &op);
    l->ops->linear(l->dev, &op);
    float *out = lab_download(l, out_kind(c), op.out, out_count);
    drop_matrices(l, c, &op);
    lab_release(l, KIND_ACT, (void *)op.in, in_count - skip);
    lab_release(l, out_kind(c), op.out, out_count);
    free(in);
    free(before);
    return out;
}

static bool is_rounded(kern_level level, esp_dtype dtype) {
    return level == LEVEL_AMX && dtype != DT_BF16;
}

static bool rounds(kern_level level, const linear_case *c) {
    bool rounded = false;
    for (uint32_t m = 0; m < c->matrices; m++)
        rounded = rounded || is_rounded(level, c->dtype[m]);
    return rounded;
}

static void compare_linear(const linear_case *c, uint32_t threads) {
    lab ref = lab_open(&kern_ref, LEVEL_AUTO, DT_F32, 1);
    float *want = linear_of(&ref, c, 0, c->tokens);
    size_t count = (size_t)c->tokens * out_cols(c);
    float top = largest(want, count);
    bool act = out_kind(c) == KIND_ACT;
    char what[96];
    for (uint32_t i = 0; i < LEVELS && have(levels[i]); i++) {
        lab cpu = lab_open(&kern_cpu, levels[i], DT_BF16, threads);
        float *got = linear_of(&cpu, c, 0, c->tokens);
        snprintf(what, sizeof what, "%s %s N=%u K=%u T=%u epilogue %d", cpu.ops->profile(cpu.dev),
                 dtype_info(c->dtype[0])->name, c->rows[0], c->cols, c->tokens, (int)c->epilogue);
        if (rounds(levels[i], c))
            assert_close(got, want, count, ROUNDED_TOLERANCE, top, what);
        else
            assert_close(got, want, count, act ? ACT_TOLERANCE : F32_TOLERANCE,
                         act ? top * F32_TOLERANCE / ACT_TOLERANCE : top, what);
        free(got);
        lab_close(&cpu);
    }
    free(want);
    lab_close(&ref);
}

/* Every format, with row counts that leave part of a tile, column counts that leave part of a block
 * where the format allows it, and token counts around each way through a strip. */
static void linear_agrees_with_ref(void **state) {
    (void)state;
    static const uint32_t rows[] = {1, 15, 16, 17, 64, 100, 131};
    static const uint32_t tokens[] = {1, 2, 3, 4, 5, 16, 7, 29, 40, 97};
    static const kern_epilogue plain[] = {EPI_STORE, EPI_RESIDUAL, EPI_SOFTCAP};
    for (int d = 0; d < DT_COUNT; d++) {
        uint32_t block = dtype_info((esp_dtype)d)->block_elements;
        for (uint32_t i = 0; i < 10; i++) {
            linear_case c = {.dtype = {(esp_dtype)d},
                             .rows = {rows[i % 7]},
                             .matrices = 1,
                             .cols = block == 1 ? 33 + 7 * i : block * (1 + i % 4),
                             .tokens = tokens[i],
                             .epilogue = plain[i % 3],
                             .bias = i % 3 == 0};
            compare_linear(&c, 1 + i % 3);
        }
    }
}

/* q, k and v in one op: outputs side by side, formats mixed, strips that straddle matrices. */
static void linear_puts_matrices_side_by_side(void **state) {
    (void)state;
    static const esp_dtype mixes[][3] = {
        {DT_Q4_1, DT_Q8_0, DT_Q4_1}, {DT_Q4_K, DT_Q2_K, DT_Q6_K}, {DT_Q5_0, DT_F16, DT_IQ4_XS}};
    for (uint32_t i = 0; i < 3; i++)
        for (uint32_t tokens = 1; tokens <= 20; tokens += 6) {
            linear_case c = {.dtype = {mixes[i][0], mixes[i][1], mixes[i][2]},
                             .rows = {72, 24, 25},
                             .matrices = 3,
                             .cols = i == 0 ? 96 : 256,
                             .tokens = tokens,
                             .bias = true};
            compare_linear(&c, 2);
        }
}

/* Columns sorted each matrix its own way, some alike, some as they are; what ref does by sorting the
 * weights back. */
static void linear_takes_inputs_in_each_matrix_order(void **state) {
    (void)state;
    static const uint64_t orders[][3] = {{5, 5, 5}, {5, 6, 7}, {5, 0, 5}, {0, 5, 0}, {0, 0, 9}};
    for (uint32_t i = 0; i < 5; i++)
        for (uint32_t tokens = 1; tokens <= 129; tokens *= 2 + tokens % 2) {
            linear_case plain = {.dtype = {DT_G4, DT_G3, i % 2 ? DT_G4 : DT_Q2_K},
                                 .rows = {72, 24, 25},
                                 .matrices = 3,
                                 .cols = i % 2 ? 96 : 256,
                                 .tokens = tokens};
            linear_case gated = {.dtype = {DT_G8, DT_G8},
                                 .rows = {40, 40},
                                 .matrices = 2,
                                 .cols = 64,
                                 .tokens = tokens,
                                 .epilogue = EPI_SILU_MUL};
            memcpy(plain.order, orders[i], sizeof plain.order);
            memcpy(gated.order, orders[i], sizeof gated.order);
            compare_linear(&plain, 1 + i % 3);
            compare_linear(&gated, 1 + i % 3);
        }
}

/* Weights in another order, inputs in another order: the same sums to the last bit. */
static void order_moves_inputs_to_their_columns(void **state) {
    (void)state;
    enum { COLS = 128, ROWS = 33, T = 9 };
    uint32_t *order = lab_shuffle(3, COLS);
    float *in = lab_random(4, T * COLS), moved[T * COLS];
    for (uint32_t t = 0; t < T; t++)
        for (uint32_t c = 0; c < COLS; c++)
            moved[t * COLS + c] = in[t * COLS + order[c]];
    for (uint32_t i = 0; i < LEVELS && have(levels[i]); i++) {
        lab l = lab_open(&kern_cpu, levels[i], DT_BF16, 2);
        float *out[2];
        for (uint32_t way = 0; way < 2; way++) {
            kern_matrix *w = lab_ordered_matrix(&l, DT_G4, ROWS, COLS, way ? NULL : order, 8);
            void *x = lab_upload(&l, KIND_ACT, way ? moved : in, T * COLS);
            out[way] = lab_alloc(&l, T * ROWS * sizeof(float));
            kern_linear op = {
                .in = x, .token_count = T, .matrix = {w}, .matrix_count = 1, .out = out[way]};
            l.ops->linear(l.dev, &op);
            l.ops->matrix_close(l.dev, w);
            lab_release(&l, KIND_ACT, x, T * COLS);
        }
        assert_same_bits(out[0], out[1], T * ROWS, "reordered");
        for (uint32_t way = 0; way < 2; way++)
            l.ops->release(l.dev, out[way], T * ROWS * sizeof(float));
        lab_close(&l);
    }
    free(in);
    free(order);
}

static void gated_linear_agrees_with_ref(void **state) {
    (void)state;
    for (int d = 0; d < DT_COUNT; d++)
        for (uint32_t tokens = 1; tokens <= 13; tokens += 3) {
            linear_case c = {.dtype = {(esp_dtype)d, (esp_dtype)d},
                             .rows = {89, 89},
                             .matrices = 2,
                             .cols = cols_of((esp_dtype)d, 64),
                             .tokens = tokens,
                             .epilogue = tokens % 2 ? EPI_SILU_MUL : EPI_GELU_MUL,
                             .bias = tokens == 4};
            compare_linear(&c, 2);
        }
    linear_case mixed = {.dtype = {DT_Q4_0, DT_F16},
                         .rows = {40, 40},
                         .matrices = 2,
                         .cols = 64,
                         .tokens = 9,
                         .epilogue = EPI_SILU_MUL};
    compare_linear(&mixed, 3);
}

static float largest_of(const float *values, uint32_t count) {
    float largest = 0;
    for (uint32_t i = 0; i < count; i++)
        largest = fmaxf(largest, fabsf(values[i]));
    return largest;
}

/* The AMX level makes weights bf16, within two thirds of a unit and of bytes a little of their scale (unpack_amx.h);
 * a denormal one counts as zero. largest: weight of the row. */
static bool is_weight(kern_level level, esp_dtype dtype, float got, float want, float largest) {
    if (!is_rounded(level, dtype)) return got == want;
    return fabsf(got - want) <= fabsf(want) / 192 + largest * 0x1p-15f + 1e-37f;
}

/* One-hot inputs read single weights out: they must be exactly what the format defines. */
static void packed_weights_are_exact(void **state) {
    (void)state;
    enum { ROWS = 37, COLS = 512 };
    float *hot = calloc((size_t)COLS * COLS, sizeof *hot), want[COLS];
    for (uint32_t k = 0; k < COLS; k++)
        hot[k * COLS + k] = 1;
    for (uint32_t i = 0; i < LEVELS && have(levels[i]); i++) {
        lab l = lab_open(&kern_cpu, levels[i], DT_BF16, 2);
        void *in = lab_upload(&l, KIND_ACT, hot, COLS * COLS);
        float *out = lab_alloc(&l, COLS * ROWS * sizeof *out);
        for (int d = 0; d < DT_COUNT; d++) {
            const dtype_row *info = dtype_info((esp_dtype)d);
            kern_matrix *matrix = lab_matrix(&l, (esp_dtype)d, ROWS, COLS, 3);
            uint8_t *blocks = lab_blocks((esp_dtype)d, ROWS, COLS, 3);
            kern_linear op = {.in = in,
                              .token_count = COLS,
                              .matrix = {matrix},
                              .matrix_count = 1,
                              .epilogue = EPI_STORE,
                              .out = out};
            l.ops->linear(l.dev, &op);
            for (uint32_t r = 0; r < ROWS; r++) {
                info->dequantise(blocks +
                                     (size_t)r * COLS / info->block_elements * info->block_bytes,
                                 want, COLS);
                const float largest = largest_of(want, COLS);
                for (uint32_t k = 0; k < COLS; k++)
                    if (!is_weight(levels[i], (esp_dtype)d, out[k * ROWS + r], want[k], largest))
                        fail_msg("%s: weight %u,%u is %a, not %a", info->name, r, k,
                                 (double)out[k * ROWS + r], (double)want[k]);
            }
            free(blocks);
            l.ops->matrix_close(l.dev, matrix);
        }
        lab_release(&l, KIND_ACT, in, COLS * COLS);
        l.ops->release(l.dev, out, COLS * ROWS * sizeof *out);
        lab_close(&l);
    }
    free(hot);
}

/* Law 1: a token's outputs alone, among some, among many, on any number of threads. */
static void linear_row_is_the_same_in_any_company(void **state) {
    (void)state;
    static const uint32_t counts[] = {1, 2, 3, 4, 5, 16, 33, 200};
    static const uint32_t threads[] = {1, 2, 3, 7};
    static const kern_epilogue epilogues[] = {EPI_STORE, EPI_RESIDUAL, EPI_SILU_MUL, EPI_GELU_MUL,
                                              EPI_SOFTCAP};
    for (uint32_t i = 0; i < LEVELS && have(levels[i]); i++)
        for (int d = 0; d < DT_COUNT; d++) {
            linear_case c = {.dtype = {(esp_dtype)d, (esp_dtype)d},
                             .rows = {83, 83},
                             .matrices = 2,
                             .cols = cols_of((esp_dtype)d, 128),
                             .tokens = 200,
                             .epilogue = epilogues[d % 5],
                             .order = {d % 3, d % 2}};
            lab alone = lab_open(&kern_cpu, levels[i], DT_BF16, 1);
            float *want = linear_of(&alone, &c, 0, c.tokens);
            for (uint32_t n = 0; n < 8; n++) {
                lab l = lab_open(&kern_cpu, levels[i], DT_BF16, threads[n % 4]);
                uint32_t first = n % 3 * 37 % (c.tokens - counts[n] + 1);
                float *got = linear_of(&l, &c, first, counts[n]);
                assert_same_bits(got, want + (size_t)first * out_cols(&c),
                                 (size_t)counts[n] * out_cols(&c), dtype_info((esp_dtype)d)->name);
                free(got);
                lab_close(&l);
            }
            for (uint32_t n = 0; n < 4; n++) {
                lab l = lab_open(&kern_cpu, levels[i], DT_BF16, threads[n]);
                float *got = linear_of(&l, &c, 0, c.tokens);
                assert_same_bits(got, want, (size_t)c.tokens * out_cols(&c), "threads");
                free(got);
                lab_close(&l);
            }
            free(want);
            lab_close(&alone);
        }
}

/* The same where the AMX level changes its way: scales are read in legs of 32 blocks, inputs kept for
 * ranges that L2 holds, two B tiles from 17 tokens on, chunks of 512; whole tiles are finished in registers. */
static void linear_row_is_the_same_in_long_rows(void **state) {
    (void)state;
    static const struct {
        esp_dtype dtype[2];
        kern_epilogue epilogue;
        bool bias;
        uint64_t order[2];
    } cases[] = {
        {{DT_Q4_0, DT_Q4_0}, EPI_STORE, false, {0, 0}},
        {{DT_Q4_K, DT_Q6_K}, EPI_SILU_MUL, false, {0, 0}},
        {{DT_G4, DT_G4}, EPI_SILU_MUL, false, {1, 2}},
        {{DT_Q8_0, DT_BF16}, EPI_RESIDUAL, true, {0, 1}},
        {{DT_F32, DT_Q5_1}, EPI_STORE, false, {0, 0}},
    };
    static const uint32_t counts[] = {1, 15, 16, 17, 31, 32, 33, 513};
    if (!have(LEVEL_AMX)) skip();
    for (uint32_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        linear_case c = {.dtype = {cases[i].dtype[0], cases[i].dtype[1]},
                         .rows = {80, 80},
                         .matrices = 2,
                         .cols = 6 * 256,
                         .tokens = 530,
                         .epilogue = cases[i].epilogue,
                         .bias = cases[i].bias,
                         .order = {cases[i].order[0], cases[i].order[1]}};
        lab alone = lab_open(&kern_cpu, LEVEL_AMX, DT_BF16, 1);
        float *want = linear_of(&alone, &c, 0, c.tokens);
        for (uint32_t n = 0; n < sizeof counts / sizeof counts[0]; n++) {
            lab l = lab_open(&kern_cpu, LEVEL_AMX, DT_BF16, 1 + n % 3);
            float *got = linear_of(&l, &c, n, counts[n]);
            assert_same_bits(got, want + (size_t)n * out_cols(&c), (size_t)counts[n] * out_cols(&c),
                             dtype_info(c.dtype[0])->name);
            free(got);
            lab_close(&l);
        }
        free(want);
        lab_close(&alone);
    }
}

/* A step that computes no row, such as one where no logits are wanted, touches nothing. */
static void linear_of_no_tokens_does_nothing(void **state) {
    (void)state;
    const kern_ops *all[] = {&kern_ref, &kern_cpu};
    for (uint32_t i = 0; i < (have(LEVEL_AVX2) ? 2 : 1); i++) {
        lab l = lab_open(all[i], LEVEL_AUTO, DT_F32, 2);
        kern_matrix *matrix = lab_matrix(&l, DT_F32, 16, 32, 1);
        float out[16] = {5};
        kern_linear op = {.in = out, .matrix = {matrix}, .matrix_count = 1, .out = out};
        l.ops->linear(l.dev, &op);
        assert_true(out[0] == 5);
        l.ops->matrix_close(l.dev, matrix);
        lab_close(&l);
    }
}

/* Quantised matrices stay quantised: within a tile's padding of the file's bytes, and 4% where
 * scales of six bits take a byte each. */
static void packed_matrix_is_as_large_as_the_file(void **state) {
    (void)state;
    if (!have(LEVEL_AVX2)) skip();
    lab l = lab_open(&kern_cpu, LEVEL_AUTO, DT_BF16, 1);
    for (int d = 0; d < DT_COUNT; d++) {
        const dtype_row *info = dtype_info((esp_dtype)d);
        kern_matrix *matrix = lab_matrix(&l, (esp_dtype)d, 192, 256, 1);
        size_t file = 192 * 256 / info->block_elements * info->block_bytes;
        size_t scales = info->block_elements == 256 ? file / 25 : 0;
        assert_in_range(l.ops->matrix_bytes(matrix), file, file + scales + 256);
        l.ops->matrix_close(l.dev, matrix);
    }
    lab_close(&l);
}

/* A matrix over its own image, in other memory, on another device: the same bits; of any format and
 * order. One whose bytes do not fit its shape is refused. */
static void image_of_a_matrix_computes_the_same(void **state) {
    (void)state;
    enum { ROWS = 45, COLS = 256, T = 3 };
    const kern_ops *all[] = {&kern_ref, &kern_cpu};
    uint32_t *order = lab_shuffle(2, COLS);
    float *in = lab_random(1, T * COLS);
    for (uint32_t i = 0; i < (have(LEVEL_AVX2) ? 2 : 1); i++)
        for (int d = 0; d < DT_COUNT; d++) {
            lab l = lab_open(all[i], LEVEL_AUTO, DT_F32, 1),
                other = lab_open(all[i], LEVEL_AUTO, DT_F32, 2);
            kern_matrix *first =
                lab_ordered_matrix(&l, (esp_dtype)d, ROWS, COLS, d % 2 ? order : NULL, 6);
            kern_matrix *second = NULL;
            kern_image image;
            esp_error err = {0};
            assert_int_equal(l.ops->image(first, &image, &err), ESP_OK);
            kern_matrix_shape shape = l.ops->shape(first);
            assert_true(shape.dtype == (esp_dtype)d && shape.rows == ROWS && shape.cols == COLS);
            void *copy = lab_alloc(&other, image.count);
            memcpy(copy, image.bytes, image.count);
            image.bytes = copy;
            image.count--;
            assert_int_equal(l.ops->open_image(other.dev, &image, &second, &err), ESP_INVALID);
            image.count++;
            image.rows += 64;
            assert_int_equal(l.ops->open_image(other.dev, &image, &second, &err), ESP_INVALID);
            image.rows -= 64;
            assert_int_equal(l.ops->open_image(other.dev, &image, &second, &err), ESP_OK);
            float out[2][T * ROWS];
            kern_linear op = {.in = lab_upload(&l, KIND_ACT, in, T * COLS),
                              .token_count = T,
                              .matrix = {first},
                              .matrix_count = 1,
                              .out = out[0]};
            l.ops->linear(l.dev, &op);
            op.matrix[0] = second;
            op.out = out[1];
            l.ops->linear(other.dev, &op);
            assert_same_bits(out[1], out[0], T * ROWS, dtype_info((esp_dtype)d)->name);
            lab_release(&l, KIND_ACT, (void *)op.in, T * COLS);
            l.ops->matrix_close(l.dev, first);
            l.ops->matrix_close(other.dev, second);
            l.ops->release(other.dev, copy, image.count);
            lab_close(&l);
            lab_close(&other);
        }
    free(in);
    free(order);
}

/* What a damaged file may say. */
static void impossible_images_are_refused(void **state) {
    (void)state;
    _Alignas(64) static uint8_t bytes[4096];
    static const uint32_t twice[32] = {0}, far[32] = {0, 1, 2, 900};
    static const kern_image bad[] = {{DT_COUNT, 16, 32, NULL, bytes, 512, false},
                                     {DT_Q4_1, 0, 32, NULL, bytes, 0, false},
                                     {DT_Q4_1, 16, 0, NULL, bytes, 0, false},
                                     {DT_Q4_1, 16, 33, NULL, bytes, 320, false},
                                     {DT_Q4_1, 16, 32, NULL, bytes + 8, 320, false},
                                     {DT_Q4_1, 16, 32, twice, bytes, 320, false},
                                     {DT_Q4_1, 16, 32, far, bytes, 320, false},
                                     {DT_F32, UINT32_MAX, UINT32_MAX, NULL, bytes, 4096, false}};
    const kern_ops *all[] = {&kern_ref, &kern_cpu};
    for (uint32_t i = 0; i < (have(LEVEL_AVX2) ? 2 : 1); i++) {
        lab l = lab_open(all[i], LEVEL_AUTO, DT_F32, 1);
        for (size_t b = 0; b < sizeof bad / sizeof *bad; b++) {
            kern_matrix *matrix;
            esp_error err = {0};
            assert_int_equal(all[i]->open_image(l.dev, &bad[b], &matrix, &err), ESP_INVALID);
            assert_null(matrix);
        }
        lab_close(&l);
    }
}

/* --- embed, norm -------------------------------------------------------------------------- */

/* Rows come out of the packed tiles exactly as the reference reads them from the blocks. */
static void embed_is_exact(void **state) {
    (void)state;
    enum { V = 45, H = 512, T = 7 };
    static const int32_t ids[T] = {0, 44, 15, 16, 31, 3, 44};
    if (!have(LEVEL_AVX2)) skip();
    lab ref = lab_open(&kern_ref, LEVEL_AUTO, DT_F32, 1);
    lab cpu = lab_open(&kern_cpu, LEVEL_AUTO, DT_BF16, 2);
    float want[T * H], got[T * H];
    uint32_t *order = lab_shuffle(12, H);
    for (int d = 0; d < DT_COUNT; d++) {
        const uint32_t *columns = d % 2 ? order : NULL;
        kern_matrix *a = lab_ordered_matrix(&ref, (esp_dtype)d, V, H, columns, 3);
        kern_matrix *b = lab_ordered_matrix(&cpu, (esp_dtype)d, V, H, columns, 3);
        kern_embed op = {.table = a, .ids = ids, .token_count = T, .scale = 1.7f, .out = want};
        kern_ref.embed(ref.dev, &op);
        op.table = b;
        op.out = got;
        kern_cpu.embed(cpu.dev, &op);
        for (uint32_t i = 0; i < T * H; i++)
            assert_true(got[i] == want[i]);
        kern_ref.matrix_close(ref.dev, a);
        kern_cpu.matrix_close(cpu.dev, b);
    }
    free(order);
    lab_close(&ref);
    lab_close(&cpu);
}

static float *norm_of(const lab *l, uint32_t width, uint32_t count, const uint32_t *rows) {
    enum { IN_ROWS = 40 };
    void *in = lab_upload_random(l, KIND_F32, 5, IN_ROWS * (size_t)width);
    void *weight = lab_upload_random(l, KIND_F32, 6, width);
    size_t bytes = (size_t)count * width * l->ops->element_bytes(l->dev, KIND_ACT);
    kern_norm op = {.in = in,
                    .rows = rows,
                    .count = count,
                    .width = width,
                    .weight = weight,
                    .eps = 1e-5f,
                    .out = lab_alloc(l, bytes)};
    l->ops->norm(l->dev, &op);
    float *out = lab_download(l, KIND_ACT, op.out, (size_t)count * width);
    lab_release(l, KIND_F32, in, IN_ROWS * (size_t)width);
    lab_release(l, KIND_F32, weight, width);
    l->ops->release(l->dev, op.out, bytes);
    return out;
}

/* Widths with and without a tail, few rows (on the caller) and many (on the pool), rows picked. */
static void norm_agrees_with_ref(void **state) {
    (void)state;
    static const uint32_t widths[] = {1, 7, 16, 64, 100, 576, 577};
    static const uint32_t picked[] = {39, 0, 17};
    lab ref = lab_open(&kern_ref, LEVEL_AUTO, DT_F32, 1);
    for (uint32_t i = 0; i < LEVELS && have(levels[i]); i++) {
        lab cpu = lab_open(&kern_cpu, levels[i], DT_BF16, 3);
        for (uint32_t w = 0; w < 7; w++)
            for (uint32_t count = 1; count <= 40; count += 13) {
                const uint32_t *rows = count == 1 ? picked : NULL;
                uint32_t n = rows ? 3 : count;
                float *want = norm_of(&ref, widths[w], n, rows);
                float *got = norm_of(&cpu, widths[w], n, rows);
                assert_close(got, want, (size_t)n * widths[w], ACT_TOLERANCE, 1e-6f, "norm");
                free(want);
                free(got);
            }
        lab_close(&cpu);
    }
    lab_close(&ref);
}

/* The normed rows of norm_of, added to out by the op itself; free() them. */
static float *residual_norm_of(const lab *l, uint32_t width, uint32_t count) {
    size_t elements = (size_t)count * width;
    void *in = lab_upload_random(l, KIND_F32, 5, elements);
    void *weight = lab_upload_random(l, KIND_F32, 6, width);
    kern_norm op = {.in = in,
                    .count = count,
                    .width = width,
                    .weight = weight,
                    .eps = 1e-5f,
                    .residual = true,
                    .out = lab_upload_random(l, KIND_F32, 8, elements)};
    l->ops->norm(l->dev, &op);
    float *out = lab_download(l, KIND_F32, op.out, elements);
    lab_release(l, KIND_F32, in, elements);
    lab_release(l, KIND_F32, weight, width);
    lab_release(l, KIND_F32, op.out, elements);
    return out;
}

/* A norm behind a sublayer adds to the residual stream in float32. */
static void residual_norm_agrees_with_ref(void **state) {
    (void)state;
    static const uint32_t widths[] = {1, 7, 16, 100, 577};
    lab ref = lab_open(&kern_ref, LEVEL_AUTO, DT_F32, 1);
    for (uint32_t i = 0; i < LEVELS && have(levels[i]); i++) {
        lab cpu = lab_open(&kern_cpu, levels[i], DT_BF16, 3);
        for (uint32_t w = 0; w < 5; w++) {
            float *want = residual_norm_of(&ref, widths[w], 40);
            float *got = residual_norm_of(&cpu, widths[w], 40);
            float *alone = residual_norm_of(&cpu, widths[w], 1);
            assert_close(got, want, 40 * (size_t)widths[w], 1e-6f, 1, "residual norm");
            assert_same_bits(alone, got, widths[w], "residual norm");
            free(want);
            free(got);
            free(alone);
        }
        lab_close(&cpu);
    }
    lab_close(&ref);
}

static void norm_row_is_the_same_in_any_company(void **state) {
    (void)state;
    for (uint32_t i = 0; i < LEVELS && have(levels[i]); i++) {
        lab cpu = lab_open(&kern_cpu, levels[i], DT_BF16, 3);
        float *want = norm_of(&cpu, 576, 40, NULL);
        for (uint32_t row = 0; row < 40; row++) {
            float *got = norm_of(&cpu, 576, 1, &row);
            assert_same_bits(got, want + (size_t)row * 576, 576, "norm");
            free(got);
        }
        free(want);
        lab_close(&cpu);
    }
}

/* --- rope_store and attention ------------------------------------------------------------- */

enum { SEQS = 3, GROUPS = 2, LAYERS = 2 };

typedef struct attention_case {
    uint32_t heads, kv_heads, dim, rotary, window;
    bool interleaved;
    bool head_norm;   /* of q and k */
    bool second_long; /* the second sequence is turned by the long table */
    float softcap;
    uint32_t lengths[SEQS];
    uint32_t nan_from;  /* q, k and v are NaN from this position on; 0: nowhere */
    uint32_t nan_until; /* and before this one */
} attention_case;

/* What a whole run leaves, in order of (sequence, position). */
typedef struct attention_result {
    float *out; /* [tokens][heads * dim] */
    float *q;   /* the same shape: rotated queries */
    size_t count;
} attention_result;

static size_t row_of(const attention_case *c, uint32_t seq, uint32_t position) {
    size_t row = position;
    for (uint32_t s = 0; s < seq; s++)
        row += c->lengths[s];
    return row;
}

static float *angles_of(const attention_case *c, uint32_t positions, float theta) {
    float *angles = malloc((size_t)positions * c->rotary * sizeof *angles + 1);
    for (uint32_t p = 0; p < positions; p++)
        for (uint32_t i = 0; i < c->rotary / 2; i++) {
            float angle = (float)p * powf(theta, -2.0f * (float)i / (float)c->rotary);
            angles[(size_t)p * c->rotary + 2 * i] = cosf(angle);
            angles[(size_t)p * c->rotary + 2 * i + 1] = sinf(angle);
        }
    return angles;
}

/* q, k and v of a token depend on its sequence and position only, not on the chunking. */
static void fill_qkv(const attention_case *c, const lab_batch *batch, float *qkv) {
    uint32_t stride = (c->heads + 2 * c->kv_heads) * c->dim;
    for (uint32_t t = 0; t < batch->b.token_count; t++) {
        uint32_t seq = batch->seq_of[batch->b.token_seq[t]], position = batch->b.positions[t];
        bool bad = (c->nan_from && position >= c->nan_from) || position < c->nan_until;
        for (uint32_t i = 0; i < stride; i++)
            qkv[(size_t)t * stride + i] = bad ? NAN : 2 * lab_value(1000 * seq + position + 1, i);
    }
}

static void attention_step(const lab *l, const attention_case *c, const lab_batch *batch,
                           const kern_kv_layer *kv, const float *angles, const float *long_angles,
                           attention_result *result) {
    uint32_t stride = (c->heads + 2 * c->kv_heads) * c->dim, width = c->heads * c->dim;
    size_t tokens = batch->b.token_count, act = l->ops->element_bytes(l->dev, KIND_ACT);
    float *qkv = lab_alloc(l, tokens * stride * sizeof *qkv);
    fill_qkv(c, batch, qkv);
    uint8_t seq_long[SEQS] = {0};
    for (uint32_t s = 0; s < batch->b.seq_count; s++)
        seq_long[s] = c->second_long && batch->seq_of[s] == 1;
    step_batch b = batch->b;
    b.seq_long = c->second_long ? seq_long : NULL;
    void *weights[2] = {lab_upload_random(l, KIND_F32, 21, c->dim),
                        lab_upload_random(l, KIND_F32, 22, c->dim)};
    kern_rope_store rope = {.batch = &b,
                            .qkv = qkv,
                            .heads = c->heads,
                            .rotary = c->rotary,
                            .interleaved = c->interleaved,
                            .cos_sin = angles,
                            .long_cos_sin = c->second_long ? long_angles : NULL,
                            .q_norm = c->head_norm ? weights[0] : NULL,
                            .k_norm = c->head_norm ? weights[1] : NULL,
                            .norm_eps = 1e-5f,
                            .kv = *kv};
    l->ops->rope_store(l->dev, &rope);
    kern_attention attention = {.batch = &batch->b,
                                .qkv = qkv,
                                .heads = c->heads,
                                .scale = 1 / sqrtf((float)c->dim),
                                .softcap = c->softcap,
                                .window = c->window,
                                .kv = *kv,
                                .out = lab_alloc(l, tokens * width * act)};
    l->ops->attention(l->dev, &attention);
    float *out = lab_download(l, KIND_ACT, attention.out, tokens * width);
    for (uint32_t t = 0; t < tokens; t++) {
        size_t row = row_of(c, batch->seq_of[batch->b.token_seq[t]], batch->b.positions[t]);
        memcpy(result->out + row * width, out + (size_t)t * width, width * sizeof *out);
        memcpy(result->q + row * width, qkv + (size_t)t * stride, width * sizeof *out);
    }
    free(out);
    lab_release(l, KIND_F32, weights[0], c->dim);
    lab_release(l, KIND_F32, weights[1], c->dim);
    l->ops->release(l->dev, attention.out, tokens * width * act);
    l->ops->release(l->dev, qkv, tokens * stride * sizeof *qkv);
}

/* All sequences side by side, `chunk` tokens of each a step, in pages that start out as NaN. */
static attention_result attention_of(const lab *l, const attention_case *c, uint32_t chunk) {
    uint32_t cached[SEQS] = {0}, tokens[SEQS], longest = 0;
    for (uint32_t s = 0; s < SEQS; s++)
        longest = c->lengths[s] > longest ? c->lengths[s] : longest;
    uint32_t stride = (longest + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    kern_kv_shape shape = {.layers = LAYERS, .kv_heads = c->kv_heads, .head_dim = c->dim};
    kern_kv_layer kv = {.shape = &shape,
                        .group = 1,
                        .layer = 1,
                        .frame_bytes = l->ops->frame_bytes(l->dev, &shape)};
    size_t arena = (size_t)GROUPS * SEQS * stride * kv.frame_bytes;
    kv.arena = lab_alloc(l, arena);
    memset(kv.arena, 0xff, arena);
    assert_int_equal(kv.frame_bytes % 64, 0);
    attention_result result = {.count = row_of(c, SEQS, 0) * c->heads * c->dim};
    result.out = malloc(result.count * sizeof *result.out);
    result.q = malloc(result.count * sizeof *result.q);
    float *angles = angles_of(c, longest, 10000), *long_angles = angles_of(c, longest, 70000);
    for (uint32_t left = 1; left > 0;) {
        left = 0;
        for (uint32_t s = 0; s < SEQS; s++) {
            uint32_t rest = c->lengths[s] - cached[s];
            tokens[s] = rest < chunk ? rest : chunk;
            left += tokens[s];
        }
        lab_batch batch = lab_batch_of(SEQS, cached, tokens, GROUPS, stride);
        if (left > 0) attention_step(l, c, &batch, &kv, angles, long_angles, &result);
        lab_batch_free(&batch);
        for (uint32_t s = 0; s < SEQS; s++)
            cached[s] += tokens[s];
    }
    free(angles);
    free(long_angles);
    l->ops->release(l->dev, kv.arena, arena);
    return result;
}

static void result_free(attention_result *result) {
    free(result->out);
    free(result->q);
}

static const attention_case attention_cases[] = {
    {.heads = 9, .kv_heads = 3, .dim = 64, .rotary = 64, .lengths = {1, 37, 70}},
    {.heads = 9, .kv_heads = 3, .dim = 64, .rotary = 64, .window = 20, .lengths = {90, 16, 17}},
    {.heads = 2,
     .kv_heads = 2,
     .dim = 16,
     .rotary = 16,
     .interleaved = true,
     .lengths = {5, 33, 48}},
    {.heads = 8, .kv_heads = 1, .dim = 80, .rotary = 60, .lengths = {15, 31, 64}},
    {.heads = 3, .kv_heads = 1, .dim = 128, .rotary = 96, .window = 16, .lengths = {40, 3, 65}},
    {.heads = 4,
     .kv_heads = 2,
     .dim = 256,
     .rotary = 256,
     .interleaved = true,
     .lengths = {34, 18, 2}},
    {.heads = 100, .kv_heads = 1, .dim = 16, .rotary = 8, .window = 1, .lengths = {20, 1, 2}},
    {.heads = 5, .kv_heads = 5, .dim = 20, .rotary = 20, .lengths = {18, 33, 7}},
    {.heads = 6,
     .kv_heads = 3,
     .dim = 48,
     .rotary = 36,
     .head_norm = true,
     .second_long = true,
     .softcap = 1.5f,
     .window = 21,
     .lengths = {35, 50, 9}},
    {.heads = 4, .kv_heads = 1, .dim = 20, .rotary = 20, .head_norm = true, .lengths = {3, 33, 7}},
    {.heads = 3, .kv_heads = 3, .dim = 32, .rotary = 32, .softcap = 0.5f, .lengths = {3, 70, 7}},
    /* one query more than a tile of the AMX level takes */
    {.heads = 34, .kv_heads = 2, .dim = 32, .rotary = 32, .lengths = {17, 1, 33}},
    /* several blocks of spans there; items of many tiles and of one */
    {.heads = 6, .kv_heads = 2, .dim = 64, .rotary = 64, .lengths = {700, 5, 290}},
    {.heads = 3,
     .kv_heads = 1,
     .dim = 24,
     .rotary = 24,
     .softcap = 2,
     .window = 600,
     .lengths = {66, 700, 65}},
    {.heads = 4, .kv_heads = 2, .dim = 96, .rotary = 96, .window = 5, .lengths = {40, 16, 130}},
    {.heads = 2, .kv_heads = 1, .dim = 512, .rotary = 512, .lengths = {70, 3, 17}},
    {.heads = 2, .kv_heads = 2, .dim = 2, .rotary = 2, .lengths = {5, 33, 64}},
};
enum { ATTENTION_CASES = sizeof attention_cases / sizeof attention_cases[0] };

/* Grouped heads, odd widths, windows, sequences of several lengths at once in shuffled frames; K
 * and V in bf16 and in f32. */
static void attention_agrees_with_ref(void **state) {
    (void)state;
    static const esp_dtype kv[] = {DT_BF16, DT_F32};
    static const uint32_t chunks[] = {1000, 1, 19};
    lab ref = lab_open(&kern_ref, LEVEL_AUTO, DT_F32, 2);
    for (uint32_t i = 0; i < ATTENTION_CASES; i++) {
        const attention_case *c = &attention_cases[i];
        attention_result want = attention_of(&ref, c, 1000);
        for (uint32_t n = 0; n < 2 * LEVELS && have(levels[n / 2]); n++) {
            lab cpu = lab_open(&kern_cpu, levels[n / 2], kv[n % 2], 1 + i % 3);
            attention_result got = attention_of(&cpu, c, chunks[i % 3]);
            assert_close(got.q, want.q, want.count, 1e-6f, 1, "q");
            /* bf16 keys move scores by 2^-9 of their terms; f32 ones leave the output's rounding */
            assert_close(got.out, want.out, want.count, n % 2 ? ACT_TOLERANCE : 1e-2f,
                         n % 2 ? 1e-4f : 1, "attention");
            result_free(&got);
            lab_close(&cpu);
        }
        result_free(&want);
    }
    lab_close(&ref);
}

/* Law 1: token by token, in chunks that end inside pages, or all at once; one thread or many. */
static void attention_is_the_same_however_it_is_chunked(void **state) {
    (void)state;
    static const uint32_t chunks[] = {1, 5, 16, 17, 50};
    static const uint32_t threads[] = {1, 2, 3, 7, 1};
    for (uint32_t i = 0; i < ATTENTION_CASES; i++)
        for (uint32_t n = 0; n < 2 * LEVELS && have(levels[n / 2]); n++) {
            const attention_case *c = &attention_cases[i];
            lab alone = lab_open(&kern_cpu, levels[n / 2], n % 2 ? DT_F32 : DT_BF16, 1);
            attention_result want = attention_of(&alone, c, 1000);
            for (uint32_t k = 0; k < 5; k++) {
                lab l = lab_open(&kern_cpu, levels[n / 2], n % 2 ? DT_F32 : DT_BF16, threads[k]);
                attention_result got = attention_of(&l, c, chunks[k]);
                assert_same_bits(got.q, want.q, want.count, "q");
                assert_same_bits(got.out, want.out, want.count, "attention");
                result_free(&got);
                lab_close(&l);
            }
            result_free(&want);
            lab_close(&alone);
        }
}

/* Law 1: a sequence alone, and between others. */
static void attention_is_the_same_in_any_company(void **state) {
    (void)state;
    for (uint32_t i = 0; i < ATTENTION_CASES; i++)
        for (uint32_t n = 0; n < 2 * LEVELS && have(levels[n / 2]); n++) {
            attention_case c = attention_cases[i];
            size_t first = (size_t)c.lengths[0] * c.heads * c.dim;
            size_t count = (size_t)c.lengths[1] * c.heads * c.dim;
            lab l = lab_open(&kern_cpu, levels[n / 2], n % 2 ? DT_F32 : DT_BF16, 1 + i % 3);
            attention_result want = attention_of(&l, &c, 50);
            c.lengths[0] = c.lengths[2] = 0;
            attention_result got = attention_of(&l, &c, 1000);
            assert_int_equal(got.count, count);
            assert_same_bits(got.out, want.out + first, count, "attention");
            result_free(&got);
            result_free(&want);
            lab_close(&l);
        }
}

/* Positions begin .. of each sequence, before `end`, have the same bits though others are NaN as `bad` says. */
static void expect_rows_unmoved(kern_level level, esp_dtype kv, attention_case c,
                                attention_case bad, uint32_t begin, uint32_t end) {
    lab l = lab_open(&kern_cpu, level, kv, 2);
    attention_result want = attention_of(&l, &c, 1000), got = attention_of(&l, &bad, 1000);
    for (uint32_t s = 0; s < SEQS; s++) {
        uint32_t last = c.lengths[s] < end ? c.lengths[s] : end;
        if (begin >= last) continue;
        size_t first = (row_of(&c, s, 0) + begin) * c.heads * c.dim;
        assert_same_bits(got.out + first, want.out + first,
                         (size_t)(last - begin) * c.heads * c.dim, "attention");
    }
    result_free(&got);
    result_free(&want);
    lab_close(&l);
}

/* Law 1 where a model's numbers fail: tokens whose keys and values are NaN leave alone those of their page and their step
 * that do not see them: earlier ones, and, behind a window, later ones. Not so at the AMX level: its tiles multiply
 * values out of range by 0. */
static void attention_never_reads_what_a_token_does_not_see(void **state) {
    (void)state;
    enum { SOME = 21 };
    for (uint32_t i = 0; i < ATTENTION_CASES; i++)
        for (uint32_t n = 0; n < 2 * LEVELS && have(levels[n / 2]); n++) {
            if (levels[n / 2] == LEVEL_AMX) continue;
            esp_dtype kv = n % 2 ? DT_F32 : DT_BF16;
            attention_case c = attention_cases[i], bad = c;
            bad.nan_from = SOME;
            expect_rows_unmoved(levels[n / 2], kv, c, bad, 0, SOME);
            if (!c.window) continue;
            bad.nan_from = 0;
            bad.nan_until = SOME;
            expect_rows_unmoved(levels[n / 2], kv, c, bad, SOME + c.window - 1, UINT32_MAX);
        }
}

/* The reference keeps to its own law too: threads and chunks change nothing. */
static void ref_is_the_same_on_any_number_of_threads(void **state) {
    (void)state;
    lab one = lab_open(&kern_ref, LEVEL_AUTO, DT_F32, 1);
    lab many = lab_open(&kern_ref, LEVEL_AUTO, DT_F32, 3);
    attention_result want = attention_of(&one, &attention_cases[0], 1000);
    attention_result got = attention_of(&many, &attention_cases[0], 7);
    assert_same_bits(got.out, want.out, want.count, "attention");
    result_free(&want);
    result_free(&got);
    linear_case c = {.dtype = {DT_Q4_0}, .rows = {50}, .matrices = 1, .cols = 64, .tokens = 9};
    float *a = linear_of(&one, &c, 0, 9), *b = linear_of(&many, &c, 4, 5);
    assert_same_bits(b, a + 4 * 50, 5 * 50, "linear");
    free(a);
    free(b);
    lab_close(&one);
    lab_close(&many);
}

/* --- ref against sums in double ----------------------------------------------------------- */

/* ref is the oracle of the others; here it is held to the formula itself. */
static void ref_linear_is_the_sum_of_products(void **state) {
    (void)state;
    enum { N = 19, K = 256, T = 3 };
    lab l = lab_open(&kern_ref, LEVEL_AUTO, DT_F32, 2);
    for (int d = 0; d < DT_COUNT; d++) {
        const dtype_row *info = dtype_info((esp_dtype)d);
        linear_case c = {
            .dtype = {(esp_dtype)d}, .rows = {N}, .matrices = 1, .cols = K, .tokens = T};
        float *got = linear_of(&l, &c, 0, T), *x = lab_random(7, T * K), w[K];
        uint8_t *blocks = lab_blocks((esp_dtype)d, N, K, 100);
        for (uint32_t n = 0; n < N; n++) {
            info->dequantise(blocks + (size_t)n * K / info->block_elements * info->block_bytes, w,
                             K);
            for (uint32_t t = 0; t < T; t++) {
                double sum = 0;
                for (uint32_t k = 0; k < K; k++)
                    sum += (double)w[k] * (double)f32_of_bf16(bf16_of_f32(x[t * K + k]));
                assert_true(fabs((double)got[t * N + n] - sum) <= 1e-4);
            }
        }
        free(blocks);
        free(x);
        free(got);
    }
    lab_close(&l);
}

/* One head, two dims of which both turn: the softmax over three keys written out. */
static void ref_attention_is_the_softmax_of_scores(void **state) {
    (void)state;
    lab l = lab_open(&kern_ref, LEVEL_AUTO, DT_F32, 1);
    attention_case c = {.heads = 1, .kv_heads = 1, .dim = 2, .rotary = 2, .lengths = {3, 0, 0}};
    attention_result got = attention_of(&l, &c, 3);
    double k[3][2], q[2], weight[3], sum = 0, out[2] = {0};
    for (uint32_t p = 0; p < 3; p++) {
        double a = p, x[6];
        for (uint32_t i = 0; i < 6; i++)
            x[i] = 2 * (double)lab_value(p + 1, i);
        q[0] = x[0] * cos(a) - x[1] * sin(a), q[1] = x[1] * cos(a) + x[0] * sin(a);
        k[p][0] = x[2] * cos(a) - x[3] * sin(a), k[p][1] = x[3] * cos(a) + x[2] * sin(a);
    }
    for (uint32_t p = 0; p < 3; p++)
        sum += weight[p] = exp((q[0] * k[p][0] + q[1] * k[p][1]) / sqrt(2.0));
    for (uint32_t p = 0; p < 3; p++)
        for (uint32_t i = 0; i < 2; i++)
            out[i] += weight[p] / sum * 2 * (double)lab_value(p + 1, 4 + i);
    for (uint32_t i = 0; i < 2; i++)
        assert_true(fabs((double)got.out[2 * 2 + i] - out[i]) <= 1e-5);
    result_free(&got);
    lab_close(&l);
}

/* --- opening ------------------------------------------------------------------------------ */

static void open_says_what_it_cannot_do(void **state) {
    (void)state;
    thread_pool *pool;
    esp_error err = {0};
    kern_device *dev;
    assert_int_equal(pool_open(&pool, 1, &err), ESP_OK);
    kern_options options = {.pool = pool, .kv_dtype = DT_BF16, .tokens_max = 8};
    assert_int_equal(kern_ref.open(&dev, &options, &err), ESP_INVALID);
    assert_string_equal(err.field, "--kv-dtype");
    options.kv_dtype = DT_Q8_0;
    assert_int_equal(kern_cpu.open(&dev, &options, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "Q8_0"));
    options.kv_dtype = DT_KV_INT8; /* which device has it is told */
    assert_int_equal(kern_cpu.open(&dev, &options, &err), ESP_INVALID);
    assert_string_equal(err.field, "--kv-dtype");
    assert_non_null(strstr(err.message, "int8 is of --device cuda"));
    assert_int_equal(kern_ref.open(&dev, &options, &err), ESP_OK);
    assert_string_equal(kern_ref.profile(dev), "ref,act=f32,kv=int8");
    kern_ref.close(dev);
    options.kv_dtype = DT_F32;
    options.tokens_max = 0;
    assert_int_equal(kern_ref.open(&dev, &options, &err), ESP_INVALID);
    assert_int_equal(kern_cpu.open(&dev, &options, &err), ESP_INVALID);
    options.tokens_max = 8;
    options.level = LEVEL_AMX;
    if (!have(LEVEL_AMX)) {
        assert_int_equal(kern_cpu.open(&dev, &options, &err), ESP_PRECONDITION);
        assert_string_equal(err.field, "--device");
        assert_null(dev);
    }
    kern_cpu.close(NULL);
    kern_ref.close(NULL);
    pool_close(pool);
}

static void profile_names_level_and_kv(void **state) {
    (void)state;
    if (!have(LEVEL_AVX2)) skip();
    lab avx2 = lab_open(&kern_cpu, LEVEL_AVX2, DT_F32, 1);
    assert_string_equal(kern_cpu.profile(avx2.dev), "cpu:avx2,act=bf16,kv=f32");
    lab_close(&avx2);
    lab best = lab_open(&kern_cpu, LEVEL_AUTO, DT_BF16, 1);
    assert_string_equal(kern_cpu.profile(best.dev), have(LEVEL_AMX) ? "cpu:amx,act=bf16,kv=bf16"
                                                    : have(LEVEL_AVX512)
                                                        ? "cpu:avx512,act=bf16,kv=bf16"
                                                        : "cpu:avx2,act=bf16,kv=bf16");
    lab_close(&best);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ref_linear_is_the_sum_of_products),
        cmocka_unit_test(ref_attention_is_the_softmax_of_scores),
        cmocka_unit_test(ref_is_the_same_on_any_number_of_threads),
        cmocka_unit_test(linear_agrees_with_ref),
        cmocka_unit_test(linear_puts_matrices_side_by_side),
        cmocka_unit_test(linear_takes_inputs_in_each_matrix_order),
        cmocka_unit_test(order_moves_inputs_to_their_columns),
        cmocka_unit_test(gated_linear_agrees_with_ref),
        cmocka_unit_test(packed_weights_are_exact),
        cmocka_unit_test(linear_row_is_the_same_in_any_company),
        cmocka_unit_test(linear_row_is_the_same_in_long_rows),
        cmocka_unit_test(linear_of_no_tokens_does_nothing),
        cmocka_unit_test(packed_matrix_is_as_large_as_the_file),
        cmocka_unit_test(image_of_a_matrix_computes_the_same),
        cmocka_unit_test(impossible_images_are_refused),
        cmocka_unit_test(embed_is_exact),
        cmocka_unit_test(norm_agrees_with_ref),
        cmocka_unit_test(residual_norm_agrees_with_ref),
        cmocka_unit_test(norm_row_is_the_same_in_any_company),
        cmocka_unit_test(attention_agrees_with_ref),
        cmocka_unit_test(attention_is_the_same_however_it_is_chunked),
        cmocka_unit_test(attention_is_the_same_in_any_company),
        cmocka_unit_test(attention_never_reads_what_a_token_does_not_see),
        cmocka_unit_test(open_says_what_it_cannot_do),
        cmocka_unit_test(profile_names_level_and_kv),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
