/* codes.h - packed codes that are no whole numbers, and scales of all (cpu.h), to floats, a vector of rows at a time. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CODES_H
#define ESPALIER_CODES_H

#include "kernels/cpu/level/simd.h"

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

#ifdef CPU_LEVEL_avx512

/* A half whose exponent is 8 too low: the sign comes along when the byte is widened. */
ALWAYS_INLINE vf v_load_e4m3(const uint8_t *p) {
    __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p));
    wide = _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16((short)0xbf80));
    return _mm512_cvtph_ps(wide);
}

/* The low or the high nibbles of a byte a row. */
ALWAYS_INLINE vf v_load_byte_nibbles(const uint8_t *p, bool high) {
    __m512i wide = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
    wide = high ? _mm512_srli_epi32(wide, 4) : _mm512_and_si512(wide, _mm512_set1_epi32(15));
    return _mm512_cvtepi32_ps(wide);
}

#else /* AVX2 */

ALWAYS_INLINE vf v_load_e4m3(const uint8_t *p) {
    __m128i wide = _mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)p));
    wide = _mm_and_si128(_mm_slli_epi16(wide, 7), _mm_set1_epi16((short)0xbf80));
    return _mm256_cvtph_ps(wide);
}

ALWAYS_INLINE vf v_load_byte_nibbles(const uint8_t *p, bool high) {
    __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
    wide = high ? _mm256_srli_epi32(wide, 4) : _mm256_and_si256(wide, _mm256_set1_epi32(15));
    return _mm256_cvtepi32_ps(wide);
}

#endif

/* What v_load_e4m3 leaves out: a power of two, so the scale takes it exactly. */
#define E4M3_UNIT 256.0f

/* Column k of a block, rows of vector v: values without their scale. */
ALWAYS_INLINE vf tile_values(esp_dtype dtype, const uint8_t *block, uint32_t k, uint32_t v) {
    const uint32_t at = k * TILE_ROWS + v * LANES;
    switch (dtype) {
    case DT_F8_E4M3:
        return v_load_e4m3(block + at);
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
