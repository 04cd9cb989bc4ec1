/* test_cuda_kv_int8.c - attention over keys and values kept in 8 bits: held to ref, which rounds them to the same
 * codes, and with the same bits however a sequence is cut and whoever is beside it (Law 1). */
// SPDX-License-Identifier: Apache-2.0
#include "page_lab.h"

/* Queries and weights are bf16; codes are ref's. Values are below 2, and so are the sums of them. */
static const float TOLERANCE = 1e-2f, LARGEST = 2;

enum { WORK = 4 << 20 };

static const page_case cases[] = {
    {.heads = 9, .kv_heads = 3, .dim = 64, .rotary = 64, .lengths = {1, 37, 70}},
    {.heads = 8, .kv_heads = 2, .dim = 96, .rotary = 96, .window = 20, .lengths = {90, 16, 17}},
    {.heads = 4, .kv_heads = 1, .dim = 128, .rotary = 128, .lengths = {33, 3, 65}},
    {.heads = 4, .kv_heads = 2, .dim = 256, .rotary = 256, .softcap = 5, .lengths = {34, 265, 2}},
    {.heads = 2, .kv_heads = 2, .dim = 256, .rotary = 64, .window = 21, .lengths = {40, 7, 18}},
    {.heads = 6,
     .kv_heads = 3,
     .dim = 48,
     .rotary = 36,
     .head_norm = true,
     .second_long = true,
     .softcap = 1.5f,
     .window = 21,
     .lengths = {35, 50, 9}},
    /* rows that end inside 16 bytes, inside a word; wide tiles of one token */
    {.heads = 5, .kv_heads = 5, .dim = 20, .rotary = 20, .lengths = {18, 33, 7}},
    {.heads = 2, .kv_heads = 2, .dim = 2, .rotary = 2, .lengths = {5, 33, 64}},
    {.heads = 100, .kv_heads = 1, .dim = 16, .rotary = 8, .window = 1, .lengths = {20, 1, 2}},
    /* several chunks */
    {.heads = 6, .kv_heads = 2, .dim = 64, .rotary = 64, .lengths = {530, 5, 270}},
    {.heads = 3, .kv_heads = 1, .dim = 24, .softcap = 2, .window = 300, .lengths = {66, 540, 65}},
    {.heads = 4, .kv_heads = 1, .dim = 128, .rotary = 128, .lengths = {3, 257, 20}},
};
enum { CASES = sizeof cases / sizeof cases[0] };

static const page_way at_once = {.work_bytes = WORK};

static page_case case_of(uint32_t i) {
    page_case c = cases[i];
    c.int8 = true;
    return c;
}

/* --- attention -------------------------------------------------------------------------------- */

/* Root of the mean square of a - b, over that of b. */
static double distance(const page_result *a, const page_result *b) {
    double square = 0, size = 0;
    for (size_t i = 0; i < b->count; i++) {
        double d = (double)(a->out[i] - b->out[i]);
        square += d * d, size += (double)(b->out[i] * b->out[i]);
    }
    return sqrt(square / size);
}

/* Heads of 64, 96, 128 and 256 dims and of odd ones, grouped, windows, soft caps; at once, and in steps. */
static void attention_agrees_with_ref(void **state) {
    (void)state;
    for (uint32_t i = 0; i < CASES; i++) {
        page_case c = case_of(i);
        page_way way = {.seed = i, .step_max = i % 2 ? 0 : 60, .work_bytes = WORK};
        page_result want = page_run_ref(&c), got = page_run(&c, &way);
        page_assert_close(got.q, want.q, want.count, 2e-6f, 1, "q");
        page_assert_close(got.out, want.out, want.count, TOLERANCE, LARGEST, "attention");
        assert_true(distance(&got, &want) <= (double)TOLERANCE);
        page_result_free(&want);
        page_result_free(&got);
    }
}

/* What is lost by 8 bits, ref beside ref: little, and not nothing. */
static void eight_bits_are_near_float32(void **state) {
    (void)state;
    for (uint32_t i = 0; i < CASES; i++) {
        page_case c = case_of(i), other = c;
        other.ref_exact = true;
        page_result coded = page_run_ref(&c), exact = page_run_ref(&other);
        double lost = distance(&coded, &exact);
        assert_true(lost > 1e-4 && lost < 1e-2);
        page_result_free(&coded);
        page_result_free(&exact);
    }
}

static void compare_ways(const page_case *c, const page_way *one, const page_way *other) {
    page_result want = page_run(c, one), got = page_run(c, other);
    page_assert_bits(got.q, want.q, want.count, "q");
    page_assert_bits(got.out, want.out, want.count, "attention");
    page_result_free(&want);
    page_result_free(&got);
}

/* Law 1: in steps that end inside pages, chunks and tiles; the last tokens one by one, also as captured
 * launches; chunks apart and in one tile. */
static void attention_is_the_same_however_it_is_chunked(void **state) {
    (void)state;
    static const page_way ways[] = {{.seed = 2, .step_max = 300, .work_bytes = WORK},
                                    {.step_max = 150, .singly = 12, .work_bytes = WORK},
                                    {.singly = 12, .work_bytes = WORK, .captured = true},
                                    {.seed = 9, .step_max = 200, .work_bytes = 20000},
                                    {.seed = 9, .step_max = 200}};
    for (uint32_t i = 0; i < CASES; i++)
        for (uint32_t k = 0; k < sizeof ways / sizeof *ways; k++) {
            page_case c = case_of(i);
            compare_ways(&c, &at_once, &ways[k]);
        }
}

static void attention_is_the_same_in_any_company(void **state) {
    (void)state;
    for (uint32_t i = 0; i < CASES; i++) {
        page_case c = case_of(i);
        page_way way = {.seed = i + 1, .step_max = 90, .work_bytes = WORK};
        size_t first = (size_t)c.lengths[0] * c.heads * c.dim;
        page_result want = page_run(&c, &way);
        c.lengths[0] = c.lengths[2] = 0;
        page_result got = page_run(&c, &at_once);
        page_assert_bits(got.out, want.out + first, got.count, "attention");
        page_result_free(&want);
        page_result_free(&got);
    }
}

static void encoders_see_the_whole_sequence(void **state) {
    (void)state;
    page_case c = {.heads = 3,
                   .kv_heads = 1,
                   .dim = 64,
                   .rotary = 32,
                   .bidirectional = true,
                   .int8 = true,
                   .lengths = {70, 270, 33}};
    page_result want = page_run_ref(&c), got = page_run(&c, &at_once);
    page_assert_close(got.out, want.out, want.count, TOLERANCE, LARGEST, "attention");
    page_result_free(&want);
    page_result_free(&got);
}

/* --- frames ----------------------------------------------------------------------------------- */

static void half_the_memory_and_a_scale(void **state) {
    (void)state;
    kern_kv_shape shape = {.layers = 4, .kv_heads = 8, .head_dim = 128};
    size_t wide = cuda_kv_frame_bytes(&shape, false), coded = cuda_kv_frame_bytes(&shape, true);
    assert_int_equal(2 * coded - wide, 2 * 4 * 2 * 8 * KV_PAGE_TOKENS * sizeof(float));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_agrees_with_ref),
        cmocka_unit_test(eight_bits_are_near_float32),
        cmocka_unit_test(attention_is_the_same_however_it_is_chunked),
        cmocka_unit_test(attention_is_the_same_in_any_company),
        cmocka_unit_test(encoders_see_the_whole_sequence),
        cmocka_unit_test(half_the_memory_and_a_scale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
