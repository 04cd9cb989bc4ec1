/* test_roofline.c - the loops do what is counted for them; no figure of time is judged. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kernels/cpu/peak.h"
#include "kernels/roofline.h"
#include "tests/unit/kernel_lab.h"

static const struct {
    roofline_rate rate;
    peak_multiply multiply;
    double a_round; /* multiplications: chains or accumulators, times those of one instruction */
} loops[] = {
    {RATE_AVX2_F32, peak_f32_avx2, 12 * 8},
    {RATE_AVX512_F32, peak_f32_avx512, 12 * 16},
    {RATE_AVX512_BF16, peak_bf16_avx512, 12 * 16 * 2},
    {RATE_AVX512_INT8, peak_int8_avx512, 12 * 16 * 4},
    {RATE_AMX_BF16, peak_bf16_amx, 4 * 16 * 16 * 32},
    {RATE_AMX_INT8, peak_int8_amx, 4 * 16 * 16 * 64},
};

/* Ones times ones, summed: a loop that skipped a round, or a compiler that did, would be short. */
static void every_loop_multiplies_as_often_as_it_says(void **state) {
    (void)state;
    uint32_t tried = 0;
    for (size_t i = 0; i < sizeof loops / sizeof *loops; i++) {
        if (!roofline_has(loops[i].rate)) continue;
        tried++;
        for (uint32_t rounds = 0; rounds < 1000; rounds = 3 * rounds + 1)
            assert_true(loops[i].multiply(rounds) == rounds * loops[i].a_round);
    }
    if (tried == 0) skip();
}

static uint64_t plain_sum(const uint64_t *words, size_t lines) {
    uint64_t sum = 0;
    for (size_t i = 0; i < lines * PEAK_LINE / 8; i++)
        sum += words[i];
    return sum;
}

/* Line counts that no number of streams divides leave a tail, which is read too. */
static void reading_reads_every_word_once(void **state) {
    (void)state;
    enum { LINES = 1000 };
    if (!roofline_has(RATE_AVX2_F32)) skip();
    uint64_t *words = mem_map(LINES * PEAK_LINE);
    for (size_t i = 0; i < LINES * PEAK_LINE / 8; i++)
        words[i] = lab_hash(i + 1);
    for (size_t lines = 0; lines <= LINES; lines = 2 * lines + 1)
        for (uint32_t streams = 1; streams <= PEAK_STREAMS_MAX; streams *= 2) {
            uint64_t wanted = plain_sum(words, lines);
            assert_int_equal(peak_read_avx2(words, lines, streams), wanted);
            if (roofline_has(RATE_AVX512_F32))
                assert_int_equal(peak_read_avx512(words, lines, streams), wanted);
        }
    mem_unmap(words, LINES * PEAK_LINE);
}

static void check_copy(void (*copy)(void *, const void *, size_t), uint8_t *from, uint8_t *to) {
    enum { LINES = 33, BYTES = LINES * PEAK_LINE };
    memset(to, 0, BYTES + PEAK_LINE);
    copy(to, from, LINES);
    assert_memory_equal(to, from, BYTES);
    for (size_t i = 0; i < PEAK_LINE; i++)
        assert_int_equal(to[BYTES + i], 0);
}

static void copying_copies_all_and_no_more(void **state) {
    (void)state;
    enum { HALF = 1 << 14 };
    if (!roofline_has(RATE_AVX2_F32)) skip();
    uint8_t *memory = mem_map(2 * HALF);
    for (size_t i = 0; i < HALF; i++)
        memory[i] = (uint8_t)(lab_hash(i) | 1);
    check_copy(peak_copy_avx2, memory, memory + HALF);
    if (roofline_has(RATE_AVX512_F32)) check_copy(peak_copy_avx512, memory, memory + HALF);
    mem_unmap(memory, 2 * HALF);
}

/* A level is bounded by an instruction that it has, and that runs its activations. */
static void a_level_is_held_to_its_own_instruction(void **state) {
    (void)state;
    assert_int_equal(roofline_rate_of(LEVEL_AVX2, ACT_BF16, false), RATE_AVX2_F32);
    assert_int_equal(roofline_rate_of(LEVEL_AVX2, ACT_BF16, true), RATE_AVX2_INT16);
    assert_int_equal(roofline_rate_of(LEVEL_AVX512, ACT_BF16, false), RATE_AVX512_F32);
    assert_int_equal(roofline_rate_of(LEVEL_AVX512, ACT_BF16, true),
                     roofline_has(RATE_AVX512_INT16) ? RATE_AVX512_INT16 : RATE_AVX512_F32);
    assert_int_equal(roofline_rate_of(LEVEL_AMX, ACT_BF16, true), RATE_AMX_BF16);
    assert_int_equal(roofline_rate_of(LEVEL_AVX2, ACT_INT8, true), RATE_COUNT);
    assert_int_equal(roofline_rate_of(LEVEL_AVX512, ACT_INT8, true),
                     roofline_has(RATE_AVX512_INT8) ? RATE_AVX512_INT8 : RATE_COUNT);
    if (roofline_has(RATE_AMX_INT8) && roofline_has(RATE_AVX512_INT8))
        assert_int_equal(roofline_rate_of(LEVEL_AMX, ACT_INT8, true), RATE_AMX_INT8);
    kern_level best = kern_cpu_best_level();
    if (best != LEVEL_AUTO) assert_true(roofline_has(roofline_rate_of(best, ACT_BF16, true)));
}

/* Figures exist exactly where the instruction does, for small buffers too. */
static void figures_are_there_for_what_the_machine_has(void **state) {
    (void)state;
    thread_pool *pool;
    assert_int_equal(pool_open(&pool, 3, NULL), ESP_OK);
    for (roofline_rate rate = 0; rate < RATE_COUNT; rate++)
        assert_true((roofline_multiply(pool, rate) > 0) == roofline_has(rate));
    double rate;
    if (roofline_has(RATE_AVX2_F32)) {
        assert_int_equal(roofline_read(pool, 1, &rate, NULL), ESP_OK);
        assert_true(rate > 0);
        assert_int_equal(roofline_copy(pool, 1 << 20, &rate, NULL), ESP_OK);
        assert_true(rate > 0);
    }
    pool_close(pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_loop_multiplies_as_often_as_it_says),
        cmocka_unit_test(reading_reads_every_word_once),
        cmocka_unit_test(copying_copies_all_and_no_more),
        cmocka_unit_test(a_level_is_held_to_its_own_instruction),
        cmocka_unit_test(figures_are_there_for_what_the_machine_has),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
