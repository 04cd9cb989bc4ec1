/* test_cuda_linear.c - the CUDA backend's linear against sums in double, and against itself: a token's bits
 * are the same in whatever company. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/cuda/kernel_cases.h"
#include "tests/cuda/linear_rig.h"

static thread_pool *pool;

static int open_pool(void **state) {
    (void)state;
    esp_error err;
    return pool_open(&pool, 2, &err) == ESP_OK ? 0 : -1;
}

static int close_pool(void **state) {
    (void)state;
    pool_close(pool);
    return 0;
}

/* --- a linear and its result ---------------------------------------------------------------- */

typedef struct linear_try {
    rig_shape shape[LINEAR_MATRICES_MAX];
    uint32_t matrices, tokens;
    kern_epilogue epilogue;
    bool bias;
    rig_groups groups;
    bool positive; /* inputs */
} linear_try;

typedef struct linear_set {
    linear_try try;
    rig_matrix matrix[LINEAR_MATRICES_MAX];
    uint16_t *x;
    void *x_there;
    float *bias[LINEAR_MATRICES_MAX];
    void *bias_there[LINEAR_MATRICES_MAX];
    uint32_t cols, rows, out_cols; /* rows: of all matrices */
    bool act;
} linear_set;

static linear_set set_up(const linear_try *try) {
    linear_set s = {.try = *try, .cols = try->shape[0].cols};
    for (uint32_t i = 0; i < try->matrices; i++) {
        s.matrix[i] = rig_matrix_of(pool, &try->shape[i], try->groups);
        s.rows += try->shape[i].rows;
        if (!try->bias) continue;
        s.bias[i] = lab_random(50 + i, try->shape[i].rows);
        s.bias_there[i] = rig_put(s.bias[i], try->shape[i].rows * sizeof(float));
    }
    s.out_cols = kern_is_gated(try->epilogue) ? try->shape[0].rows : s.rows;
    s.act = kern_gives_act(try->epilogue);
    s.x = rig_inputs(7, (size_t)try->tokens * s.cols);
    for (size_t i = 0; try->positive && i < (size_t)try->tokens * s.cols; i++)
        s.x[i] &= 0x7fff;
    s.x_there = rig_put(s.x, (size_t)try->tokens * s.cols * sizeof *s.x);
    return s;
}

static void tear_down(linear_set *s) {
    for (uint32_t i = 0; i < s->try.matrices; i++) {
        rig_matrix_free(&s->matrix[i]);
        free(s->bias[i]);
        if (s->bias_there[i]) (void)cudaFree(s->bias_there[i]);
    }
    free(s->x);
    (void)cudaFree(s->x_there);
}

static const float SOFTCAP = 30.0f;

static cuda_linear_args args_of(const linear_set *s, uint32_t first, uint32_t count) {
    cuda_linear_args args = {.in = (const uint16_t *)s->x_there + (size_t)first * s->cols,
                             .token_count = count,
                             .matrix_count = s->try.matrices,
                             .epilogue = s->try.epilogue,
                             .softcap = SOFTCAP};
    for (uint32_t i = 0; i < s->try.matrices; i++) {
        args.matrix[i] = &s->matrix[i].view;
        args.bias[i] = s->bias_there[i];
    }
    return args;
}

/* What out holds before: the residual stream. */
static float before(size_t at) { return lab_value(9, at); }

/* Outputs of tokens [first, first + count) as floats; free() them. More: what else the args have. */
static float *outputs(const linear_set *s, uint32_t first, uint32_t count,
                      const cuda_linear_args *more) {
    cuda_linear_args args = args_of(s, first, count);
    size_t total = (size_t)count * s->out_cols, element = s->act ? 2 : 4;
    uint64_t work_bytes = 0;
    float *y = mem_new(total, sizeof *y);
    for (size_t i = 0; i < total; i++)
        y[i] = before((size_t)first * s->out_cols + i);
    args.out = rig_put(s->act ? NULL : y, total * element);
    for (uint32_t i = 0; i < s->try.matrices; i++) {
        uint64_t bytes = cuda_linear_workspace(args.matrix[i], count);
        if (bytes > work_bytes) work_bytes = bytes;
    }
    if (work_bytes) args.work = rig_put(NULL, work_bytes);
    if (more) {
        args.delta = more->delta;
        args.updated = more->updated;
        args.magnitude = more->magnitude;
        args.lora_bias = more->lora_bias;
    }
    RIG_OK(cuda_linear(&args, NULL));
    uint16_t *halves = mem_new(total, sizeof *halves);
    rig_take(s->act ? (void *)halves : (void *)y, args.out, total * element);
    for (size_t i = 0; s->act && i < total; i++)
        y[i] = f32_of_bf16(halves[i]);
    free(halves);
    (void)cudaFree(args.out);
    if (args.work) (void)cudaFree(args.work);
    return y;
}

