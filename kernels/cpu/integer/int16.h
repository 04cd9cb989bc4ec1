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

/* Eight codes. */
ALWAYS_INLINE __m256i int16_codes(const uint16_t *in, __m256 factor) {
    __m128i half = _mm_loadu_si128((const __m128i *)(const void *)in);
    __m256i bits = _mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16);
    return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_castsi256_ps(bits), factor));
}

ALWAYS_INLINE int32_t int16_sum(__m256i a) {
    __m128i sums = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    sums = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0xb1)));
}

static inline void act_quantise(const uint16_t *in, act_block *out) {
    uint32_t bits = act_largest(in), exponent = bits >> F32_FRACTION_BITS;
    bool zero = f32_of_bits(bits) < INT_LEAST, finite = exponent < F32_EXPONENTS;
    float scale = zero ? 0 : power_of_two(exponent - INT16_BITS), factor = 0;
    if (!zero && finite) factor = power_of_two(2 * F32_BIAS + INT16_BITS - exponent);
    out->scale = finite ? scale : NAN;
    for (uint32_t half = 0; half < 2; half++) {
        const uint16_t *x = in + half * TILE_ROWS;
        __m256i low = int16_codes(x, _mm256_set1_ps(factor));
        __m256i high = int16_codes(x + 8, _mm256_set1_ps(factor));
        __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
        _mm256_storeu_si256((__m256i *)(void *)(out->codes + half * TILE_ROWS), words);
        out->sum_int[1 + half] = finite ? int16_sum(_mm256_add_epi32(low, high)) : 0;
        out->sum[1 + half] = (float)out->sum_int[1 + half];
    }
    out->sum_int[0] = out->sum_int[1] + out->sum_int[2];
    out->sum[0] = (float)out->sum_int[0];
}

#endif
