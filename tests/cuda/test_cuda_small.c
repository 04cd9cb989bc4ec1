/* test_cuda_small.c - norm, embedding and pooling on a CUDA device against ref; and a row's bits in any company. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "tests/cuda/kernel_cases.h"
#include "tests/unit/kernel_lab.h"

enum { ROWS = 9, PICKED = 4 };

static lab ref, cuda;

static int open_labs(void **state) {
    (void)state;
    ref = lab_open(&kern_ref, LEVEL_AUTO, DT_F32, 1);
    cuda = lab_open(&kern_cuda, LEVEL_AUTO, DT_BF16, 1);
    return 0;
}

static int close_labs(void **state) {
    (void)state;
    esp_error err = {0};
    if (kern_cuda.sync(cuda.dev, &err) != ESP_OK) fail_msg("%s", err.message);
    lab_close(&ref);
    lab_close(&cuda);
    return 0;
}

static double worst(const float *seen, const float *wanted, size_t count) {
    double most = 0, range = 0;
    for (size_t i = 0; i < count; i++) {
        double d = fabs((double)seen[i] - (double)wanted[i]);
        range = fmax(range, fabs((double)wanted[i]));
        most = d <= most ? most : d; /* NaN wins */
    }
    return most / range;
}

/* ---- norm ---- */

typedef struct norm_case {
    uint32_t width;
    bool picked, biased, residual, kept;
} norm_case;

/* The rows that a case writes; kept ones behind them. */
static float *run_norm(const lab *l, const norm_case *c, uint32_t count) {
    static const uint32_t rows[PICKED] = {8, 0, 3, 3};
    size_t in_count = (size_t)ROWS * c->width, out_count = (size_t)count * c->width;
    kern_kind kind = c->residual ? KIND_F32 : KIND_ACT;
    void *in = lab_upload_random(l, KIND_F32, 1, in_count);
    void *weight = lab_upload_random(l, KIND_F32, 2, c->width);
    void *bias = lab_upload_random(l, KIND_F32, 3, c->width);
    void *out = lab_upload_random(l, kind, 4, out_count);
    l->ops->norm(l->dev, &(kern_norm){.in = in,
                                      .rows = c->picked ? rows : NULL,
                                      .count = count,
                                      .width = c->width,
                                      .weight = weight,
                                      .bias = c->biased ? bias : NULL,
                                      .eps = 1e-5f,
                                      .residual = c->residual,
                                      .kept = c->kept ? in : NULL,
                                      .out = out});
    float *seen = lab_download(l, kind, out, out_count);
    if (c->kept) {
        float *kept = lab_download(l, KIND_F32, in, out_count);
        seen = realloc(seen, 2 * out_count * sizeof *seen);
        memcpy(seen + out_count, kept, out_count * sizeof *seen);
        free(kept);
    }
    lab_release(l, KIND_F32, in, in_count);
    lab_release(l, KIND_F32, weight, c->width);
    lab_release(l, KIND_F32, bias, c->width);
    lab_release(l, kind, out, out_count);
    return seen;
}

static const norm_case NORMS[] = {
    {.width = 1},
    {.width = 30},
    {.width = 64},
    {.width = 577, .biased = true},
    {.width = 576, .picked = true},
    {.width = 96, .picked = true, .biased = true},
    {.width = 3072, .residual = true},
    {.width = 130, .residual = true, .picked = true},
    {.width = 384, .biased = true, .kept = true},
    {.width = 4100, .kept = true},
    {.width = 6001, .biased = true, .kept = true},
};
enum { NORM_COUNT = sizeof NORMS / sizeof *NORMS };

static void norms_are_near_ref(void **state) {
    (void)state;
    for (uint32_t i = 0; i < NORM_COUNT; i++) {
        const norm_case *c = &NORMS[i];
        uint32_t count = c->picked ? PICKED : ROWS;
        float *wanted = run_norm(&ref, c, count), *seen = run_norm(&cuda, c, count);
        double d = worst(seen, wanted, (size_t)count * c->width);
        if (!(d <= (c->residual ? 1e-5 : 4e-3))) fail_msg("width %u: %g", c->width, d);
        size_t kept = (size_t)count * c->width;
        if (c->kept) assert_true(worst(seen + kept, wanted + kept, kept) <= 1e-5);
        kernel_case();
        free(wanted);
        free(seen);
    }
}

static void a_normed_row_has_the_same_bits_alone(void **state) {
    (void)state;
    for (uint32_t i = 0; i < NORM_COUNT; i++) {
        norm_case c = NORMS[i];
        c.picked = c.kept = false;
        float *many = run_norm(&cuda, &c, ROWS), *one = run_norm(&cuda, &c, 1);
        assert_memory_equal(many, one, c.width * sizeof *one);
        free(many);
        free(one);
    }
}

/* ---- embed ---- */

