/* int16.h - a block of inputs as codes of 16 bits (integer.h). */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_INT16_H
#define ESPALIER_INT16_H

#include "kernels/cpu/integer/largest.h"

typedef int16_block act_block;

enum {
    F32_FRACTION_BITS = 23,
    F32_EXPONENTS = 255, /* the exponent of what is no finite number */
    F32_BIAS = 127,
    INT16_BITS = 14, /* of the largest code, below its highest */
};

static inline float power_of_two(uint32_t exponent) {
    return f32_of_bits(exponent << F32_FRACTION_BITS);
}

/* Sixteen codes. */
#ifdef CPU_LEVEL_avx512
ALWAYS_INLINE __m256i int16_codes(const uint16_t *in, float factor) {
    __m256i half = _mm256_loadu_si256((const __m256i *)(const void *)in);
    __m512i bits = _mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16);
    __m512i codes =
        _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(factor)));
    return _mm512_cvtsepi32_epi16(codes);
}
#else
ALWAYS_INLINE __m256i int16_eight(__m128i half, float factor) {
    __m256i bits = _mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16);
    return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_castsi256_ps(bits), _mm256_set1_ps(factor)));
}
ALWAYS_INLINE __m256i int16_codes(const uint16_t *in, float factor) {
    __m256i low = int16_eight(_mm_loadu_si128((const __m128i *)(const void *)in), factor);
    __m256i high = int16_eight(_mm_loadu_si128((const __m128i *)(const void *)(in + 8)), factor);
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
}
#endif

/* The sums of both halves and, first, of the block. */
ALWAYS_INLINE __m128i int16_sums(__m256i first, __m256i second) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i pairs =
        _mm256_hadd_epi32(_mm256_madd_epi16(first, ones), _mm256_madd_epi16(second, ones));
    __m128i fours =
        _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    __m128i halves = _mm_hadd_epi32(fours, fours); /* first, second, first, second */
    __m128i both = _mm_add_epi32(halves, _mm_shuffle_epi32(halves, 0xb1));
    return _mm_alignr_epi8(halves, both, 12);
}

static inline void act_quantise(const uint16_t *in, act_block *out) {
    uint32_t bits = act_largest(in), exponent = bits >> F32_FRACTION_BITS;
    bool zero = f32_of_bits(bits) < INT_LEAST, finite = exponent < F32_EXPONENTS;
    float scale = zero ? 0 : power_of_two(exponent - INT16_BITS), factor = 0;
    if (!zero && finite) factor = power_of_two(2 * F32_BIAS + INT16_BITS - exponent);
    out->scale = finite ? scale : NAN;
    __m256i first = int16_codes(in, factor), second = int16_codes(in + TILE_ROWS, factor);
    _mm256_storeu_si256((__m256i *)(void *)out->codes, first);
    _mm256_storeu_si256((__m256i *)(void *)(out->codes + TILE_ROWS), second);
    __m128i sums = finite ? int16_sums(first, second) : _mm_setzero_si128();
    _mm_storeu_si128((__m128i *)(void *)out->sum_int, sums);
    _mm_storeu_ps(out->sum, _mm_cvtepi32_ps(sums));
}

#endif
