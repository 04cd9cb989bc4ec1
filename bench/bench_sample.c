/* bench_sample.c - from the logits of a step to its tokens; one JSON row a case.
 *
 *   bench_sample [THREADS]
 *
 * us: of all rows of one step, the least of many. Before each the workers write the logits as the
 * vocabulary projection does, each a range of columns, so that they lie in the caches they would. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/pool.h"
#include "engine/sample_rows.h"

enum { VOCAB_MAX = 262144, ROWS_MAX = 64, ROUNDS = 30, LIKELY_TOKENS = 200 };

static const uint32_t VOCABS[] = {49152, 128256, 262144};
static const uint32_t ROWS[] = {1, 16, 64};

static const struct {
    const char *name;
    sample_policy policy;
} POLICIES[] = {
    {"greedy", {.temperature = 0}},
    {"greedy, logprobs", {.logprobs = true}},
    {"greedy, 5 top logprobs", {.logprobs = true, .top_logprobs = 5}},
    {"temperature", {.temperature = 0.8f}},
    {"top-k 40", {.temperature = 0.8f, .top_k = 40}},
    {"top-p 0.9", {.temperature = 0.8f, .top_p = 0.9f}},
    {"top-k 40, top-p 0.9", {.temperature = 0.8f, .top_k = 40, .top_p = 0.9f}},
    {"min-p 0.05", {.temperature = 0.8f, .min_p = 0.05f}},
};

typedef struct step {
    uint32_t vocab, rows;
    float *logits;     /* [rows, vocab] */
    const float *base; /* [VOCAB_MAX] */
} step;

/* About normal, and some hundred likely tokens ten above. */
static void fill_base(float *base) {
    const uint32_t key[2] = {1, 2};
    for (uint32_t i = 0; i < VOCAB_MAX; i++) {
        uint32_t counter[4] = {i}, word[4];
        philox(counter, key, word);
        double sum = 0;
        for (int w = 0; w < 4; w++)
            sum += (double)word[w] * 0x1p-32;
        base[i] = (float)((sum - 2) * 4);
        if (word[0] % VOCAB_MAX < LIKELY_TOKENS) base[i] += 10;
    }
}

static void project(void *arg, uint32_t worker, uint32_t workers) {
    const step *s = arg;
    uint32_t begin, end;
    pool_share(s->vocab, 16, worker, workers, &begin, &end);
    for (uint32_t r = 0; r < s->rows; r++)
        memcpy(s->logits + (size_t)r * s->vocab + begin, s->base + begin,
               (end - begin) * sizeof(float));
}

static void ask(sample_rows *sampling, const step *s, const sample_policy *p) {
    sample_row *rows = sample_rows_at(sampling);
    for (uint32_t r = 0; r < s->rows; r++)
        rows[r] = (sample_row){
            .policy = p, .logits = s->logits + (size_t)r * s->vocab, .vocab = s->vocab};
}

static double measure(thread_pool *pool, sample_rows *sampling, step *s, const sample_policy *p) {
    double least = INFINITY;
    for (int round = 0; round < ROUNDS; round++) {
        pool_run(pool, project, s);
        ask(sampling, s, p);
        int64_t begin = clock_now_ns();
        sample_rows_pick(sampling, s->rows);
        double us = (double)(clock_now_ns() - begin) * 1e-3;
        if (us < least) least = us;
    }
    return least;
}

int main(int argc, char **argv) {
    thread_pool *pool = NULL;
    uint32_t threads = argc > 1 ? (uint32_t)atoi(argv[1]) : 2;
    ESP_ASSERT(pool_open(&pool, threads, NULL) == ESP_OK);
    float *base = mem_new(VOCAB_MAX, sizeof *base);
    step s = {.base = base, .logits = mem_map((size_t)VOCAB_MAX * ROWS_MAX * sizeof(float))};
    fill_base(base);
    for (size_t v = 0; v < sizeof VOCABS / sizeof *VOCABS; v++) {
        sample_rows *sampling = NULL;
        s.vocab = VOCABS[v];
        ESP_ASSERT(sample_rows_open(&sampling, pool, s.vocab, ROWS_MAX, NULL) == ESP_OK);
        for (size_t r = 0; r < sizeof ROWS / sizeof *ROWS; r++)
            for (size_t p = 0; p < sizeof POLICIES / sizeof *POLICIES; p++) {
                s.rows = ROWS[r];
                printf("{\"bench\":\"sample\",\"threads\":%u,\"vocab\":%u,\"rows\":%u,\"policy\":"
                       "\"%s\",\"us\":%.1f}\n",
                       pool_threads(pool), s.vocab, s.rows, POLICIES[p].name,
                       measure(pool, sampling, &s, &POLICIES[p].policy));
                fflush(stdout);
            }
        sample_rows_close(sampling);
    }
    mem_unmap(s.logits, (size_t)VOCAB_MAX * ROWS_MAX * sizeof(float));
    free(base);
    pool_close(pool);
    return 0;
}
