/* test_cuda_sample_room.c - where lists of penalties lie: room for the longest is reserved, and when it has to
 * grow after all, steps that are remembered stay so. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/cuda_replay.h"
#include "tests/unit/kernel_lab.h"

enum { ROWS = 4, VOCAB = 100, WIDTH = 32, CONTEXT = 1024, LONGEST = 1 << 16, STRETCH = 1 << 10 };

static const kern_reserve MOST = {.tokens = ROWS,
                                  .seqs = ROWS,
                                  .rows = ROWS,
                                  .groups = 1,
                                  .table_stride = CONTEXT / KV_PAGE_TOKENS,
                                  .heads = 1,
                                  .kv_heads = 1,
                                  .head_dim = 64,
                                  .logit_rows = ROWS,
                                  .vocab = VOCAB};

typedef struct room_lab {
    lab l;
    void *in, *weight, *out, *logits;
    int32_t tokens[LONGEST];
} room_lab;

static room_lab *open_lab(void) {
    room_lab *r = mem_new(1, sizeof *r);
    esp_error err = {0};
    r->l = lab_open(&kern_cuda, LEVEL_AUTO, DT_BF16, 1);
    if (kern_cuda.reserve(r->l.dev, &MOST, &err) != ESP_OK) fail_msg("%s", err.message);
    r->in = lab_upload_random(&r->l, KIND_F32, 1, WIDTH);
    r->weight = lab_upload_random(&r->l, KIND_F32, 2, WIDTH);
    r->out = lab_upload_random(&r->l, KIND_ACT, 3, WIDTH);
    r->logits = lab_upload_random(&r->l, KIND_F32, 4, ROWS * VOCAB);
    for (uint32_t i = 0; i < LONGEST; i++)
        r->tokens[i] = (int32_t)(i % VOCAB);
    return r;
}

static void close_lab(room_lab *r) {
    esp_error err = {0};
    if (kern_cuda.sync(r->l.dev, &err) != ESP_OK) fail_msg("%s", err.message);
    lab_release(&r->l, KIND_F32, r->in, WIDTH);
    lab_release(&r->l, KIND_F32, r->weight, WIDTH);
    lab_release(&r->l, KIND_ACT, r->out, WIDTH);
    lab_release(&r->l, KIND_F32, r->logits, ROWS * VOCAB);
    lab_close(&r->l);
    free(r);
}

/* Of one sequence with one token; whether it was a graph's launch. */
static bool step(room_lab *r) {
    static uint32_t zero, one = 1, table[CONTEXT / KV_PAGE_TOKENS];
    static int32_t id;
    const step_batch batch = {.token_count = 1,
                              .seq_count = 1,
                              .row_count = 1,
                              .group_count = 1,
                              .table_stride = CONTEXT / KV_PAGE_TOKENS,
                              .ids = &id,
                              .positions = &zero,
                              .token_seq = &zero,
                              .seq_first = &zero,
                              .seq_tokens = &one,
                              .seq_cached = &zero,
                              .rows = &zero,
                              .tables = table};
    const kern_norm norm = {
        .in = r->in, .count = 1, .width = WIDTH, .weight = r->weight, .eps = 1e-6f, .out = r->out};
    uint64_t before = replay_count(r->l.dev);
    bool called = kern_cuda.step_begin(r->l.dev, &(kern_step){.batch = &batch, .repeats = true});
    if (called) kern_cuda.norm(r->l.dev, &norm);
    assert_true(kern_cuda.step_end(r->l.dev));
    return !called && replay_count(r->l.dev) > before;
}

/* Rows whose histories have so many tokens. */
static void sample(room_lab *r, uint32_t tokens) {
    static const sample_policy policy = {.repetition_penalty = 1.5f};
    sample_row rows[ROWS];
    for (uint32_t i = 0; i < ROWS; i++)
        rows[i] =
            (sample_row){.policy = &policy, .history = {.tokens = r->tokens, .count = tokens}};
    kern_sample op = {
        .logits = r->logits, .row_count = ROWS, .step_rows = ROWS, .vocab = VOCAB, .rows = rows};
    assert_true(kern_cuda.sample(r->l.dev, &op) && kern_cuda.sampled(r->l.dev, &op));
    for (uint32_t i = 0; i < ROWS; i++)
        assert_int_equal(rows[i].code, ESP_OK);
}

/* Nothing is taken for sequences that are as long as they can be. */
static void histories_of_the_whole_context_fit_what_was_reserved(void **state) {
    (void)state;
    room_lab *r = open_lab();
    const void *there = r->l.dev->sample_rows.at;
    for (uint32_t tokens = 0; tokens <= CONTEXT; tokens += CONTEXT / 8)
        sample(r, tokens);
    assert_ptr_equal(r->l.dev->sample_rows.at, there);
    close_lab(r);
}

static void longer_ones_take_room_rarely_and_no_graph_is_forgotten(void **state) {
    (void)state;
    uint32_t grown = 0;
    room_lab *r = open_lab();
    assert_false(step(r)); /* launched op by op */
    assert_false(step(r)); /* captured */
    assert_true(step(r));
    for (uint32_t tokens = CONTEXT; tokens <= LONGEST; tokens += STRETCH) {
        uint64_t bytes = r->l.dev->sample_rows.bytes;
        sample(r, tokens);
        grown += r->l.dev->sample_rows.bytes > bytes;
        assert_true(step(r));
    }
    assert_in_range(grown, 1, 6); /* CONTEXT * 2^6 is LONGEST */
    close_lab(r);
}

/* A device that is nearly full. */
static void what_is_needed_is_taken_where_twice_as_much_is_not_there(void **state) {
    (void)state;
    room_lab *r = open_lab();
    kern_memory memory;
    esp_error err = {0};
    void *rest = NULL;
    const uint64_t before = r->l.dev->sample_rows.bytes;
    kern_cuda.memory(r->l.dev, &memory);
    const size_t bytes = memory.free - before / 2;
    assert_int_equal(kern_cuda.alloc(r->l.dev, bytes, &rest, &err), ESP_OK);
    sample(r, (uint32_t)(before / ROWS / sizeof(int32_t)) + 1);
    assert_in_range(r->l.dev->sample_rows.bytes, before + 1, 2 * before - 1);
    kern_cuda.release(r->l.dev, rest, bytes);
    close_lab(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_needed_is_taken_where_twice_as_much_is_not_there),
        cmocka_unit_test(histories_of_the_whole_context_fit_what_was_reserved),
        cmocka_unit_test(longer_ones_take_room_rarely_and_no_graph_is_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
