/* sample_case.h - random rows of logits and random policies, for tests of how tokens are picked. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TESTS_SAMPLE_CASE_H
#define ESPALIER_TESTS_SAMPLE_CASE_H

#include <math.h>

#include "engine/base/mem.h"
#include "engine/base/sampling.h"
#include "tests/unit/kernel_lab.h"

enum { HISTORY_MAX = 200, BIASES_MAX = 40 };

/* Random, but the same in every run. */
static uint64_t random_state;

static inline uint32_t below(uint32_t bound) {
    random_state++;
    return (uint32_t)((lab_hash(random_state * 0x9e3779b97f4a7c15u) >> 32) * bound >> 32);
}
static inline float between(float low, float high) {
    return low + (high - low) * (float)below(1u << 24) * 0x1p-24f;
}
static inline bool one_in(uint32_t n) { return below(n) == 0; }

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

static inline float logit_of(row_kind kind) {
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

static inline float *random_logits(uint32_t rows, uint32_t vocab) {
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

static inline void add_penalties(sample_case *c, uint32_t vocab) {
    if (one_in(3)) c->policy.repetition_penalty = between(0.5f, 2);
    if (one_in(3)) c->policy.presence_penalty = between(-2, 2);
    if (one_in(3)) c->policy.frequency_penalty = between(-2, 2);
    c->history_count = below(HISTORY_MAX + 1);
    c->prompt_count = below(c->history_count + 1);
    uint32_t range = 1 + below(vocab); /* small ones repeat */
    for (uint32_t i = 0; i < c->history_count; i++)
        c->history[i] = (int32_t)below(range);
}

static inline void add_biases(sample_case *c, uint32_t vocab) {
    c->policy.bias_count = 1 + below(BIASES_MAX);
    uint32_t range = one_in(2) ? vocab : 1 + below(vocab < 9 ? vocab : 9);
    for (uint32_t i = 0; i < c->policy.bias_count; i++)
        c->bias[i] = (sample_bias){.id = (int32_t)below(range), .bias = between(-100, 100)};
}

static inline void add_mask(sample_case *c, uint32_t vocab) {
    c->mask = mem_new((vocab + 31) / 32, sizeof *c->mask);
    uint32_t sparse = 1 + below(50);
    for (uint32_t i = 0; i < vocab; i++)
        if (one_in(sparse)) c->mask[i / 32] |= 1u << i % 32;
}

static inline void make_case(sample_case *c, uint32_t vocab) {
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

#endif
