/* codes.h - packed codes and scales (cpu.h) to floats, a vector of rows at a time.
 *
 * A line holds bits of 16 rows, a dword each. Column j of a group of 8 is read by shifting all the
 * dwords of a vector alike; k, the group's first column in its block, picks the line and the part
 * of it, once for the group. Values are whole numbers, so it is only a matter of speed how bits
 * become one: at AVX-512 a permute of a table, which looks at the low bits of its index alone, does
 * masking, conversion and offset in one; at AVX2 they are put together as integers. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CODES_H
#define ESPALIER_CODES_H

#include "kernels/cpu/level/simd.h"

#ifdef CPU_LEVEL_avx512

typedef __m512i vi;

ALWAYS_INLINE vi vi_line(const uint8_t *line) { return _mm512_loadu_si512(line); }
ALWAYS_INLINE vi vi_right(vi a, uint32_t bits) { return _mm512_srli_epi32(a, bits); }
ALWAYS_INLINE vi vi_left(vi a, uint32_t bits) { return _mm512_slli_epi32(a, bits); }
/* For a shift known at run time only. */
ALWAYS_INLINE vi vi_part(vi a, uint32_t bits) {
    return _mm512_srl_epi32(a, _mm_cvtsi32_si128((int)bits));
}

#else

typedef __m256i vi;

ALWAYS_INLINE vi vi_line(const uint8_t *line) { return _mm256_loadu_si256((const vi *)line); }
ALWAYS_INLINE vi vi_right(vi a, uint32_t bits) { return _mm256_srli_epi32(a, (int)bits); }
ALWAYS_INLINE vi vi_left(vi a, uint32_t bits) { return _mm256_slli_epi32(a, (int)bits); }
ALWAYS_INLINE vi vi_part(vi a, uint32_t bits) {
    return _mm256_srl_epi32(a, _mm_cvtsi32_si128((int)bits));
}

#endif

/* The value of code 0 of formats whose values follow each other (quant.c), as a constant. */
ALWAYS_INLINE int code_first(esp_dtype dtype) {
    switch (dtype) {
    case DT_Q4_0:
        return -8;
    case DT_Q5_0:
        return -16;
    case DT_Q6_K:
        return -32;
    case DT_Q3_K:
        return -4;
    default:
        return 0;
    }
}

/* Two bits of each column: those of the group begin at bit 0. */
ALWAYS_INLINE vi vi_pairs(const uint8_t *lines, uint32_t k) {
    return vi_part(vi_line(lines + k / 16 * LINE_BYTES), k % 16 * 2);
}
/* One bit of each column. */
ALWAYS_INLINE vi vi_bits(const uint8_t *line, uint32_t k) { return vi_part(vi_line(line), k); }

/* Bit `from` of each dword comes to stand at bit `to`. */
ALWAYS_INLINE vi vi_move(vi a, uint32_t from, uint32_t to) {
    return from < to ? vi_left(a, to - from) : vi_right(a, from - to);
}

#ifdef CPU_LEVEL_avx512

/* Bits of high where mask has them, of low elsewhere. */
ALWAYS_INLINE vi vi_mix(vi low, vi high, int mask) {
    return _mm512_ternarylogic_epi32(low, high, _mm512_set1_epi32(mask), 0xd8);
}
ALWAYS_INLINE vf v_ramp(float first) {
    const vf ramp = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_add_ps(ramp, _mm512_set1_ps(first));
}

ALWAYS_INLINE vf v_nibbles(vi line, uint32_t j, float first) {
    return _mm512_permutexvar_ps(vi_right(line, 4 * j), v_ramp(first));
}
ALWAYS_INLINE vf v_iq4(vi line, uint32_t j) {
    return _mm512_permutexvar_ps(vi_right(line, 4 * j), v_load_i8(quant_iq4_values));
}
ALWAYS_INLINE vf v_fives(vi low, vi bits, uint32_t j, float first) {
    vi index = vi_mix(vi_right(low, 4 * j), vi_move(bits, j, 4), 16);
    return _mm512_permutex2var_ps(v_ramp(first), index, v_ramp(first + 16));
}
/* Sums of small whole numbers are exact. */
ALWAYS_INLINE vf v_sixes(vi low, vi pairs, uint32_t j) {
    const vf table =
        _mm512_setr_ps(-32, -16, 0, 16, -32, -16, 0, 16, -32, -16, 0, 16, -32, -16, 0, 16);
    vf high = _mm512_permutexvar_ps(vi_right(pairs, 2 * j), table);
    return v_add(v_nibbles(low, j, 0), high);
}
ALWAYS_INLINE vf v_pairs(vi pairs, uint32_t j) {
    const vf table = _mm512_setr_ps(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3);
    return _mm512_permutexvar_ps(vi_right(pairs, 2 * j), table);
}
ALWAYS_INLINE vf v_threes(vi pairs, vi bits, uint32_t j, float first) {
    const vf table = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7);
    vi index = vi_mix(vi_right(pairs, 2 * j), vi_move(bits, j, 2), 4);
    return _mm512_permutexvar_ps(index, v_add(table, v_set1(first)));
}

