/* lines.h - vectors of whole numbers, and fields of packed codes (cpu.h) in them. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_LINES_H
#define ESPALIER_LINES_H

#include "kernels/cpu/level/tile.h"

#ifdef CPU_LEVEL_avx512

typedef __m512i vi;

ALWAYS_INLINE vi vi_line(const uint8_t *line) { return _mm512_loadu_si512(line); }
ALWAYS_INLINE vi vi_right(vi a, uint32_t bits) { return _mm512_srli_epi32(a, bits); }
ALWAYS_INLINE vi vi_left(vi a, uint32_t bits) { return _mm512_slli_epi32(a, bits); }
ALWAYS_INLINE vi vi_or(vi a, vi b) { return _mm512_or_si512(a, b); }
ALWAYS_INLINE vi vi_set1(int x) { return _mm512_set1_epi32(x); }
ALWAYS_INLINE vi vi_and(vi a, int mask) { return _mm512_and_si512(a, vi_set1(mask)); }
ALWAYS_INLINE vi vi_flip(vi a, int mask) { return _mm512_xor_si512(a, vi_set1(mask)); }
ALWAYS_INLINE vf vi_floats(vi a) { return _mm512_cvtepi32_ps(a); }
/* Sixteen bytes; where an index has its upper bit, 0. */
ALWAYS_INLINE vi vi_look_up(__m128i table, vi indices) {
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), indices);
}

#else /* AVX2 */

typedef __m256i vi;

ALWAYS_INLINE vi vi_line(const uint8_t *line) { return _mm256_loadu_si256((const vi *)line); }
ALWAYS_INLINE vi vi_right(vi a, uint32_t bits) { return _mm256_srli_epi32(a, (int)bits); }
ALWAYS_INLINE vi vi_left(vi a, uint32_t bits) { return _mm256_slli_epi32(a, (int)bits); }
ALWAYS_INLINE vi vi_or(vi a, vi b) { return _mm256_or_si256(a, b); }
ALWAYS_INLINE vi vi_set1(int x) { return _mm256_set1_epi32(x); }
ALWAYS_INLINE vi vi_and(vi a, int mask) { return _mm256_and_si256(a, vi_set1(mask)); }
ALWAYS_INLINE vi vi_flip(vi a, int mask) { return _mm256_xor_si256(a, vi_set1(mask)); }
ALWAYS_INLINE vf vi_floats(vi a) { return _mm256_cvtepi32_ps(a); }
ALWAYS_INLINE vi vi_look_up(__m128i table, vi indices) {
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), indices);
}

#endif

/* Bit `from` of each dword comes to stand at bit `to`. */
ALWAYS_INLINE vi vi_move(vi a, uint32_t from, uint32_t to) {
    return from < to ? vi_left(a, to - from) : vi_right(a, from - to);
}

/* Codes of fewer than 8 bits: those of `lanes` columns that lie in a dword's 2 words or 4 bytes, once shifted. Vector v of
 * a block, rows of register part `y`; all but block are constants. */
ALWAYS_INLINE vi vi_fields(esp_dtype dtype, const uint8_t *block, uint32_t lanes, uint32_t v,
                           uint32_t y) {
    const cpu_format *format = &cpu_formats[dtype];
    const uint32_t low = format->low_bits, high = format->high_bits;
    const int each = lanes == 2 ? 0x00010001 : 0x01010101;
    const uint8_t *rows = block + y * LANES * 4, *above = rows + low * LINE_BYTES;
    const uint32_t parts = 32 / lanes / low; /* vectors of a line */
    vi line = vi_right(vi_line(rows + v / parts * LINE_BYTES), v % parts * low);
    vi codes = vi_and(line, ((1 << low) - 1) * each);
    if (high == 0) return codes;
    const uint32_t high_parts = 32 / lanes / high;
    line = vi_line(above + v / high_parts * LINE_BYTES);
    line = vi_move(line, v % high_parts * high, low);
    return vi_or(codes, vi_and(line, (((1 << high) - 1) << low) * each));
}

#endif
