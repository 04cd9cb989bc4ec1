/* largest.h - the size of a block of inputs. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_LARGEST_H
#define ESPALIER_LARGEST_H

#include "kernels/cpu/level/linear_job.h"

/* 127 / x is finite from here on; far below what any model's activations are. */
#define INT_LEAST 0x1p-100f

/* Bits of the largest |x| of the block; a NaN counts as larger than all. */
ALWAYS_INLINE uint32_t act_largest(const uint16_t *in) {
    const __m256i size = _mm256_set1_epi16(0x7fff);
    __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)in);
    __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)(in + TILE_ROWS));
    low = _mm256_max_epu16(_mm256_and_si256(low, size), _mm256_and_si256(high, size));
    __m128i most = _mm_max_epu16(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
    /* The smallest of the complements is the complement of the largest. */
    most = _mm_minpos_epu16(_mm_xor_si128(most, _mm_set1_epi16(-1)));
    return (uint32_t)(uint16_t)~_mm_cvtsi128_si32(most) << 16;
}

#endif