ALWAYS_INLINE vf v_load_u8(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
/* A half whose exponent is 8 too low: the sign comes along when the byte is widened. */
ALWAYS_INLINE vf v_load_e4m3(const uint8_t *p) {
    __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p));
    wide = _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16((short)0xbf80));
    return _mm512_cvtph_ps(wide);
}

/* The low or the high nibbles of a byte a row. */
ALWAYS_INLINE vf v_load_byte_nibbles(const uint8_t *p, bool high) {
    vi wide = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
    wide = high ? vi_right(wide, 4) : _mm512_and_si512(wide, _mm512_set1_epi32(15));
    return _mm512_cvtepi32_ps(wide);
}

#else /* AVX2 */

ALWAYS_INLINE vi vi_and(vi a, int mask) { return _mm256_and_si256(a, _mm256_set1_epi32(mask)); }
ALWAYS_INLINE vi vi_or(vi a, vi b) { return _mm256_or_si256(a, b); }
/* first is a whole number. */
ALWAYS_INLINE vf vi_floats(vi codes, float first) {
    if (first != 0) codes = _mm256_add_epi32(codes, _mm256_set1_epi32((int)first));
    return _mm256_cvtepi32_ps(codes);
}

ALWAYS_INLINE vf v_nibbles(vi line, uint32_t j, float first) {
    return vi_floats(vi_and(vi_right(line, 4 * j), 15), first);
}
/* A permute has eight values: one for the codes below 8, one for those above. */
ALWAYS_INLINE vf v_iq4(vi line, uint32_t j) {
    vi index = vi_right(line, 4 * j);
    vf low = _mm256_permutevar8x32_ps(v_load_i8(quant_iq4_values), index);
    vf high = _mm256_permutevar8x32_ps(v_load_i8(quant_iq4_values + 8), index);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(vi_left(line, 28 - 4 * j)));
}
ALWAYS_INLINE vf v_fives(vi low, vi bits, uint32_t j, float first) {
    vi nibble = vi_and(vi_right(low, 4 * j), 15), high = vi_and(vi_move(bits, j, 4), 16);
    return vi_floats(vi_or(nibble, high), first);
}
ALWAYS_INLINE vf v_sixes(vi low, vi pairs, uint32_t j) {
    vi nibble = vi_and(vi_right(low, 4 * j), 15), high = vi_and(vi_move(pairs, 2 * j, 4), 48);
    return vi_floats(vi_or(nibble, high), -32);
}
ALWAYS_INLINE vf v_pairs(vi pairs, uint32_t j) {
    return vi_floats(vi_and(vi_right(pairs, 2 * j), 3), 0);
}
ALWAYS_INLINE vf v_threes(vi pairs, vi bits, uint32_t j, float first) {
    vi low = vi_and(vi_right(pairs, 2 * j), 3), high = vi_and(vi_move(bits, j, 2), 4);
    return vi_floats(vi_or(low, high), first);
}

ALWAYS_INLINE vf v_load_u8(const uint8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
ALWAYS_INLINE vf v_load_e4m3(const uint8_t *p) {
    __m128i wide = _mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)p));
    wide = _mm_and_si128(_mm_slli_epi16(wide, 7), _mm_set1_epi16((short)0xbf80));
    return _mm256_cvtph_ps(wide);
}

ALWAYS_INLINE vf v_load_byte_nibbles(const uint8_t *p, bool high) {
    vi wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
    return vi_floats(high ? vi_right(wide, 4) : vi_and(wide, 15), 0);
}

#endif

/* What v_load_e4m3 leaves out: a power of two, so the scale takes it exactly. */
#define E4M3_UNIT 256.0f