static float *run_embed(const lab *l, esp_dtype dtype, uint32_t cols, bool all) {
    enum { VOCAB = 50, TOKENS = 5 };
    static const int32_t ids[TOKENS] = {49, 0, 17, 16, 17};
    static const uint32_t positions[TOKENS] = {0, 1, 2, 31, 4};
    kern_matrix *table = lab_matrix(l, dtype, VOCAB, cols, 5);
    kern_matrix *learned = lab_matrix(l, DT_BF16, 32, cols, 6);
    void *added = lab_upload_random(l, KIND_F32, 7, cols);
    size_t count = (size_t)TOKENS * cols;
    void *out = lab_upload_random(l, KIND_F32, 8, count);
    l->ops->embed(l->dev, &(kern_embed){.table = table,
                                        .ids = ids,
                                        .token_count = TOKENS,
                                        .scale = 3.5f,
                                        .positions = all ? learned : NULL,
                                        .position = positions,
                                        .added = all ? added : NULL,
                                        .out = out});
    float *seen = lab_download(l, KIND_F32, out, count);
    lab_release(l, KIND_F32, out, count);
    lab_release(l, KIND_F32, added, cols);
    l->ops->matrix_close(l->dev, learned);
    l->ops->matrix_close(l->dev, table);
    return seen;
}

/* Every format of a file; codes are exact, and wide floats become bf16. */
static void rows_of_a_table_are_those_of_ref(void **state) {
    (void)state;
    for (esp_dtype dtype = 0; dtype < DT_COUNT; dtype++) {
        uint32_t cols = dtype_info(dtype)->block_elements > 64 ? 512 : 192;
        for (uint32_t all = 0; all < 2; all++) {
            float *wanted = run_embed(&ref, dtype, cols, all),
                  *seen = run_embed(&cuda, dtype, cols, all);
            double bound = dtype == DT_F32 || dtype == DT_F16 ? 4e-3 : 1e-6;
            double d = worst(seen, wanted, 5ul * cols);
            if (!(d <= bound)) fail_msg("%s: %g", dtype_info(dtype)->name, d);
            kernel_case();
            free(wanted);
            free(seen);
        }
    }
}

/* ---- pool_states ---- */

static float *run_pool(const lab *l, kern_pooling pooling, bool normalise, uint32_t first_seq) {
    enum { SEQS = 3, WIDTH = 300, TOKENS = 1 + 40 + 7 };
    static const uint32_t seq_tokens[SEQS] = {1, 40, 7};
    uint32_t seq_first[SEQS], cached[SEQS] = {0}, rows[SEQS], token_seq[TOKENS], positions[TOKENS];
    uint32_t count = 0, seqs = SEQS - first_seq;
    int32_t ids[TOKENS] = {0};
    for (uint32_t s = 0; s < seqs; s++) {
        seq_first[s] = count;
        for (uint32_t t = 0; t < seq_tokens[s + first_seq]; t++, count++) {
            token_seq[count] = s;
            positions[count] = t;
        }
        rows[s] = count - 1;
    }
    step_batch b = {.token_count = count,
                    .seq_count = seqs,
                    .row_count = seqs,
                    .ids = ids,
                    .positions = positions,
                    .token_seq = token_seq,
                    .seq_first = seq_first,
                    .seq_tokens = (uint32_t *)(uintptr_t)(seq_tokens + first_seq),
                    .seq_cached = cached,
                    .rows = rows};
    /* The last tokens are the same ones. */
    float *values = lab_random(9, (size_t)TOKENS * WIDTH);
    void *in =
        lab_upload(l, KIND_F32, values + (size_t)(TOKENS - count) * WIDTH, (size_t)count * WIDTH);
    void *out = lab_alloc(l, (size_t)seqs * WIDTH * sizeof(float));
    l->ops->pool_states(l->dev, &(kern_pool_states){.batch = &b,
                                                    .in = in,
                                                    .width = WIDTH,
                                                    .pooling = pooling,
                                                    .normalise = normalise,
                                                    .out = out});
    float *seen = lab_download(l, KIND_F32, out, (size_t)seqs * WIDTH);
    lab_release(l, KIND_F32, in, (size_t)count * WIDTH);
    lab_release(l, KIND_F32, out, (size_t)seqs * WIDTH);
    free(values);
    return seen;
}

static void pooled_states_are_those_of_ref(void **state) {
    (void)state;
    enum { COUNT = 3 * 300, LAST = 2 * 300 };
    for (kern_pooling pooling = POOL_MEAN; pooling <= POOL_LAST; pooling++)
        for (uint32_t normalise = 0; normalise < 2; normalise++) {
            float *wanted = run_pool(&ref, pooling, normalise, 0);
            float *seen = run_pool(&cuda, pooling, normalise, 0);
            float *alone = run_pool(&cuda, pooling, normalise, 2);
            assert_true(worst(seen, wanted, COUNT) <= 1e-6);
            kernel_case();
            assert_memory_equal(seen + LAST, alone, 300 * sizeof *seen);
            free(wanted);
            free(seen);
            free(alone);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norms_are_near_ref),
        cmocka_unit_test(a_normed_row_has_the_same_bits_alone),
        cmocka_unit_test(rows_of_a_table_are_those_of_ref),
        cmocka_unit_test(pooled_states_are_those_of_ref),
    };
    return kernel_cases_end(cmocka_run_group_tests(tests, open_labs, close_labs));
}
