/* test_cuda_sample_rows.c - the table's sample: what the engine hands over comes back as the host would pick it. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/sample.h"
#include "tests/cuda/kernel_cases.h"
#include "tests/cuda/sample_case.h"

enum { ROWS = 24, VOCAB = 1500 };

static const float LOGPROB_TOLERANCE = 1e-4f;

typedef struct rows_case {
    sample_case cases[ROWS];
    sample_row rows[ROWS];
    float *logits;
} rows_case;

static rows_case *rows_of(uint32_t seed) {
    rows_case *c = mem_new(1, sizeof *c);
    random_state = seed;
    c->logits = random_logits(ROWS, VOCAB);
    for (uint32_t r = 0; r < ROWS; r++) {
        sample_case *one = &c->cases[r];
        make_case(one, VOCAB);
        free(one->mask); /* the engine has none */
        one->mask = NULL;
        one->policy.bias = one->bias;
        c->rows[r] = (sample_row){.policy = &one->policy,
                                  .history = {.tokens = one->history,
                                              .prompt_count = one->prompt_count,
                                              .count = one->history_count}};
    }
    return c;
}

static void rows_free(rows_case *c) {
    free(c->logits);
    free(c);
}

static bool sample_there(const lab *l, rows_case *c) {
    void *logits = lab_upload(l, KIND_F32, c->logits, (size_t)ROWS * VOCAB);
    kern_sample op = {.logits = logits, .row_count = ROWS, .vocab = VOCAB, .rows = c->rows};
    bool picked = l->ops->sample(l->dev, &op);
    lab_release(l, KIND_F32, logits, (size_t)ROWS * VOCAB);
    return picked;
}

static void check_row(sample_scratch *scratch, const rows_case *c, uint32_t r) {
    const sample_row *row = &c->rows[r];
    sample_result want;
    esp_error error = {0};
    esp_code code = sample_pick(scratch, row->policy, &row->history, c->logits + (size_t)r * VOCAB,
                                row->history.count, &want, &error);
    assert_int_equal(row->code, code);
    assert_string_equal(row->error.message, error.message);
    if (code != ESP_OK) return;
    assert_int_equal(row->result.id, want.id);
    assert_true(fabsf(row->result.logprob - want.logprob) <= LOGPROB_TOLERANCE);
    assert_int_equal(row->result.top_count, want.top_count);
    for (uint32_t i = 0; i < want.top_count; i++) {
        assert_int_equal(row->result.top[i].id, want.top[i].id);
        assert_true(fabsf(row->result.top[i].logprob - want.top[i].logprob) <= LOGPROB_TOLERANCE);
    }
}

/* Two launches: the second's rows lie where the first's did. */
static void rows_come_back_as_the_host_picks_them(void **state) {
    (void)state;
    lab l = lab_open(&kern_cuda, LEVEL_AUTO, DT_BF16, 1);
    sample_scratch *scratch;
    assert_int_equal(sample_scratch_open(&scratch, VOCAB, NULL), ESP_OK);
    for (uint32_t seed = 1; seed <= 2; seed++) {
        rows_case *c = rows_of(seed);
        assert_true(sample_there(&l, c));
        for (uint32_t r = 0; r < ROWS; r++)
            check_row(scratch, c, r);
        kernel_case();
        rows_free(c);
    }
    sample_scratch_close(scratch);
    lab_close(&l);
}

/* A row of which nothing is finite ends with the host's sentence, and its neighbours do not notice. */
static void row_without_a_finite_logit_fails_alone(void **state) {
    (void)state;
    lab l = lab_open(&kern_cuda, LEVEL_AUTO, DT_BF16, 1);
    sample_scratch *scratch;
    assert_int_equal(sample_scratch_open(&scratch, VOCAB, NULL), ESP_OK);
    rows_case *c = rows_of(3);
    for (uint32_t i = 0; i < VOCAB; i++)
        c->logits[5 * VOCAB + i] = i % 2 ? NAN : -INFINITY;
    assert_true(sample_there(&l, c));
    assert_int_equal(c->rows[5].code, ESP_INTERNAL);
    for (uint32_t r = 0; r < ROWS; r++)
        check_row(scratch, c, r);
    rows_free(c);
    sample_scratch_close(scratch);
    lab_close(&l);
}

/* A digest is of logits that the host has. */
static void digests_are_left_to_the_host(void **state) {
    (void)state;
    lab l = lab_open(&kern_cuda, LEVEL_AUTO, DT_BF16, 1);
    rows_case *c = rows_of(4);
    uint64_t digest = 7;
    c->rows[3].digest = &digest;
    assert_false(sample_there(&l, c));
    assert_int_equal(digest, 7);
    rows_free(c);
    lab_close(&l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_come_back_as_the_host_picks_them),
        cmocka_unit_test(row_without_a_finite_logit_fails_alone),
        cmocka_unit_test(digests_are_left_to_the_host),
    };
    return kernel_cases_end(cmocka_run_group_tests(tests, NULL, NULL));
}