/* Column k + j of a block, k a multiple of 8, rows of vector v: values without their scale. */
ALWAYS_INLINE vf tile_values(esp_dtype dtype, const uint8_t *block, uint32_t k, uint32_t j,
                             uint32_t v) {
    const uint32_t rows = v * LANES * 4; /* in a line */
    const uint8_t *high = block + cpu_formats[dtype].low_bits * LINE_BYTES + rows;
    const uint8_t *nibbles = block + k / 8 * LINE_BYTES + rows, *low = block + rows;
    const uint32_t at = (k + j) * TILE_ROWS + v * LANES;
    switch (dtype) {
    case DT_Q4_0:
        return v_nibbles(vi_line(nibbles), j, (float)code_first(dtype));
    case DT_Q4_1:
    case DT_Q4_K:
    case DT_G4:
        return v_nibbles(vi_line(nibbles), j, 0);
    case DT_IQ4_NL:
    case DT_IQ4_XS:
        return v_iq4(vi_line(nibbles), j);
    case DT_Q5_0:
        return v_fives(vi_line(nibbles), vi_bits(high, k), j, (float)code_first(dtype));
    case DT_Q5_1:
    case DT_Q5_K:
        return v_fives(vi_line(nibbles), vi_bits(high, k), j, 0);
    case DT_Q6_K:
        return v_sixes(vi_line(nibbles), vi_pairs(high, k), j);
    case DT_Q2_K:
    case DT_G2:
        return v_pairs(vi_pairs(low, k), j);
    case DT_Q3_K:
        return v_threes(vi_pairs(low, k), vi_bits(high, k), j, (float)code_first(dtype));
    case DT_G3:
        return v_threes(vi_pairs(low, k), vi_bits(high, k), j, 0);
    case DT_G8:
        return v_load_u8(block + at);
    case DT_F8_E4M3:
        return v_load_e4m3(block + at);
    case DT_Q8_0:
        return v_load_i8((const int8_t *)block + at);
    case DT_F16:
        return v_load_f16((const uint16_t *)(const void *)block + at);
    case DT_BF16:
        return v_load_bf16((const uint16_t *)(const void *)block + at);
    default:
        return v_load((const float *)(const void *)block + at);
    }
}

ALWAYS_INLINE bool has_offset(cpu_scaling scaling) {
    return scaling == SCALE_32_OFFSET || scaling == SCALE_16_OFFSET || scaling == SCALE_32_ZERO;
}
/* Columns that share a scale. */
ALWAYS_INLINE uint32_t scale_cols(cpu_scaling scaling) {
    return scaling == SCALE_16 || scaling == SCALE_16_OFFSET ? TILE_COLS / 2 : TILE_COLS;
}

/* Scale of half `half` of block b (0 where all columns share one), rows of vector v. */
ALWAYS_INLINE vf tile_scale(esp_dtype dtype, const uint8_t *scales, uint32_t b, uint32_t half,
                            uint32_t v) {
    const cpu_format *format = &cpu_formats[dtype];
    const uint8_t *halves = scales + cpu_halves_at(format, b) + v * LANES * 2;
    const uint8_t *own = scales + cpu_scales_at(format, b) + half * TILE_ROWS + v * LANES;
    const float *whole =
        (const float *)(const void *)(scales + cpu_halves_at(format, b)) + v * LANES;
    if (format->scaling == SCALE_32_ZERO) return v_load(whole);
    if (dtype == DT_F8_E4M3) return v_mul(v_load(whole), v_set1(E4M3_UNIT));
    vf d = v_load_f16((const uint16_t *)(const void *)halves);
    if (format->head_bytes == 0) return d;
    if (dtype == DT_Q2_K) return v_mul(d, v_load_byte_nibbles(own, false));
    return v_mul(d, v_load_i8((const int8_t *)own));
}

/* What is added for each unit of input, likewise; for formats with an offset or a zero point. */
ALWAYS_INLINE vf tile_offset(esp_dtype dtype, const uint8_t *scales, uint32_t b, uint32_t half,
                             uint32_t v) {
    const cpu_format *format = &cpu_formats[dtype];
    const uint8_t *halves = scales + cpu_halves_at(format, b) + SCALE_ROW_BYTES + v * LANES * 2;
    const uint8_t *own = scales + cpu_scales_at(format, b) + v * LANES;
    if (format->scaling == SCALE_32_ZERO) {
        const uint8_t *zeros = scales + cpu_halves_at(format, b) + FLOAT_ROW_BYTES + v * LANES * 2;
        return v_sub(v_zero(), v_load_f16((const uint16_t *)(const void *)zeros));
    }
    vf m = v_load_f16((const uint16_t *)(const void *)halves);
    if (format->head_bytes == 0) return m;
    m = v_sub(v_zero(), m);
    if (dtype == DT_Q2_K) return v_mul(m, v_load_byte_nibbles(own + half * TILE_ROWS, true));
    return v_mul(m, v_load_i8((const int8_t *)own + TILE_ROWS));
}

#endif
