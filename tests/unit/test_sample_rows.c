/* test_sample_rows.c - the rows of a step give the same tokens whoever picks them. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>
#include <xxhash.h>

#include "engine/base/mem.h"
#include "engine/base/pool.h"
#include "engine/sample_rows.h"

enum { VOCAB = 1003, ROWS = 30 };

static float logits[ROWS][VOCAB];
static sample_policy policies[ROWS];
static int32_t history[ROWS];

static int fill(void **state) {
    (void)state;
    uint32_t noise = 9;
    for (uint32_t r = 0; r < ROWS; r++) {
        policies[r] = (sample_policy){.temperature = r % 3 ? 0.9f : 0,
                                      .top_k = r % 4 == 1 ? 17 : 0,
                                      .top_p = r % 5 == 2 ? 0.8f : 1,
                                      .repetition_penalty = r % 2 ? 1.3f : 1,
                                      .seed = r,
                                      .logprobs = r % 2,
                                      .top_logprobs = r % 7};
        history[r] = (int32_t)(r * 31);
        for (uint32_t i = 0; i < VOCAB; i++) {
            noise = noise * 1664525u + 1013904223u;
            logits[r][i] = (float)(int32_t)noise * 0x1p-29f;
        }
    }
    for (uint32_t i = 0; i < VOCAB; i++)
        logits[13][i] = NAN; /* one row is broken */
    return 0;
}

static void ask(sample_row *rows, uint32_t count, uint64_t *digests) {
    for (uint32_t r = 0; r < count; r++)
        rows[r] = (sample_row){.policy = &policies[r],
                               .history = {&history[r], 1, 1},
                               .logits = logits[r],
                               .vocab = VOCAB,
                               .digest = digests ? &digests[r] : NULL};
}

static void rows_do_not_depend_on_the_workers(void **state) {
    (void)state;
    static const uint32_t threads[] = {1, 2, 3, 7, 20};
    static sample_row alone[ROWS];
    for (size_t t = 0; t < sizeof threads / sizeof *threads; t++)
        for (uint32_t count = 1; count <= ROWS; count += 29) {
            thread_pool *pool = NULL;
            sample_rows *s = NULL;
            uint64_t digests[ROWS] = {0};
            assert_int_equal(pool_open(&pool, threads[t], NULL), ESP_OK);
            assert_int_equal(sample_rows_open(&s, pool, VOCAB, ROWS, NULL), ESP_OK);
            sample_row *rows = sample_rows_at(s);
            ask(rows, count, digests);
            sample_rows_pick(s, count);
            for (uint32_t r = 0; r < count; r++) {
                assert_int_equal(digests[r], XXH3_64bits(logits[r], sizeof logits[r]));
                assert_int_equal(rows[r].code, r == 13 ? ESP_INTERNAL : ESP_OK);
                if (t == 0) alone[r] = rows[r];
                assert_memory_equal(&alone[r].result, &rows[r].result, sizeof rows[r].result);
            }
            sample_rows_close(s);
            pool_close(pool);
        }
}

/* A decode step takes nothing, with digests too. */
static void picking_allocates_nothing(void **state) {
    (void)state;
    thread_pool *pool = NULL;
    sample_rows *s = NULL;
    uint64_t digests[ROWS];
    assert_int_equal(pool_open(&pool, 1, NULL), ESP_OK);
    assert_int_equal(sample_rows_open(&s, pool, VOCAB, ROWS, NULL), ESP_OK);
    ask(sample_rows_at(s), 12, digests);
    uint64_t before = mem_thread_allocated();
    sample_rows_pick(s, 12);
    assert_int_equal(mem_thread_allocated() - before, 0);
    sample_rows_close(s);
    pool_close(pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_do_not_depend_on_the_workers),
        cmocka_unit_test(picking_allocates_nothing),
    };
    return cmocka_run_group_tests(tests, fill, NULL);
}