static double silu(double x) { return x / (1 + exp(-x)); }
static double gelu(double x) {
    return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}

static double finish(const linear_set *s, double y, size_t at) {
    switch (s->try.epilogue) {
    case EPI_RESIDUAL:
        return (double)before(at) + y;
    case EPI_SOFTCAP:
        return SOFTCAP * tanh(y / SOFTCAP);
    case EPI_GELU:
        return gelu(y);
    case EPI_GELU_ERF:
        return 0.5 * y * (1 + erf(y * 0.70710678118654752));
    default:
        return y;
    }
}

/* Sum and bias of a row of matrix m, and the magnitude of its terms. */
static double plain(const linear_set *s, uint32_t m, uint32_t row, uint32_t token,
                    double *magnitude) {
    double y = rig_dot(&s->matrix[m], row, s->x + (size_t)token * s->cols, magnitude);
    return y + (s->bias[m] ? (double)s->bias[m][row] : 0);
}

/* Output `col` of a token, and how much of an error it may have. */
static double wanted(const linear_set *s, uint32_t token, uint32_t col, double *room) {
    size_t at = (size_t)token * s->out_cols + col;
    bool rounded = false;
    double magnitude, y;
    for (uint32_t m = 0; m < s->try.matrices; m++)
        rounded |= s->try.shape[m].dtype == DT_F32 || s->try.shape[m].dtype == DT_F16;
    double step = rounded ? 0x1p-8 : 0x1p-18;
    if (kern_is_gated(s->try.epilogue)) {
        double up_magnitude, gate = plain(s, 0, col, token, &magnitude);
        double up = plain(s, 1, col, token, &up_magnitude);
        gate = s->try.epilogue == EPI_GELU_MUL ? gelu(gate) : silu(gate);
        y = gate * up;
        /* Neither activation is steeper than 1.13. */
        *room =
            1.2 * step * (magnitude * fabs(up) + up_magnitude * (fabs(gate) + magnitude * step));
    } else {
        uint32_t m = 0, row = col;
        while (row >= s->try.shape[m].rows)
            row -= s->try.shape[m++].rows;
        y = finish(s, plain(s, m, row, token, &magnitude), at);
        *room = 1.2 * step * magnitude;
    }
    *room += fabs(y) * (s->act ? 0x1p-8 : 0x1p-20) + 1e-6;
    return y;
}

/* Tokens to look at: all of few, of many some. */
static bool is_looked_at(uint32_t token, uint32_t tokens) {
    return tokens <= 40 || token % 37 == 0 || token + 1 == tokens || token % 128 == 127;
}

static void check(const linear_try *try) {
    linear_set s = set_up(try);
    float *y = outputs(&s, 0, try->tokens, NULL);
    for (uint32_t t = 0; t < try->tokens; t++)
        for (uint32_t c = 0; is_looked_at(t, try->tokens) && c < s.out_cols; c++) {
            double room, want = wanted(&s, t, c, &room);
            double got = (double)y[(size_t)t * s.out_cols + c];
            if (!(fabs(got - want) <= room))
                fail_msg("%s %ux%u, %u tokens, epilogue %d: token %u output %u is %g, not %g "
                         "(room %g)",
                         dtype_info(try->shape[0].dtype)->name, try->shape[0].rows,
                         try->shape[0].cols, try->tokens, try->epilogue, t, c, got, want, room);
        }
    free(y);
    tear_down(&s);
    kernel_case();
}

/* --- results ---------------------------------------------------------------------------------- */

static uint32_t cols_of(esp_dtype dtype, uint32_t pieces) {
    uint32_t block = dtype_info(dtype)->block_elements;
    return block == 256 ? 256 * ((pieces + 7) / 8) : 32 * pieces;
}

