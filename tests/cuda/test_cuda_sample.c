/* test_cuda_sample.c - the device's pick held to engine/sample.c: the same ids for any row and policy, logprobs within
 * 1e-4. */
// SPDX-License-Identifier: Apache-2.0
#include "tests/cuda/device_memory.h"

#include <math.h>
#include <stdio.h>

#include "engine/sample.h"
#include "kernels/cuda/cuda_launch.h"
#include "tests/cuda/kernel_cases.h"
#include "tests/cuda/sample_case.h"

#ifdef ESPALIER_SANITIZED
enum { LAUNCHES = 40 }; /* instrumented: slow */
#else
enum { LAUNCHES = 200 };
#endif
enum { ROWS = 16 };

static const float LOGPROB_TOLERANCE = 1e-4f;

/* ---- both ways ---- */

/* What a row gets on the host: sample_pick over the logits that the mask allows; its logprobs are told of all. */
static esp_code pick_on_host(sample_scratch *scratch, const sample_case *c, const float *logits,
                             uint32_t vocab, sample_result *out) {
    sample_policy policy = c->policy;
    sample_history history = {
        .tokens = c->history, .prompt_count = c->prompt_count, .count = c->history_count};
    policy.bias = c->bias;
    float *allowed = mem_new(vocab, sizeof *allowed);
    for (uint32_t i = 0; i < vocab; i++)
        allowed[i] = !c->mask || (c->mask[i / 32] >> i % 32 & 1) ? logits[i] : -INFINITY;
    esp_code code = sample_pick(scratch, &policy, &history, allowed, c->position, out, NULL);
    free(allowed);
    if (code != ESP_OK || !c->mask || !(policy.logprobs || policy.top_logprobs)) return code;
    sample_result whole;
    sample_policy greedy = {.logprobs = true, .top_logprobs = policy.top_logprobs};
    code = sample_pick(scratch, &greedy, &history, logits, 0, &whole, NULL);
    out->logprob = (float)((double)logits[out->id] - (double)logits[whole.id]) + whole.logprob;
    out->top_count = whole.top_count;
    memcpy(out->top, whole.top, sizeof whole.top);
    return code;
}

typedef struct device_picks {
    int32_t ids[ROWS], top_ids[ROWS * CUDA_SAMPLE_TOP];
    float logprob[ROWS], top_logprobs[ROWS * CUDA_SAMPLE_TOP];
} device_picks;

/* Device memory of one launch's rows. */
typedef struct device_rows {
    cuda_sample_row row[ROWS];
    const void *lists[ROWS * 4];
    uint32_t count;
} device_rows;

static const void *listed(device_rows *d, const void *from, size_t bytes) {
    return d->lists[d->count++] = device_copy(from, bytes);
}

static void put_row(device_rows *d, uint32_t r, const sample_case *c, uint32_t vocab) {
    const sample_policy *p = &c->policy;
    d->row[r] = (cuda_sample_row){.temperature = p->temperature,
                                  .top_k = p->top_k,
                                  .top_p = p->top_p,
                                  .min_p = p->min_p,
                                  .repetition_penalty = p->repetition_penalty,
                                  .presence_penalty = p->presence_penalty,
                                  .frequency_penalty = p->frequency_penalty,
                                  .position = c->position,
                                  .seed = p->seed,
                                  .prompt_count = c->prompt_count,
                                  .history_count = c->history_count,
                                  .bias_count = p->bias_count,
                                  .top_logprobs = p->top_logprobs,
                                  .logprobs = p->logprobs};
    d->row[r].history = listed(d, c->history, c->history_count * sizeof *c->history);
    d->row[r].bias = listed(d, c->bias, p->bias_count * sizeof *c->bias);
    if (c->mask) d->row[r].mask = listed(d, c->mask, (vocab + 31) / 32 * sizeof *c->mask);
}

