/* int8.h - a block of inputs as codes of 8 bits (integer.h). */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_INT8_H
#define ESPALIER_INT8_H

#include "kernels/cpu/integer/largest.h"

typedef int8_block act_block;

/* Sixteen codes; what is no number becomes -127. */
ALWAYS_INLINE __m128i int8_codes(const uint16_t *in, vf factor) {
    __m128i words[2];
    for (uint32_t i = 0; i < 2; i++) {
        __m128i half = _mm_loadu_si128((const __m128i *)(const void *)(in + i * 8));
        __m256i bits = _mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16);
#ifdef CPU_LEVEL_avx512
        __m256 by = _mm512_castps512_ps256(factor);
#else
        __m256 by = factor;
#endif
        __m256i codes = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_castsi256_ps(bits), by));
        words[i] =
            _mm_packs_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
    }
    return _mm_max_epi8(_mm_packs_epi16(words[0], words[1]), _mm_set1_epi8(-127));
}

ALWAYS_INLINE int32_t int8_sum(__m128i codes) {
    __m128i sums = _mm_maddubs_epi16(_mm_set1_epi8(1), codes);
    sums = _mm_madd_epi16(sums, _mm_set1_epi16(1));
    sums = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0xb1)));
}

static inline void act_quantise(const uint16_t *in, act_block *out) {
    float largest = f32_of_bits(act_largest(in));
    bool zero = largest < INT_LEAST;
    vf factor = v_set1(zero ? 0 : 127 / largest);
    out->scale = zero ? 0 : largest / 127;
    for (uint32_t half = 0; half < 2; half++) {
        __m128i codes = int8_codes(in + half * TILE_ROWS, factor);
        _mm_storeu_si128((__m128i *)(void *)(out->codes + half * TILE_ROWS), codes);
        out->sum_int[1 + half] = int8_sum(codes);
        out->sum[1 + half] = (float)out->sum_int[1 + half];
    }
    out->sum_int[0] = out->sum_int[1] + out->sum_int[2];
    out->sum[0] = (float)out->sum_int[0];
}

#endif
