/* test_cuda_lora_parts.c - a long prefill with updates is computed in parts: the memory of its sums has a bound, and
 * where the parts end changes no bit. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/cuda/cuda_device.h"
#include "tests/unit/lora_case.h"

enum { TOKENS = 1000, COLS = 64, ROWS = 33, GATED_ROWS = 24, PIECE = 1 << 16, ADAPTERS = 2 };

typedef struct parts_lab {
    lab l;
    void *in;
    lora_adapter packed[ADAPTERS];
    kern_lora lora[ADAPTERS]; /* over the device's copy of the one piece */
    void *piece[ADAPTERS];
    kern_matrix *matrix[2];
    linear_case shape;
} parts_lab;

/* Two matrices side by side, or as gate and up. */
static void open_parts(parts_lab *p, bool gated) {
    const lora_shape both[ADAPTERS] = {{.rank = {3, 5}}, {.rank = {8, 2}, .bias = true}};
    uint32_t rows = gated ? GATED_ROWS : ROWS;
    p->l = lab_open(&kern_cuda, LEVEL_AUTO, DT_BF16, 1);
    p->in = lab_upload_random(&p->l, KIND_ACT, 1, TOKENS * COLS);
    p->shape = (linear_case){.rows = {rows, gated ? rows : 14}, .matrices = 2, .cols = COLS};
    for (uint32_t m = 0; m < 2; m++)
        p->matrix[m] = lab_matrix(&p->l, DT_Q8_0, p->shape.rows[m], COLS, 10 + m);
    for (uint32_t a = 0; a < ADAPTERS; a++) {
        size_t bytes;
        p->packed[a] = lora_adapter_of(&p->l, &p->shape, 20 + a, &both[a], PIECE);
        assert_int_equal(kern_cuda.lora_pieces(p->l.dev, &p->packed[a].desc, PIECE, &bytes), 1);
        p->piece[a] = lab_alloc(&p->l, bytes);
        kern_cuda.upload(p->l.dev, p->piece[a], p->packed[a].pieces[0], bytes);
        p->lora[a] = kern_lora_of(&p->packed[a].desc, PIECE, &p->piece[a]);
    }
}

static void close_parts(parts_lab *p) {
    esp_error err = {0};
    if (kern_cuda.sync(p->l.dev, &err) != ESP_OK) fail_msg("%s", err.message);
    for (uint32_t a = 0; a < ADAPTERS; a++) {
        kern_cuda.release(p->l.dev, p->piece[a], 0);
        lora_adapter_free(&p->packed[a]);
    }
    for (uint32_t m = 0; m < 2; m++)
        kern_cuda.matrix_close(p->l.dev, p->matrix[m]);
    lab_release(&p->l, KIND_ACT, p->in, TOKENS * COLS);
    lab_close(&p->l);
}

/* Outputs of tokens [first, first + count), which have these segments. */
static float *run(const parts_lab *p, uint32_t first, uint32_t count, bool gated,
                  const kern_lora_segment *segments, uint32_t segment_count) {
    uint32_t width = gated ? GATED_ROWS : p->shape.rows[0] + p->shape.rows[1];
    kern_kind kind = gated ? KIND_ACT : KIND_F32;
    size_t outputs = (size_t)count * width, element = gated ? sizeof(uint16_t) : sizeof(float);
    void *out = lab_alloc(&p->l, outputs * element);
    kern_cuda.linear(p->l.dev, &(kern_linear){.in = (char *)p->in + first * COLS * sizeof(uint16_t),
                                              .token_count = count,
                                              .matrix = {p->matrix[0], p->matrix[1]},
                                              .matrix_count = 2,
                                              .epilogue = gated ? EPI_SILU_MUL : EPI_STORE,
                                              .lora = segments,
                                              .lora_count = segment_count,
                                              .out = out});
    float *seen = lab_download(&p->l, kind, out, outputs);
    kern_cuda.release(p->l.dev, out, outputs * element);
    return seen;
}

/* Segments that end before a part does, with it, and behind it; and tokens of the base alone. */
static void check(bool gated) {
    parts_lab p = {0};
    open_parts(&p, gated);
    const kern_lora *a = &p.lora[0], *b = &p.lora[1];
    const kern_lora_segment all[] = {{10, 90, b}, {200, 500, a}, {720, 240, b}};
    const kern_lora_segment cut[3][2] = {
        {{10, 90, b}, {200, 200, a}}, {{0, 300, a}}, {{20, 240, b}}};
    const uint32_t firsts[] = {0, 400, 700, TOKENS}, counts[] = {2, 1, 1};
    size_t width = gated ? GATED_ROWS : p.shape.rows[0] + p.shape.rows[1];
    size_t sums = gated ? 2 * GATED_ROWS : width;
    float *whole = run(&p, 0, TOKENS, gated, all, 3);
    assert_int_equal(p.l.dev->lora_delta.bytes, CUDA_UPDATED_TOKENS * sums * sizeof(float));
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t count = firsts[i + 1] - firsts[i];
        float *part = run(&p, firsts[i], count, gated, cut[i], counts[i]);
        float *base = run(&p, firsts[i], count, gated, NULL, 0);
        assert_memory_equal(part, whole + firsts[i] * width, count * width * sizeof *part);
        assert_memory_not_equal(part, base, count * width * sizeof *part);
        free(part);
        free(base);
    }
    free(whole);
    close_parts(&p);
}

static void sums_of_a_long_prefill_have_a_bound(void **state) {
    (void)state;
    check(false);
}

static void gates_too(void **state) {
    (void)state;
    check(true);
}

/* What is reserved for a model's steps: parts of the widest linear, all logits at least, never more than all. */
static void the_bound_is_reserved(void **state) {
    (void)state;
    lab l = lab_open(&kern_cuda, LEVEL_AUTO, DT_BF16, 1);
    const kern_reserve most = {.tokens = 1024,
                               .seqs = 4,
                               .rows = 4,
                               .groups = 1,
                               .table_stride = 1,
                               .heads = 1,
                               .kv_heads = 1,
                               .head_dim = 64,
                               .lora_outputs = 1024 * 300,
                               .lora_cols = 64};
    assert_int_equal(kern_cuda.reserve(l.dev, &most, NULL), ESP_OK);
    assert_int_equal(l.dev->lora_delta.bytes, CUDA_UPDATED_TOKENS * 300 * sizeof(float));
    lab_close(&l);
    kern_reserve logits = most;
    logits.logit_rows = 4;
    logits.vocab = 50000;
    l = lab_open(&kern_cuda, LEVEL_AUTO, DT_BF16, 1);
    assert_int_equal(kern_cuda.reserve(l.dev, &logits, NULL), ESP_OK);
    assert_int_equal(l.dev->lora_delta.bytes, 4 * 50000 * sizeof(float));
    lab_close(&l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_of_a_long_prefill_have_a_bound),
        cmocka_unit_test(gates_too),
        cmocka_unit_test(the_bound_is_reserved),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
