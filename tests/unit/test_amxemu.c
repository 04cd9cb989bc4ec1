/* test_amxemu.c - the instructions that tests/amxemu emulates, held to their definition: run by the processor where it has
 * AMX, and emulated with ESPALIER_AMXEMU=1. Expected values are the manual's, not the emulation's. */
// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/quant.h"
#include "kernels/cpu/amx/amx.h"
#include "kernels/cpu/cpu.h"

enum { ROWS = 16, PAIRS = 16, COLUMNS = 16, GUARD = 0x5a };

typedef struct matrices {
    _Alignas(64) uint16_t a[ROWS][2 * PAIRS];    /* bf16 */
    _Alignas(64) uint16_t b[PAIRS][2 * COLUMNS]; /* pairs: b[p][2n + i] is B[2p + i][n] */
    _Alignas(64) float c[ROWS][COLUMNS];
} matrices;

static bool here(void) { return kern_cpu_best_level() >= LEVEL_AMX; }

static void configure(uint32_t rows, uint32_t pairs, uint32_t columns) {
    amx_config c = {.palette = 1};
    c.rows[0] = c.rows[1] = (uint8_t)rows;
    c.rows[2] = (uint8_t)pairs;
    c.row_bytes[0] = c.row_bytes[2] = (uint16_t)(4 * columns);
    c.row_bytes[1] = (uint16_t)(4 * pairs);
    amx_configure(&c);
}

static void multiply(matrices *m, uint32_t rows, uint32_t pairs, uint32_t columns) {
    configure(rows, pairs, columns);
    AMX_LOAD(0, m->c, sizeof m->c[0]);
    AMX_LOAD(1, m->a, sizeof m->a[0]);
    AMX_LOAD_ONCE(2, m->b, sizeof m->b[0]);
    AMX_MULTIPLY(0, 1, 2);
    AMX_STORE(0, m->c, sizeof m->c[0]);
    amx_release();
}

/* Whole numbers, of which every sum is exact: -8..8. */
static int number(uint32_t seed) { return (int)((seed * 2654435761u) >> 16) % 17 - 8; }

static int a_at(uint32_t m, uint32_t k) { return number(100 * m + k + 1); }
static int b_at(uint32_t k, uint32_t n) { return number(5000 + 100 * k + n); }

static void fill(matrices *m) {
    for (uint32_t r = 0; r < ROWS; r++)
        for (uint32_t k = 0; k < 2 * PAIRS; k++)
            m->a[r][k] = bf16_of_f32((float)a_at(r, k));
    for (uint32_t k = 0; k < 2 * PAIRS; k++)
        for (uint32_t n = 0; n < COLUMNS; n++)
            m->b[k / 2][2 * n + k % 2] = bf16_of_f32((float)b_at(k, n));
    for (uint32_t r = 0; r < ROWS; r++)
        for (uint32_t n = 0; n < COLUMNS; n++)
            m->c[r][n] = (float)(r + n);
}

static void a_product_of_bf16_is_added_to_c(void **state) {
    (void)state;
    if (!here()) skip();
    static const uint32_t shapes[][3] = {{16, 16, 16}, {1, 16, 16}, {16, 16, 1}, {3, 5, 7}};
    for (uint32_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        uint32_t rows = shapes[s][0], pairs = shapes[s][1], columns = shapes[s][2];
        matrices m;
        fill(&m);
        multiply(&m, rows, pairs, columns);
        for (uint32_t r = 0; r < ROWS; r++)
            for (uint32_t n = 0; n < COLUMNS; n++) {
                int sum = (int)(r + n); /* what lies beside the tile stays */
                for (uint32_t k = 0; r < rows && n < columns && k < 2 * pairs; k++)
                    sum += a_at(r, k) * b_at(k, n);
                assert_true(m.c[r][n] == (float)sum);
            }
    }
}

/* One row, one column; pairs as (A even, A odd), B is 1. */
static float sum_of(float c, uint32_t pairs, const float (*a)[2]) {
    matrices m;
    memset(&m, 0, sizeof m);
    m.c[0][0] = c;
    for (uint32_t p = 0; p < pairs; p++) {
        m.a[0][2 * p] = bf16_of_f32(a[p][0]);
        m.a[0][2 * p + 1] = bf16_of_f32(a[p][1]);
        m.b[p][0] = m.b[p][1] = bf16_of_f32(1);
    }
    multiply(&m, 1, pairs, 1);
    return m.c[0][0];
}

