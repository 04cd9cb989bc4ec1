/* words.h - packed codes (cpu.h, "words") to words of 16 bits, and words times words.
 *
 * A vector holds two columns of a register's rows: word i of a dword is column 2*v + i of one row. Sums of 32
 * products of a weight of 8 bits and a code of 16 fit a dword. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_WORDS_H
#define ESPALIER_WORDS_H

#include "kernels/cpu/integer/lines.h"

enum {
    DOT_COLS = 2,
    DOT_VECTORS = TILE_COLS / DOT_COLS,
    DOT_RUN = DOT_VECTORS / 2,
};

#ifdef CPU_LEVEL_avx512

ALWAYS_INLINE vi w_low(vi a) { return _mm512_srai_epi16(_mm512_slli_epi16(a, 8), 8); }
ALWAYS_INLINE vi w_high(vi a) { return _mm512_srai_epi16(a, 8); }
#ifdef CPU_VNNI
ALWAYS_INLINE vi i_dot(vi sum, vi w, vi x) { return _mm512_dpwssd_epi32(sum, w, x); }
#else
ALWAYS_INLINE vi i_dot(vi sum, vi w, vi x) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(w, x));
}
#endif

#else /* AVX2 */

ALWAYS_INLINE vi w_low(vi a) { return _mm256_srai_epi16(_mm256_slli_epi16(a, 8), 8); }
ALWAYS_INLINE vi w_high(vi a) { return _mm256_srai_epi16(a, 8); }
#ifdef CPU_VNNI
ALWAYS_INLINE vi i_dot(vi sum, vi w, vi x) { return _mm256_dpwssd_avx_epi32(sum, w, x); }
#else
ALWAYS_INLINE vi i_dot(vi sum, vi w, vi x) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(w, x));
}
#endif

#endif

/* A dword of codes of an int16_block to all rows. */
ALWAYS_INLINE vi dot_inputs(const int16_t *codes, uint32_t v) {
    int pair;
    memcpy(&pair, codes + v * DOT_COLS, sizeof pair);
    return vi_set1(pair);
}

/* 128 more than the values, which makes them bytes without a sign. */
ALWAYS_INLINE vi word_iq4(vi nibbles) {
    __m128i table = _mm_loadu_si128((const __m128i *)(const void *)quant_iq4_values);
    table = _mm_xor_si128(table, _mm_set1_epi8(-128));
    return vi_look_up(table, vi_or(nibbles, vi_set1((int)0x80008000)));
}

/* Vector v of a block, rows of register part `y`; dtype, v, y are constants. */
ALWAYS_INLINE vi dot_codes(esp_dtype dtype, const uint8_t *block, uint32_t v, uint32_t y) {
    const uint8_t *line = block + y * LANES * 4 + v / 2 * LINE_BYTES; /* of codes of 8 bits */
    switch (dtype) {
    case DT_Q8_0:
        return v % 2 ? w_high(vi_line(line)) : w_low(vi_line(line));
    case DT_G8:
        return vi_and(v % 2 ? vi_right(vi_line(line), 8) : vi_line(line), 0x00ff00ff);
    case DT_IQ4_NL:
    case DT_IQ4_XS:
        return word_iq4(vi_fields(dtype, block, DOT_COLS, v, y));
    default:
        return vi_fields(dtype, block, DOT_COLS, v, y);
    }
}
/* value(code) less what dot_codes gives. */
ALWAYS_INLINE int dot_first(esp_dtype dtype) {
    return dtype == DT_IQ4_NL || dtype == DT_IQ4_XS ? -128 : code_first(dtype);
}

/* As bytes.h has them: all formats are one kind. */
ALWAYS_INLINE uint32_t dot_kind(esp_dtype dtype) {
    (void)dtype;
    return 1;
}
typedef struct dot_sum {
    vi sum;
} dot_sum;
ALWAYS_INLINE void dot_add(uint32_t kind, uint32_t v, vi w, vi x, dot_sum *p) {
    (void)kind, (void)v;
    p->sum = i_dot(p->sum, w, x);
}

#endif