/* 50 rows are three tiles and a bit; 11 pieces five tiles and a half, some segments of one tile, some of
 * none. */
static void all_formats_give_their_sums(void **state) {
    (void)state;
    static const uint32_t tokens[] = {1, 7, 13, 30};
    for (int d = 0; d < DT_COUNT; d++)
        for (uint32_t i = 0; i < 4; i++)
            check(&(linear_try){.shape[0] = {d, 50, cols_of(d, 11), 100 + i, 0},
                                .matrices = 1,
                                .tokens = tokens[i]});
}

/* 300 tokens are three blocks of 128, the last with 44. */
static void many_tokens_give_their_sums(void **state) {
    (void)state;
    for (int d = 0; d < DT_COUNT; d++)
        check(&(linear_try){
            .shape[0] = {d, 50, cols_of(d, 9), 100, 0}, .matrices = 1, .tokens = 300});
}

static void groups_of_every_kind_give_their_sums(void **state) {
    (void)state;
    static const esp_dtype dtypes[] = {DT_G2, DT_G3, DT_G4, DT_G8};
    static const rig_groups groups[] = {{32, -1}, {64, -1}, {128, -1}, {32, 8}, {64, 8}, {128, 8}};
    for (uint32_t d = 0; d < 4; d++)
        for (uint32_t i = 0; i < 6; i++)
            for (uint32_t tokens = 3; tokens <= 300; tokens += 297)
                check(&(linear_try){.shape[0] = {dtypes[d], 33, 384, 100, 0},
                                    .matrices = 1,
                                    .tokens = tokens,
                                    .groups = groups[i]});
}

/* The last tile is half a matrix's and half padding, which has no weight whatever the other half's scale is. */
static void groups_may_end_within_a_tile(void **state) {
    (void)state;
    for (int zero = -1; zero <= 8; zero += 9)
        for (uint32_t cols = 32; cols <= 352; cols += 64)
            for (uint32_t tokens = 2; tokens <= 300; tokens += 298)
                check(&(linear_try){.shape[0] = {DT_G4, 33, cols, 100, 0},
                                    .matrices = 1,
                                    .tokens = tokens,
                                    .groups = {cols, zero}});
}

/* Sums of inputs are as large as they can be: what an offset takes is much of what the codes give. Of one tile along the
 * columns, too. */
static void inputs_of_one_sign_give_their_sums(void **state) {
    (void)state;
    static const esp_dtype dtypes[] = {DT_Q4_0, DT_Q4_1, DT_Q5_1, DT_Q2_K,
                                       DT_Q4_K, DT_Q5_K, DT_G4,   DT_G8};
    for (uint32_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++)
        for (uint32_t pieces = 2; pieces <= 32; pieces += 30)
            for (uint32_t tokens = 5; tokens <= 300; tokens += 295)
                check(&(linear_try){.shape[0] = {dtypes[d], 33, cols_of(dtypes[d], pieces), 100, 0},
                                    .matrices = 1,
                                    .tokens = tokens,
                                    .positive = true});
}

/* Widths that are no whole tiles, no multiples of 8, and shorter than one step; rows around a tile's. */
static void odd_shapes_give_their_sums(void **state) {
    (void)state;
    static const uint32_t rows[] = {1, 2, 15, 16, 17, 31, 33, 127, 129, 161};
    static const uint32_t cols[] = {1, 5, 8, 24, 63, 64, 65, 72, 128, 200};
    for (uint32_t i = 0; i < 10; i++)
        for (uint32_t j = 0; j < 10; j += 1 + i % 3) {
            check(&(linear_try){
                .shape[0] = {DT_BF16, rows[i], cols[j], 3, 0}, .matrices = 1, .tokens = 1 + i + j});
            check(&(linear_try){.shape[0] = {DT_Q4_K, rows[i], 256, 3, 0},
                                .matrices = 1,
                                .tokens = 1 + 31 * (j % 2)});
        }
    for (uint32_t j = 0; j < 10; j += 2)
        check(
            &(linear_try){.shape[0] = {DT_F32, 140, cols[j], 3, 0}, .matrices = 1, .tokens = 257});
}