/* 2^24 + 1 is no float: which sums are made first is seen from what is lost. */
static void even_and_odd_products_have_sums_of_their_own(void **state) {
    (void)state;
    if (!here()) skip();
    const float big = 0x1p24f;
    /* within a pair they do not meet: the even sum is 0, the odd one 2 */
    assert_true(sum_of(0, 2, (const float[][2]){{big, 1}, {-big, 1}}) == 2);
    /* in the even sum, 1 is lost beside 2^24 */
    assert_true(sum_of(0, 3, (const float[][2]){{big, 0}, {1, 0}, {-big, 0}}) == 0);
    /* they join each other before they join c */
    assert_true(sum_of(big, 1, (const float[][2]){{1, 1}}) == big + 2);
    assert_true(sum_of(big, 2, (const float[][2]){{1, 0}, {0, 0}}) == big);
    assert_true(sum_of(-big, 1, (const float[][2]){{big, 1}}) == 0);
}

static void denormal_numbers_count_as_zero(void **state) {
    (void)state;
    if (!here()) skip();
    const float least = 0x1p-126f;
    assert_true(sum_of(0, 1, (const float[][2]){{least, 0}}) == least);
    assert_true(sum_of(0, 1, (const float[][2]){{least / 2, 0}}) == 0);         /* a factor */
    assert_true(sum_of(0x1p-127f, 1, (const float[][2]){{0, 0}}) == 0);         /* what was there */
    assert_true(sum_of(-least, 1, (const float[][2]){{1.5f * least, 0}}) == 0); /* the sum */
}

static void a_product_of_bytes_is_exact(void **state) {
    (void)state;
    if (!here() || !cpu_has(CPU_AMX_INT8)) skip();
    _Alignas(64) int8_t a[ROWS][64], b[16][64];
    _Alignas(64) int32_t c[ROWS][COLUMNS];
    for (uint32_t i = 0; i < sizeof a; i++) {
        ((int8_t *)a)[i] = (int8_t)(i * 37 + 11);
        ((int8_t *)b)[i] = (int8_t)(i * 101 + 128);
    }
    for (uint32_t i = 0; i < ROWS * COLUMNS; i++)
        ((int32_t *)c)[i] = INT32_MAX - (int32_t)i;
    configure(ROWS, 16, COLUMNS);
    AMX_LOAD(0, c, 64);
    AMX_LOAD(1, a, 64);
    AMX_LOAD(2, b, 64);
    AMX_MULTIPLY_BYTES(0, 1, 2);
    AMX_STORE(0, c, 64);
    amx_release();
    for (uint32_t m = 0; m < ROWS; m++)
        for (uint32_t n = 0; n < COLUMNS; n++) {
            int64_t sum = INT32_MAX - (int64_t)(m * COLUMNS + n);
            for (uint32_t k = 0; k < 64; k++)
                sum += a[m][k] * b[k / 4][4 * n + k % 4];
            assert_int_equal(c[m][n], (int32_t)(uint32_t)(uint64_t)sum); /* wraps around */
        }
}

/* Neither a load nor a store touches a byte beside it. */
static void a_tile_has_the_shape_it_was_given(void **state) {
    (void)state;
    if (!here()) skip();
    enum { STRIDE = 80 };
    uint8_t from[ROWS * STRIDE], to[ROWS * STRIDE];
    for (uint32_t i = 0; i < sizeof from; i++)
        from[i] = (uint8_t)(i * 7 + 1);
    memset(to, GUARD, sizeof to);
    configure(5, 3, 9);
    AMX_LOAD(0, from, STRIDE);
    AMX_STORE(0, to, STRIDE);
    amx_release();
    for (uint32_t i = 0; i < sizeof to; i++) {
        bool inside = i / STRIDE < 5 && i % STRIDE < 36;
        assert_int_equal(to[i], inside ? from[i] : GUARD);
    }
}

static void tiles_are_zero_when_zeroed_or_configured(void **state) {
    (void)state;
    if (!here()) skip();
    _Alignas(64) uint8_t pattern[ROWS * 64], zeroed[ROWS * 64], anew[ROWS * 64];
    const uint8_t zeros[ROWS * 64] = {0};
    memset(pattern, GUARD, sizeof pattern);
    memset(zeroed, GUARD, sizeof zeroed);
    memset(anew, GUARD, sizeof anew);
    configure(ROWS, 16, COLUMNS);
    AMX_LOAD(0, pattern, 64);
    AMX_LOAD(1, pattern, 64);
    AMX_ZERO(0);
    AMX_STORE(0, zeroed, 64);
    configure(ROWS, 16, COLUMNS);
    AMX_STORE(1, anew, 64);
    amx_release();
    assert_memory_equal(zeroed, zeros, sizeof zeros);
    assert_memory_equal(anew, zeros, sizeof zeros);
}

