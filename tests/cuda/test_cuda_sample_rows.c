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

enum { ROWS = 24, VOCAB = 1500, COLS = 64 };

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
    kern_sample op = {
        .logits = logits, .row_count = ROWS, .vocab = VOCAB, .step_rows = ROWS, .rows = c->rows};
    bool picked = l->ops->sample(l->dev, &op) && l->ops->sampled(l->dev, &op);
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

/* ---- steps on their way ---- */

/* Rows [first, first + count) of a step of ROWS. */
static kern_sample piece_of(rows_case *c, uint32_t first, uint32_t count) {
    return (kern_sample){.row_count = count,
                         .vocab = VOCAB,
                         .first = first,
                         .step_rows = ROWS,
                         .rows = c->rows + first};
}

static void launch_in_pieces(const lab *l, rows_case *c, char *logits) {
    static const uint32_t ends[] = {1, 9, ROWS};
    for (uint32_t i = 0, first = 0; i < 3; first = ends[i++]) {
        kern_sample op = piece_of(c, first, ends[i] - first);
        op.logits = logits + (size_t)first * VOCAB * sizeof(float);
        assert_true(l->ops->sample(l->dev, &op));
    }
}

/* Two steps in pieces, and only then the first one's tokens; the second's histories end with what the first picked, by
 * name in the one run and by id in the other. */
static void two_steps_may_be_on_their_way(void **state) {
    (void)state;
    lab l = lab_open(&kern_cuda, LEVEL_AUTO, DT_BF16, 1);
    rows_case *first = rows_of(5), *second = rows_of(6), *known = rows_of(6);
    size_t count = (size_t)ROWS * VOCAB;
    char *logits = lab_upload(&l, KIND_F32, first->logits, count);
    char *more = lab_upload(&l, KIND_F32, second->logits, count);
    for (uint32_t r = 0; r < ROWS; r++) { /* each goes on with another row */
        sample_history *h = &second->rows[r].history;
        if (h->count == 0) h->count = 1;
        if (h->count == h->prompt_count) h->prompt_count--; /* one token at least is output */
        known->rows[r].history = *h;
        known->rows[r].history.tokens = known->cases[r].history;
        h->awaited = ROWS - r;
    }
    launch_in_pieces(&l, first, logits);
    launch_in_pieces(&l, second, more);
    kern_sample whole = piece_of(first, 0, ROWS),
                halves[] = {piece_of(second, 0, ROWS / 2), piece_of(second, ROWS / 2, ROWS / 2)};
    assert_true(l.ops->sampled(l.dev, &whole));
    assert_true(l.ops->sampled(l.dev, &halves[0]) && l.ops->sampled(l.dev, &halves[1]));

    for (uint32_t r = 0; r < ROWS; r++) {
        sample_case *c = &known->cases[r];
        c->history[known->rows[r].history.count - 1] = first->rows[ROWS - r - 1].result.id;
    }
    launch_in_pieces(&l, known, more);
    whole = piece_of(known, 0, ROWS);
    assert_true(l.ops->sampled(l.dev, &whole));
    for (uint32_t r = 0; r < ROWS; r++)
        assert_int_equal(second->rows[r].result.id, known->rows[r].result.id);
    lab_release(&l, KIND_F32, logits, count);
    lab_release(&l, KIND_F32, more, count);
    rows_free(first);
    rows_free(second);
    rows_free(known);
    lab_close(&l);
}

static float *embed(const lab *l, const kern_matrix *table, const int32_t *ids, uint32_t count) {
    size_t values = (size_t)count * COLS;
    void *there = lab_alloc(l, values * sizeof(float));
    kern_embed op = {.table = table, .ids = ids, .token_count = count, .scale = 1, .out = there};
    l->ops->embed(l->dev, &op);
    float *out = lab_download(l, KIND_F32, there, values);
    lab_release(l, KIND_F32, there, values);
    return out;
}

/* Ids by name; for one that could not be picked there is a row all the same, of nobody's. */
static void an_embedding_names_rows_of_the_step_before(void **state) {
    (void)state;
    lab l = lab_open(&kern_cuda, LEVEL_AUTO, DT_BF16, 4);
    rows_case *c = rows_of(7);
    const int32_t names[] = {-1 - 3, -1 - 5, 17, -1 - (ROWS - 1)};
    float *weights = mem_new(VOCAB * COLS, sizeof *weights);
    for (uint32_t i = 0; i < VOCAB * COLS; i++)
        weights[i] = (float)(i % 8191);
    for (uint32_t i = 0; i < VOCAB; i++)
        c->logits[5 * VOCAB + i] = NAN;
    kern_matrix *table = NULL;
    kern_matrix_desc desc = {.dtype = DT_F32, .rows = VOCAB, .cols = COLS, .data = weights};
    assert_int_equal(l.ops->pack(l.dev, &desc, &table, NULL), ESP_OK);
    assert_true(sample_there(&l, c));
    const int32_t ids[] = {c->rows[3].result.id, 0, 17, c->rows[ROWS - 1].result.id};
    float *named = embed(&l, table, names, 4), *wanted = embed(&l, table, ids, 4);
    assert_memory_equal(named, wanted, 4 * COLS * sizeof *named);
    free(named);
    free(wanted);
    l.ops->matrix_close(l.dev, table);
    free(weights);
    rows_free(c);
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
        cmocka_unit_test(two_steps_may_be_on_their_way),
        cmocka_unit_test(an_embedding_names_rows_of_the_step_before),
        cmocka_unit_test(digests_are_left_to_the_host),
    };
    return kernel_cases_end(cmocka_run_group_tests(tests, NULL, NULL));
}