static void every_epilogue_gives_its_result(void **state) {
    (void)state;
    static const kern_epilogue epilogues[] = {EPI_STORE,   EPI_RESIDUAL, EPI_SILU_MUL, EPI_GELU_MUL,
                                              EPI_SOFTCAP, EPI_GELU,     EPI_GELU_ERF};
    static const uint32_t tokens[] = {1, 12, 19, 260};
    for (uint32_t e = 0; e < 7; e++)
        for (uint32_t i = 0; i < 4; i++)
            for (uint32_t rows = 37; rows <= 40; rows += 3) {
                linear_try try = {
                    .shape = {{DT_Q4_1, rows, 160, 100, 0}, {DT_Q4_1, rows, 160, 101, 0}},
                    .matrices = kern_is_gated(epilogues[e]) ? 2 : 1,
                    .tokens = tokens[i],
                    .epilogue = epilogues[e],
                    .bias = i % 2 == 0};
                check(&try);
            }
}

/* As a file of Q4_K_M has them: neighbours in one format are one launch, others their own. */
static void matrices_side_by_side_may_differ_in_format_and_rows(void **state) {
    (void)state;
    for (uint32_t tokens = 5; tokens <= 261; tokens += 128) {
        linear_try try = {
            .shape = {{DT_Q4_K, 48, 256, 1, 0}, {DT_Q4_K, 23, 256, 2, 0}, {DT_Q6_K, 17, 256, 3, 0}},
            .matrices = 3,
            .tokens = tokens,
            .bias = true};
        check(&try);
        try.shape[2].dtype = DT_Q4_K;
        try.epilogue = EPI_RESIDUAL;
        check(&try);
    }
}

static void gate_and_up_may_differ_in_format(void **state) {
    (void)state;
    for (uint32_t tokens = 1; tokens <= 61; tokens += 20)
        for (int d = 0; d < DT_COUNT; d++)
            check(&(linear_try){.shape = {{DT_Q4_K, 35, 256, 1, 0}, {d, 35, 256, 2, 0}},
                                .matrices = 2,
                                .tokens = tokens,
                                .bias = true,
                                .epilogue = EPI_SILU_MUL});
}

static void columns_may_have_an_order_of_their_own(void **state) {
    (void)state;
    for (uint32_t tokens = 3; tokens <= 259; tokens += 256) {
        linear_try try = {
            .shape = {{DT_G4, 35, 288, 1, 11}, {DT_G4, 20, 288, 2, 12}, {DT_G4, 17, 288, 3, 0}},
            .matrices = 3,
            .tokens = tokens,
            .groups = {32, -1}};
        check(&try);
        try.matrices = 2;
        try.shape[1].rows = 35;
        try.epilogue = EPI_GELU_MUL;
        check(&try);
    }
}

/* --- bits --------------------------------------------------------------------------------------- */

static void assert_rows_alike(const linear_set *s, const float *all, uint32_t first,
                              uint32_t count) {
    float *some = outputs(s, first, count, NULL);
    const float *want = all + (size_t)first * s->out_cols;
    for (size_t i = 0; i < (size_t)count * s->out_cols; i++)
        if (bits_of_f32(some[i]) != bits_of_f32(want[i]))
            fail_msg("%s: %u tokens from %u on: element %zu is %a, among all %a",
                     dtype_info(s->try.shape[0].dtype)->name, count, first, i, (double)some[i],
                     (double)want[i]);
    free(some);
}

/* 300 tokens at once go through blocks of 128; 1 to 97 of them, wherever they begin, through smaller ones. */
static void bits_are_the_same_for_every_token_count(void **state) {
    (void)state;
    static const esp_dtype dtypes[] = {DT_BF16, DT_Q4_K, DT_Q8_0, DT_Q6_K};
    for (uint32_t d = 0; d < 4; d++) {
        linear_try try = {.shape[0] = {dtypes[d], 34, cols_of(dtypes[d], 18), 5, 0},
                          .matrices = 1,
                          .tokens = 300};
        linear_set s = set_up(&try);
        float *all = outputs(&s, 0, 300, NULL);
        for (uint32_t count = 1; count <= 97; count += d ? 1 + count / 8 : 1)
            assert_rows_alike(&s, all, count * 31 % (300 - count), count);
        free(all);
        tear_down(&s);
    }
}