static void pick_on_device(const sample_case *cases, uint32_t rows, uint32_t vocab,
                           const float *logits, device_picks *out) {
    device_rows d = {0};
    for (uint32_t r = 0; r < rows; r++)
        put_row(&d, r, &cases[r], vocab);
    cuda_sample_args args = {.logits = device_copy(logits, (size_t)rows * vocab * sizeof *logits),
                             .row_count = rows,
                             .vocab = vocab,
                             .row = device_copy(d.row, rows * sizeof *d.row),
                             .work = device_new(cuda_sample_workspace(rows, vocab)),
                             .ids = device_new(sizeof out->ids),
                             .logprob = device_new(sizeof out->logprob),
                             .top_ids = device_new(sizeof out->top_ids),
                             .top_logprobs = device_new(sizeof out->top_logprobs)};
    assert_int_equal(cuda_sample(&args, NULL), cudaSuccess);
    device_read(out->ids, args.ids, sizeof out->ids);
    device_read(out->logprob, args.logprob, sizeof out->logprob);
    device_read(out->top_ids, args.top_ids, sizeof out->top_ids);
    device_read(out->top_logprobs, args.top_logprobs, sizeof out->top_logprobs);
    const void *all[] = {args.logits,  args.row,     args.work,        args.ids,
                         args.logprob, args.top_ids, args.top_logprobs};
    for (uint32_t i = 0; i < sizeof all / sizeof *all; i++)
        device_free(all[i]);
    for (uint32_t i = 0; i < d.count; i++)
        device_free(d.lists[i]);
}

static void say(const char *what, const sample_case *c, uint32_t vocab, uint32_t r) {
    const sample_policy *p = &c->policy;
    fail_msg("%s: row %u of V=%u: temperature %g top_k %u top_p %g min_p %g penalties %g %g %g "
             "biases %u mask %d top_logprobs %u",
             what, r, vocab, (double)p->temperature, p->top_k, (double)p->top_p, (double)p->min_p,
             (double)p->repetition_penalty, (double)p->presence_penalty,
             (double)p->frequency_penalty, p->bias_count, c->mask != NULL, p->top_logprobs);
}

static void compare(const sample_case *c, uint32_t vocab, uint32_t r, const sample_result *want,
                    const device_picks *got) {
    if (got->ids[r] != want->id) say("another token", c, vocab, r);
    if (!(fabsf(got->logprob[r] - want->logprob) <= LOGPROB_TOLERANCE)) say("logprob", c, vocab, r);
    for (uint32_t i = 0; i < CUDA_SAMPLE_TOP; i++) {
        uint32_t at = r * CUDA_SAMPLE_TOP + i;
        bool there = i < want->top_count;
        if (got->top_ids[at] != (there ? want->top[i].id : -1)) say("top id", c, vocab, r);
        float logprob = there ? want->top[i].logprob : 0;
        if (!(fabsf(got->top_logprobs[at] - logprob) <= LOGPROB_TOLERANCE))
            say("top logprob", c, vocab, r);
    }
}

/* Rows of random logits, each with a policy of its own, by both. */
static void compare_rows(uint32_t vocab, uint32_t rows) {
    static sample_case cases[ROWS];
    sample_scratch *scratch;
    device_picks got;
    assert_int_equal(sample_scratch_open(&scratch, vocab, NULL), ESP_OK);
    float *logits = random_logits(rows, vocab);
    for (uint32_t r = 0; r < rows; r++)
        make_case(&cases[r], vocab);
    pick_on_device(cases, rows, vocab, logits, &got);
    for (uint32_t r = 0; r < rows; r++) {
        sample_result want;
        esp_code code = pick_on_host(scratch, &cases[r], logits + (size_t)r * vocab, vocab, &want);
        if (code == ESP_OK) compare(&cases[r], vocab, r, &want, &got);
        if (code != ESP_OK) assert_int_equal(got.ids[r], -1);
        free(cases[r].mask);
    }
    kernel_case();
    free(logits);
    sample_scratch_close(scratch);
}

/* ---- tests ---- */

