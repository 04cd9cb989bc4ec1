/* test_cuda_sample.c - the device's pick held to engine/sample.c: the same ids for any row and policy, logprobs within
 * 1e-4. */
// SPDX-License-Identifier: Apache-2.0
#include "tests/cuda/device_memory.h"

#include <math.h>
#include <stdio.h>

#include "engine/base/mem.h"
#include "engine/sample.h"
#include "kernels/cuda/cuda_launch.h"
#include "tests/unit/kernel_lab.h"

enum { ROWS = 16, HISTORY_MAX = 200, BIASES_MAX = 40 };

static const float LOGPROB_TOLERANCE = 1e-4f;

/* Random, but the same in every run. */
static uint64_t random_state;

static uint32_t below(uint32_t bound) {
    random_state++;
    return (uint32_t)((lab_hash(random_state * 0x9e3779b97f4a7c15u) >> 32) * bound >> 32);
}
static float between(float low, float high) {
    return low + (high - low) * (float)below(1u << 24) * 0x1p-24f;
}
static bool one_in(uint32_t n) { return below(n) == 0; }

/* ---- rows ---- */

typedef struct sample_case {
    sample_policy policy;
    int32_t history[HISTORY_MAX];
    uint32_t prompt_count, history_count, position;
    sample_bias bias[BIASES_MAX];
    uint32_t *mask; /* or NULL */
} sample_case;

typedef enum row_kind {
    ROW_LIKE_A_MODEL, /* few high, most low */
    ROW_FLAT,
    ROW_COARSE, /* many equal */
    ROW_BROKEN, /* with values that are not finite */
    ROW_KINDS
} row_kind;

static float logit_of(row_kind kind) {
    float bulk = between(-3, 3) + between(-3, 3) + between(-3, 3);
    static const float odd[] = {NAN, INFINITY, -INFINITY, -3.4e38f, 3.4e38f, 0.0f, -0.0f};
    switch (kind) {
    case ROW_LIKE_A_MODEL:
        return one_in(100) ? bulk + between(0, 12) : bulk;
    case ROW_FLAT:
        return bulk * 0.01f;
    case ROW_COARSE:
        return rintf(bulk);
    default:
        return one_in(8) ? odd[below(sizeof odd / sizeof *odd)] : bulk;
    }
}

static float *random_logits(uint32_t rows, uint32_t vocab) {
    float *logits = mem_new((size_t)rows * vocab, sizeof *logits);
    for (uint32_t r = 0; r < rows; r++) {
        row_kind kind = (row_kind)below(ROW_KINDS);
        for (uint32_t i = 0; i < vocab; i++)
            logits[(size_t)r * vocab + i] = logit_of(kind);
        logits[(size_t)r * vocab + below(vocab)] = 1; /* one is finite */
    }
    return logits;
}

/* ---- policies ---- */

static void add_penalties(sample_case *c, uint32_t vocab) {
    if (one_in(3)) c->policy.repetition_penalty = between(0.5f, 2);
    if (one_in(3)) c->policy.presence_penalty = between(-2, 2);
    if (one_in(3)) c->policy.frequency_penalty = between(-2, 2);
    c->history_count = below(HISTORY_MAX + 1);
    c->prompt_count = below(c->history_count + 1);
    uint32_t range = 1 + below(vocab); /* small ones repeat */
    for (uint32_t i = 0; i < c->history_count; i++)
        c->history[i] = (int32_t)below(range);
}

static void add_biases(sample_case *c, uint32_t vocab) {
    c->policy.bias_count = 1 + below(BIASES_MAX);
    uint32_t range = one_in(2) ? vocab : 1 + below(vocab < 9 ? vocab : 9);
    for (uint32_t i = 0; i < c->policy.bias_count; i++)
        c->bias[i] = (sample_bias){.id = (int32_t)below(range), .bias = between(-100, 100)};
}

static void add_mask(sample_case *c, uint32_t vocab) {
    c->mask = mem_new((vocab + 31) / 32, sizeof *c->mask);
    uint32_t sparse = 1 + below(50);
    for (uint32_t i = 0; i < vocab; i++)
        if (one_in(sparse)) c->mask[i / 32] |= 1u << i % 32;
}

static void make_case(sample_case *c, uint32_t vocab) {
    static const float temperatures[] = {0, 1, 1, 0.7f, 0.01f, 10, 1.5f};
    *c = (sample_case){.policy = {.temperature = temperatures[below(7)],
                                  .seed = lab_hash(random_state),
                                  .logprobs = one_in(3),
                                  .top_logprobs = one_in(3) ? below(21) : 0}};
    if (one_in(2)) c->policy.top_k = 1 + below(one_in(2) ? 60 : vocab + 9);
    if (one_in(2)) c->policy.top_p = one_in(4) ? 1 : between(0.001f, 1);
    if (one_in(2)) c->policy.min_p = one_in(4) ? 1 : between(0, one_in(2) ? 0.01f : 1);
    if (one_in(2)) add_penalties(c, vocab);
    if (one_in(4)) add_biases(c, vocab);
    if (one_in(5)) add_mask(c, vocab);
    c->position = below(1u << 20);
}

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
    int32_t ids[BIASES_MAX];
    float bias[BIASES_MAX];
    for (uint32_t i = 0; i < p->bias_count; i++) {
        ids[i] = c->bias[i].id;
        bias[i] = c->bias[i].bias;
    }
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
    d->row[r].bias_ids = listed(d, ids, p->bias_count * sizeof *ids);
    d->row[r].bias = listed(d, bias, p->bias_count * sizeof *bias);
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
    free(logits);
    sample_scratch_close(scratch);
}

/* ---- tests ---- */

/* Vocabularies around a block of 256 and around what shared memory holds; 200 launches of 16 rows. */
static void any_row_and_policy_gives_the_hosts_token(void **state) {
    (void)state;
    static const uint32_t vocabs[] = {1, 7, 255, 256, 257, 1003, 2048, 4099};
    random_state = 1;
    for (uint32_t i = 0; i < 200; i++)
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
    return cmocka_run_group_tests(tests, NULL, NULL);
}