/* So many rows that 300 tokens are a wave more of blocks of 128 than of 192, so that these are taken where a block has
 * the shared memory for them (sm_80, sm_90). Segments of three tiles of columns; one tile in all. */
static void bits_are_the_same_in_wide_blocks(void **state) {
    (void)state;
    int processors = 0;
    RIG_OK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0));
    const uint32_t half = (uint32_t)processors / 2; /* groups of 128 rows: 3 blocks each, or 2 */
    for (uint32_t cols = 56; cols <= 1096; cols += 1040) {
        linear_try try = {.shape = {{DT_BF16, half > 2 ? (half - 2) * 128 : 256, cols, 5, 0},
                                    {DT_BF16, 128, cols, 6, 0},
                                    {DT_BF16, 45, cols, 7, 0}},
                          .matrices = 3,
                          .tokens = 300};
        linear_set s = set_up(&try);
        float *all = outputs(&s, 0, 300, NULL);
        for (uint32_t count = 1; count <= 17; count += 8)
            assert_rows_alike(&s, all, 180 + count, count);
        assert_rows_alike(&s, all, 270, 30);
        free(all);
        tear_down(&s);
    }
    linear_try try = {.shape = {{DT_BF16, half * 128, 328, 5, 0}, {DT_BF16, half * 128, 328, 6, 0}},
                      .matrices = 2,
                      .tokens = 300,
                      .epilogue = EPI_SILU_MUL,
                      .bias = true};
    linear_set s = set_up(&try);
    float *all = outputs(&s, 0, 300, NULL);
    assert_rows_alike(&s, all, 170, 30);
    free(all);
    tear_down(&s);
}

static void bits_are_the_same_in_every_format(void **state) {
    (void)state;
    static const uint32_t counts[] = {1, 9, 17, 40};
    for (int d = 0; d < DT_COUNT; d++) {
        linear_try try = {.shape[0] = {d, 40, cols_of(d, 11), 5, 0}, .matrices = 1, .tokens = 256};
        linear_set s = set_up(&try);
        float *all = outputs(&s, 0, 256, NULL);
        for (uint32_t i = 0; i < 4; i++)
            assert_rows_alike(&s, all, 90, counts[i]);
        free(all);
        tear_down(&s);
    }
}

static void bits_are_the_same_after_every_epilogue(void **state) {
    (void)state;
    for (kern_epilogue e = EPI_STORE; e <= EPI_GELU_ERF; e++) {
        linear_try try = {.shape = {{DT_Q5_K, 35, 256, 5, 0}, {DT_Q5_K, 35, 256, 6, 0}},
                          .matrices = 2,
                          .tokens = 256,
                          .epilogue = e,
                          .bias = true};
        linear_set s = set_up(&try);
        float *all = outputs(&s, 0, 256, NULL);
        for (uint32_t count = 1; count <= 64; count *= 4)
            assert_rows_alike(&s, all, 100, count);
        free(all);
        tear_down(&s);
    }
}

static void bits_are_the_same_where_gate_and_up_differ(void **state) {
    (void)state;
    linear_try try = {.shape = {{DT_Q4_K, 35, 256, 5, 0}, {DT_Q6_K, 35, 256, 6, 0}},
                      .matrices = 2,
                      .tokens = 70,
                      .epilogue = EPI_SILU_MUL};
    linear_set s = set_up(&try);
    float *all = outputs(&s, 0, 70, NULL);
    for (uint32_t count = 1; count <= 33; count += 8)
        assert_rows_alike(&s, all, 20, count);
    free(all);
    tear_down(&s);
}

/* --- adapters ----------------------------------------------------------------------------------- */

/* Every third token has a delta, every sixth of them a magnitude for the first matrix and a bias for the
 * second. */