/* Of a configuration and of rows: base, index, scale and displacement, in registers of the upper eight too. */
static void tiles_are_found_where_they_are(void **state) {
    (void)state;
    if (!here()) skip();
    amx_config configs[3] = {{0}, {.palette = 1}, {0}};
    uint8_t rows[4][96], out[2][64];
    configs[1].rows[3] = 2;
    configs[1].row_bytes[3] = 64;
    for (uint32_t i = 0; i < sizeof rows; i++)
        ((uint8_t *)rows)[i] = (uint8_t)(i * 3);
    register const void *base __asm__("r12") = configs;
    register uint64_t index __asm__("r13") = 16;
    __asm__ volatile("ldtilecfg -64(%0,%1,8)" : : "r"(base), "r"(index), "m"(configs));
    register const void *from __asm__("r13") = rows;
    register uint64_t stride __asm__("r9") = 48; /* half a row's */
    __asm__ volatile("tileloadd 96(%0,%1,2), %%tmm3" : : "r"(from), "r"(stride), "m"(rows));
    AMX_STORE(3, out, 64);
    amx_release();
    assert_memory_equal(out[0], rows[1], 64);
    assert_memory_equal(out[1], rows[2], 64);
}

#define WITH_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16,avx512dq")))

static const uint32_t WIDE[16] = {
    0x3f800000, 0x3f808000, 0x3f818000, 0x3f808001, 0xbf80ffff, 0x7f800000, 0xff800000, 0x7f800001,
    0x00000000, 0x80000000, 0x007fffff, 0x807fffff, 0x00800000, 0x7f7fffff, 0x3effffff, 0x42280000};
static const uint16_t NARROWED[16] = {0x3f80, 0x3f80, 0x3f82, 0x3f81, 0xbf81,
                                      0x7f80, 0xff80, 0x7fc0, /* ties to even; a NaN is quiet */
                                      0x0000, 0x8000, 0x0000, 0x8000, 0x0080,
                                      0x7f80, 0x3f00, 0x4228};

WITH_BF16 static void floats_become_bf16(void **state) {
    (void)state;
    if (!here()) skip();
    uint16_t out[32], expected[32];
    __m512 wide = (__m512)_mm512_loadu_si512(WIDE), ones = _mm512_set1_ps(1);
    _mm256_storeu_si256((__m256i *)out, (__m256i)_mm512_cvtneps_pbh(wide));
    assert_memory_equal(out, NARROWED, sizeof NARROWED);

    _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(ones, wide));
    memcpy(expected, NARROWED, sizeof NARROWED);
    for (uint32_t n = 16; n < 32; n++)
        expected[n] = 0x3f80;
    assert_memory_equal(out, expected, sizeof expected);

    __m512i kept = _mm512_set1_epi16(0x1234);
    _mm512_storeu_si512(out,
                        (__m512i)_mm512_mask_cvtne2ps_pbh((__m512bh)kept, 0x0000fffe, ones, wide));
    for (uint32_t n = 0; n < 32; n++)
        if (n == 0 || n >= 16) expected[n] = 0x1234;
    assert_memory_equal(out, expected, sizeof expected);

    memcpy(expected, NARROWED, sizeof NARROWED);
    expected[15] = 0;
    _mm256_storeu_si256((__m256i *)out, (__m256i)_mm512_maskz_cvtneps_pbh(0x7fff, wide));
    assert_memory_equal(out, expected, sizeof NARROWED);
}

/* Of 32 and 16 bytes; what of the register lies behind becomes zero. */
WITH_BF16 static void narrower_vectors_end_in_zeros(void **state) {
    (void)state;
    if (!here()) skip();
    uint16_t out[32], expected[32] = {0};
    __m512i all = _mm512_set1_epi32(-1), wide = _mm512_loadu_si512(WIDE);
    __asm__ volatile("vcvtneps2bf16 %1, %t0" : "+v"(all) : "v"(wide));
    _mm512_storeu_si512(out, all);
    memcpy(expected, NARROWED, 32);
    assert_memory_equal(out, expected, sizeof out);
    all = _mm512_set1_epi32(-1);
    __asm__ volatile("vcvtneps2bf16 %t1, %x0" : "+v"(all) : "v"(wide));
    _mm512_storeu_si512(out, all);
    memset(expected + 8, 0, 16);
    assert_memory_equal(out, expected, sizeof out);
    all = _mm512_set1_epi32(-1);
    __asm__ volatile("vcvtneps2bf16 %x1, %x0" : "+v"(all) : "v"(wide));
    _mm512_storeu_si512(out, all);
    memset(expected + 4, 0, 8);
    assert_memory_equal(out, expected, sizeof out);
    all = _mm512_set1_epi32(-1);
    __asm__ volatile("vcvtne2ps2bf16 %t1, %t1, %t0" : "+v"(all) : "v"(wide));
    _mm512_storeu_si512(out, all);
    memcpy(expected, NARROWED, 16);
    memcpy(expected + 8, NARROWED, 16);
    assert_memory_equal(out, expected, sizeof out);
}