/* Vocabularies around a block of 256 and around what shared memory holds. */
static void any_row_and_policy_gives_the_hosts_token(void **state) {
    (void)state;
    static const uint32_t vocabs[] = {1, 7, 255, 256, 257, 1003, 2048, 4099};
    random_state = 1;
    for (uint32_t i = 0; i < LAUNCHES; i++)
        compare_rows(vocabs[i % (sizeof vocabs / sizeof *vocabs)], ROWS);
}

/* Of the size of models': the first candidates come from few blocks. */
static void large_vocabularies_too(void **state) {
    (void)state;
    random_state = 2;
    compare_rows(50257, 12);
    compare_rows(151936, 6);
}

static uint32_t pick_one(const sample_case *c, const float *logits, uint32_t vocab) {
    device_picks got;
    pick_on_device(c, 1, vocab, logits, &got);
    return (uint32_t)got.ids[0];
}

/* All equal: by index order from all of them, by id from a head. */
static void equal_logits_are_ordered_by_id(void **state) {
    (void)state;
    enum { VOCAB = 3000 };
    sample_scratch *scratch;
    float *logits = mem_new(VOCAB, sizeof *logits);
    assert_int_equal(sample_scratch_open(&scratch, VOCAB, NULL), ESP_OK);
    static const sample_policy policies[] = {{.temperature = 0},
                                             {.temperature = 1},
                                             {.temperature = 1, .top_k = 5},
                                             {.temperature = 1, .top_k = 2900, .top_p = 0.9f},
                                             {.temperature = 1, .top_p = 0.95f},
                                             {.temperature = 1, .min_p = 1}};
    for (uint32_t i = 0; i < sizeof policies / sizeof *policies; i++)
        for (uint32_t position = 0; position < 4; position++) {
            sample_case c = {.policy = policies[i], .position = position};
            sample_result want;
            assert_int_equal(pick_on_host(scratch, &c, logits, VOCAB, &want), ESP_OK);
            assert_int_equal(pick_one(&c, logits, VOCAB), want.id);
            kernel_case();
        }
    sample_scratch_close(scratch);
    free(logits);
}

/* NaN and infinities alone, or a mask that allows nothing. */
static void nothing_to_pick_is_told(void **state) {
    (void)state;
    float logits[4] = {NAN, INFINITY, -INFINITY, NAN}, good[4] = {1, 2, 3, 4};
    uint32_t none = 0;
    for (uint32_t random = 0; random < 2; random++) {
        sample_case c = {.policy = {.temperature = (float)random, .logprobs = true}};
        assert_int_equal((int32_t)pick_one(&c, logits, 4), -1);
        c.mask = &none;
        assert_int_equal((int32_t)pick_one(&c, good, 4), -1);
    }
}

/* A row's pick depends on nothing but its logits, policy, seed and position. */
static void row_is_the_same_in_any_company(void **state) {
    (void)state;
    enum { VOCAB = 777 };
    static sample_case cases[ROWS];
    device_picks among, alone;
    random_state = 3;
    float *logits = random_logits(ROWS, VOCAB);
    for (uint32_t r = 0; r < ROWS; r++)
        make_case(&cases[r], VOCAB);
    pick_on_device(cases, ROWS, VOCAB, logits, &among);
    for (uint32_t r = 0; r < ROWS; r++) {
        pick_on_device(&cases[r], 1, VOCAB, logits + (size_t)r * VOCAB, &alone);
        assert_int_equal(alone.ids[0], among.ids[r]);
        assert_memory_equal(&alone.logprob[0], &among.logprob[r], sizeof(float));
        free(cases[r].mask);
    }
    free(logits);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_row_and_policy_gives_the_hosts_token),
        cmocka_unit_test(large_vocabularies_too),
        cmocka_unit_test(equal_logits_are_ordered_by_id),
        cmocka_unit_test(nothing_to_pick_is_told),
        cmocka_unit_test(row_is_the_same_in_any_company),
    };
    return kernel_cases_end(cmocka_run_group_tests(tests, NULL, NULL));
}