static void updates_touch_their_tokens_alone(void **state) {
    (void)state;
    for (uint32_t tokens = 20; tokens <= 276; tokens += 256) {
        linear_try try = {.shape = {{DT_Q4_0, 37, 96, 5, 0}, {DT_Q8_0, 22, 96, 6, 0}},
                          .matrices = 2,
                          .tokens = tokens,
                          .bias = true};
        linear_set s = set_up(&try);
        float *delta = lab_random(77, (size_t)tokens * s.rows), *magnitude = lab_random(78, 37);
        float *bias = lab_random(79, 22);
        float *magnitude_there = rig_put(magnitude, 37 * sizeof *magnitude);
        float *bias_there = rig_put(bias, 22 * sizeof *bias);
        uint8_t *updated = mem_new(tokens, 1);
        const float **magnitudes = mem_new(2ul * tokens, sizeof *magnitudes);
        const float **biases = mem_new(2ul * tokens, sizeof *biases);
        for (uint32_t t = 0; t < tokens; t++) {
            updated[t] = t % 3 == 0;
            if (t % 6 == 0) {
                magnitudes[2 * t] = magnitude_there;
                biases[2 * t + 1] = bias_there;
            }
            for (uint32_t c = 0; t % 3 && c < s.rows; c++)
                delta[(size_t)t * s.rows + c] = NAN; /* not looked at */
        }
        cuda_linear_args more = {.delta = rig_put(delta, (size_t)tokens * s.rows * sizeof *delta),
                                 .updated = rig_put(updated, tokens),
                                 .magnitude =
                                     rig_put(magnitudes, 2ul * tokens * sizeof *magnitudes),
                                 .lora_bias = rig_put(biases, 2ul * tokens * sizeof *biases)};
        float *base = outputs(&s, 0, tokens, NULL), *y = outputs(&s, 0, tokens, &more);
        for (uint32_t t = 0; t < tokens; t++)
            for (uint32_t c = 0; c < s.rows; c++) {
                size_t at = (size_t)t * s.rows + c;
                uint32_t m = c >= 37, row = m ? c - 37 : c;
                double own = (double)s.bias[m][row], want = (double)base[at] - own;
                if (t % 3) assert_int_equal(bits_of_f32(y[at]), bits_of_f32(base[at]));
                if (t % 3) continue;
                want += (double)delta[at];
                if (t % 6 == 0 && m == 0) want *= (double)magnitude[row];
                want += own + (t % 6 == 0 && m == 1 ? (double)bias[row] : 0);
                assert_true(fabs((double)y[at] - want) <= 1e-5 * (1 + fabs(want)));
            }
        (void)cudaFree((void *)(uintptr_t)more.delta);
        (void)cudaFree((void *)(uintptr_t)more.updated);
        (void)cudaFree((void *)(uintptr_t)more.magnitude);
        (void)cudaFree((void *)(uintptr_t)more.lora_bias);
        (void)cudaFree(magnitude_there);
        (void)cudaFree(bias_there);
        free(delta), free(magnitude), free(bias), free(updated), free(magnitudes), free(biases);
        free(base), free(y);
        tear_down(&s);
    }
}

static void no_tokens_are_no_work(void **state) {
    (void)state;
    linear_try try = {.shape[0] = {DT_BF16, 16, 64, 5, 0}, .matrices = 1, .tokens = 1};
    linear_set s = set_up(&try);
    cuda_linear_args args = args_of(&s, 0, 0);
    RIG_OK(cuda_linear(&args, NULL));
    tear_down(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_formats_give_their_sums),
        cmocka_unit_test(many_tokens_give_their_sums),
        cmocka_unit_test(groups_of_every_kind_give_their_sums),
        cmocka_unit_test(groups_may_end_within_a_tile),
        cmocka_unit_test(inputs_of_one_sign_give_their_sums),
        cmocka_unit_test(odd_shapes_give_their_sums),
        cmocka_unit_test(every_epilogue_gives_its_result),
        cmocka_unit_test(matrices_side_by_side_may_differ_in_format_and_rows),
        cmocka_unit_test(gate_and_up_may_differ_in_format),
        cmocka_unit_test(columns_may_have_an_order_of_their_own),
        cmocka_unit_test(bits_are_the_same_for_every_token_count),
        cmocka_unit_test(bits_are_the_same_in_wide_blocks),
        cmocka_unit_test(bits_are_the_same_in_every_format),
        cmocka_unit_test(bits_are_the_same_after_every_epilogue),
        cmocka_unit_test(bits_are_the_same_where_gate_and_up_differ),
        cmocka_unit_test(updates_touch_their_tokens_alone),
        cmocka_unit_test(no_tokens_are_no_work),
    };
    return kernel_cases_end(cmocka_run_group_tests(tests, open_pool, close_pool));
}
