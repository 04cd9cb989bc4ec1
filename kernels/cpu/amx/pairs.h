/* pairs.h - packed codes (cpu.h) to rows of a B tile: pairs of bf16, without their scale.
 *
 * A row of B holds two columns of 16 weight rows. In a line of nibbles column j and column j + 4 of a
 * group of 8 lie 16 bits apart, so one shift puts both where a permutation of 16-bit words finds
 * them: B's rows take the columns of a group in the order (0,4) (1,5) (2,6) (3,7), and pair_columns
 * puts activations in that order too. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_PAIRS_H
#define ESPALIER_PAIRS_H

#include "kernels/cpu/level/codes.h"

/* 32 columns of activations in the order of B's rows. */
ALWAYS_INLINE __m512i pair_columns(__m512i x) {
    const __m512i order =
        _mm512_set_epi16(31, 27, 30, 26, 29, 25, 28, 24, 23, 19, 22, 18, 21, 17, 20, 16, 15, 11, 14,
                         10, 13, 9, 12, 8, 7, 3, 6, 2, 5, 1, 4, 0);
    return _mm512_permutexvar_epi16(order, x);
}

/* bf16 of first .. first + 15, twice: a word's bit 4 is somebody else's. */
ALWAYS_INLINE __m512i pairs_ramp(float first) {
    vf ramp = v_ramp(first);
    __m256i half = _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(ramp), 16));
    return _mm512_inserti64x4(_mm512_castsi256_si512(half), half, 1);
}
ALWAYS_INLINE __m512i pairs_iq4(void) {
    vf values = v_load_i8(quant_iq4_values);
    __m256i half = _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(values), 16));
    return _mm512_inserti64x4(_mm512_castsi256_si512(half), half, 1);
}
ALWAYS_INLINE __m512i pairs_of(const uint8_t *line, uint32_t j, __m512i table) {
    return _mm512_permutexvar_epi16(_mm512_srli_epi32(_mm512_loadu_si512(line), 4 * j), table);
}

/* Floats that bf16 holds exactly: their upper halves. */
ALWAYS_INLINE __m512i pairs_exact(vf first, vf second) {
    __m512i low = _mm512_srli_epi32(_mm512_castps_si512(first), 16);
    return _mm512_mask_mov_epi16(low, 0xaaaaaaaau, _mm512_castps_si512(second));
}
/* Rounded to nearest even. */
ALWAYS_INLINE __m512i pairs_rounded(vf first, vf second) {
    const __m512i interleave =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second, first);
    return _mm512_permutexvar_epi16(interleave, both);
}

/* Columns k + j and k + j + 4 of a block, k a multiple of 8, j < 4; dtype is a constant. */
ALWAYS_INLINE __m512i tile_pairs(esp_dtype dtype, const uint8_t *block, uint32_t k, uint32_t j) {
    const uint8_t *nibbles = block + k / 8 * LINE_BYTES;
    switch (dtype) {
    case DT_Q4_0:
        return pairs_of(nibbles, j, pairs_ramp(-8));
    case DT_Q4_1:
    case DT_Q4_K:
    case DT_G4:
        return pairs_of(nibbles, j, pairs_ramp(0));
    case DT_IQ4_NL:
    case DT_IQ4_XS:
        return pairs_of(nibbles, j, pairs_iq4());
    case DT_F16:
    case DT_F32:
        return pairs_rounded(tile_values(dtype, block, k, j, 0),
                             tile_values(dtype, block, k, j + 4, 0));
    default:
        return pairs_exact(tile_values(dtype, block, k, j, 0),
                           tile_values(dtype, block, k, j + 4, 0));
    }
}

#endif