/* Of each pair the odd product is added to c first: 2^24 + 1 is no float. */
WITH_BF16 static void pairs_of_bf16_are_added_odd_first(void **state) {
    (void)state;
    if (!here()) skip();
    float out[16];
    const uint32_t one_odd = (uint32_t)bf16_of_f32(1) << 16, one_even = bf16_of_f32(1);
    __m512bh factors = (__m512bh)_mm512_set1_epi32((int)(one_odd | one_even));
    __m512bh odd_lost = (__m512bh)_mm512_set1_epi32((int)(one_odd | bf16_of_f32(-0x1p24f)));
    _mm512_storeu_ps(out, _mm512_dpbf16_ps(_mm512_set1_ps(0x1p24f), odd_lost, factors));
    for (uint32_t n = 0; n < 16; n++)
        assert_true(out[n] == 0);
    __m512bh even_kept =
        (__m512bh)_mm512_set1_epi32((int)((uint32_t)bf16_of_f32(-0x1p24f) << 16 | one_even));
    _mm512_storeu_ps(out, _mm512_dpbf16_ps(_mm512_set1_ps(0x1p24f), even_kept, factors));
    for (uint32_t n = 0; n < 16; n++)
        assert_true(out[n] == 1);
    /* gcc 12 passes on but eight bits of this mask */
    _mm512_storeu_ps(out, _mm512_maskz_dpbf16_ps(0x7e, _mm512_set1_ps(1), factors, factors));
    for (uint32_t n = 0; n < 16; n++)
        assert_true(out[n] == (n >= 1 && n <= 6 ? 3 : 0));
    __m512 least = _mm512_set1_ps(0x1p-127f);
    _mm512_storeu_ps(out, _mm512_dpbf16_ps(least, (__m512bh)_mm512_setzero_si512(), factors));
    for (uint32_t n = 0; n < 16; n++)
        assert_true(out[n] == 0);
}

/* Registers that older instructions do not have; an address of base, index, scale and displacement; one value for all. */
WITH_BF16 static void operands_are_found_where_they_are(void **state) {
    (void)state;
    if (!here()) skip();
    uint16_t out[32];
    register __m512 high __asm__("zmm29") = (__m512)_mm512_loadu_si512(WIDE);
    register __m512i low __asm__("zmm17") = _mm512_setzero_si512();
    __asm__ volatile("vcvtneps2bf16 %1, %t0" : "+v"(low) : "v"(high));
    _mm512_storeu_si512(out, low);
    assert_memory_equal(out, NARROWED, sizeof NARROWED);

    static const float beside[3][16] = {{1, 1}, {2, 4}, {3, 3}};
    register const void *base __asm__("r12") = beside;
    register uint64_t index __asm__("r13") = 16;
    register __m512i whole __asm__("zmm9") = _mm512_setzero_si512();
    __asm__ volatile("vcvtneps2bf16 -64(%1,%2,8)%{1to16%}, %t0"
                     : "+v"(whole)
                     : "r"(base), "r"(index), "m"(beside));
    _mm512_storeu_si512(out, whole);
    assert_int_equal(out[15], bf16_of_f32(2));
    __asm__ volatile("vcvtneps2bf16 -64(%1,%2,8), %t0"
                     : "+v"(whole)
                     : "r"(base), "r"(index), "m"(beside));
    _mm512_storeu_si512(out, whole);
    assert_int_equal(out[0], bf16_of_f32(2));
    assert_int_equal(out[1], bf16_of_f32(4));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_product_of_bf16_is_added_to_c),
        cmocka_unit_test(even_and_odd_products_have_sums_of_their_own),
        cmocka_unit_test(denormal_numbers_count_as_zero),
        cmocka_unit_test(a_product_of_bytes_is_exact),
        cmocka_unit_test(a_tile_has_the_shape_it_was_given),
        cmocka_unit_test(tiles_are_zero_when_zeroed_or_configured),
        cmocka_unit_test(tiles_are_found_where_they_are),
        cmocka_unit_test(floats_become_bf16),
        cmocka_unit_test(narrower_vectors_end_in_zeros),
        cmocka_unit_test(pairs_of_bf16_are_added_odd_first),
        cmocka_unit_test(operands_are_found_where_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
