/* unpack_amx.h - a block of a packed tile (cpu.h, by rows) to 16 rows of 32 bf16: an A tile.
 *
 * A weight is computed in float32 as cpu.h says, then rounded to bf16. Codes of up to 5 bits pick it out
 * of a table of the row's 16 or 32 possible weights: 32 weights cost the making of the table, a
 * move of bits and one permutation of words. The others are computed one by one.
 *
 * Numerics  tables of 16 are rounded to nearest, halves away from zero, and read out of the upper words
 *           of float32; everything else to nearest even. Both are within half a unit of bf16. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_UNPACK_AMX_H
#define ESPALIER_UNPACK_AMX_H

#include "kernels/cpu/level/tile.h"

/* What a block's columns are multiplied by, and what is added to them. [row] They lie block after block, the
 * tiles of a strip side by side; those of a block's second 16 columns, where they have their own, behind all
 * of them: what is not used costs no room in L1. */
typedef struct amx_scales {
    _Alignas(CACHE_LINE_BYTES) float scale[TILE_ROWS], offset[TILE_ROWS];
} amx_scales;

enum {
    SCALES_AHEAD = 32, /* blocks */
    SECOND_HALF = SCALES_AHEAD * STRIP_TILES,
};

/* --- scales ------------------------------------------------------------------------------ */

/* Of block b; dtype is a constant. */
ALWAYS_INLINE void amx_scales_of(esp_dtype dtype, const uint8_t *scales, uint32_t b,
                                 amx_scales *out) {
    const cpu_scaling scaling = cpu_formats[dtype].scaling;
    if (scaling == SCALE_NONE) return;
    for (uint32_t half = 0; half < TILE_COLS / scale_cols(scaling); half++) {
        vf scale = tile_scale(dtype, scales, b, half, 0);
        v_store(out[half * SECOND_HALF].scale, scale);
        if (!has_offset(scaling)) continue;
        v_store(out[half * SECOND_HALF].offset, tile_offset(dtype, scales, b, half, 0));
    }
}

/* --- bits -------------------------------------------------------------------------------- */

ALWAYS_INLINE __m512i words_and(__m512i a, int mask) {
    return _mm512_and_si512(a, _mm512_set1_epi16((short)mask));
}
/* Bits of high where mask has them, of low elsewhere. */
ALWAYS_INLINE __m512i words_mix(__m512i low, __m512i high, int mask) {
    return _mm512_ternarylogic_epi32(low, high, _mm512_set1_epi16((short)mask), 0xd8);
}
ALWAYS_INLINE __m512i words_right(__m512i a, uint32_t bits) {
    return bits ? _mm512_srli_epi16(a, bits) : a;
}
/* Bit `from` comes to stand at bit `to`. */
ALWAYS_INLINE __m512i words_move(__m512i a, uint32_t from, uint32_t to) {
    return from < to ? _mm512_slli_epi16(a, to - from) : words_right(a, from - to);
}

/* `bits` of a row's codes, from bit 0 on; what stands above them is not cleared. */
ALWAYS_INLINE __m512i words_of_row(const uint8_t *lines, uint32_t bits, uint32_t row) {
    const uint32_t rows = 16 / bits;
    return words_right(_mm512_loadu_si512(lines + row / rows * LINE_BYTES), row % rows * bits);
}

/* --- tables ------------------------------------------------------------------------------ */

/* Values of the codes first .. first + 16. */
ALWAYS_INLINE vf code_values(esp_dtype dtype, float first) {
    if (dtype == DT_IQ4_NL || dtype == DT_IQ4_XS) return v_load_i8(quant_iq4_values);
    return v_ramp(first);
}

ALWAYS_INLINE vf weights_of(cpu_scaling scaling, vf values, const amx_scales *s, uint32_t half,
                            uint32_t row) {
    s += half * SECOND_HALF;
    vf scale = v_set1(s->scale[row]);
    if (scaling == SCALE_32_ZERO) return v_mul(v_add(values, v_set1(s->offset[row])), scale);
    return has_offset(scaling) ? v_fma(values, scale, v_set1(s->offset[row]))
                               : v_mul(values, scale);
}

ALWAYS_INLINE __m512i round_both(vf low, vf high) {
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

/* Each byte becomes 2 * nibble + 1, of its low or its high nibble: where the upper word of a float32
 * lies in a table of sixteen. The operand is a matrix of bits: byte 7 - i says what bit i becomes. */
ALWAYS_INLINE __m512i upper_words(__m512i bytes, bool high) {
    const int64_t pick = high ? 0x0010204080000000 : 0x0001020408000000;
    return _mm512_gf2p8affine_epi64_epi8(bytes, _mm512_set1_epi64(pick), 1);
}

/* Sixteen possible weights: codes of 4 bits. */
ALWAYS_INLINE void unpack_nibbles(esp_dtype dtype, const uint8_t *codes, const amx_scales *s,
                                  uint16_t *out) {
    const vf values = code_values(dtype, (float)code_first(dtype));
    const __m512i half = _mm512_set1_epi32(0x8000);
    UNROLL for (uint32_t line = 0; line < 4; line++) {
        __m512i low = _mm512_loadu_si512(codes + line * LINE_BYTES);
        __m512i high = _mm512_srli_epi16(low, 8);
        UNROLL for (uint32_t j = 0; j < 4; j++) {
            uint32_t row = 4 * line + j;
            vf weights = weights_of(cpu_formats[dtype].scaling, values, s, 0, row);
            __m512i table = _mm512_add_epi32(_mm512_castps_si512(weights), half);
            __m512i index = upper_words(j < 2 ? low : high, j % 2);
            _mm512_store_si512(out + row * TILE_COLS, _mm512_permutexvar_epi16(index, table));
        }
    }
}

/* Thirty-two: codes of 5 bits. */
ALWAYS_INLINE void unpack_fives(esp_dtype dtype, const uint8_t *codes, const amx_scales *s,
                                uint16_t *out) {
    const cpu_scaling scaling = cpu_formats[dtype].scaling;
    const vf low = code_values(dtype, (float)code_first(dtype));
    const vf high = code_values(dtype, (float)(code_first(dtype) + 16));
    __m512i bits = _mm512_loadu_si512(codes + 4 * LINE_BYTES);
    UNROLL_16 for (uint32_t row = 0; row < TILE_ROWS; row++) {
        __m512i table =
            round_both(weights_of(scaling, low, s, 0, row), weights_of(scaling, high, s, 0, row));
        __m512i index = words_mix(words_of_row(codes, 4, row), words_move(bits, row, 4), 16);
        _mm512_store_si512(out + row * TILE_COLS, _mm512_permutexvar_epi16(index, table));
    }
}

/* --- one by one -------------------------------------------------------------------------- */

/* The 32 codes of a row that has 2, 3 or 6 bits of them. */
ALWAYS_INLINE __m512i row_codes(esp_dtype dtype, const uint8_t *codes, uint32_t row) {
    const uint32_t low_bits = cpu_formats[dtype].low_bits, high_bits = cpu_formats[dtype].high_bits;
    const int low_mask = (1 << low_bits) - 1;
    __m512i low = words_of_row(codes, low_bits, row);
    if (high_bits == 0) return words_and(low, low_mask);
    const uint32_t rows = 16 / high_bits;
    __m512i high = _mm512_loadu_si512(codes + (low_bits + row / rows) * LINE_BYTES);
    high = words_move(high, row % rows * high_bits, low_bits);
    return words_and(words_mix(low, high, ~low_mask), (1 << (low_bits + high_bits)) - 1);
}

/* Sixteen columns of a row, from column `at` on, without their scale. */
ALWAYS_INLINE vf row_values(esp_dtype dtype, const uint8_t *codes, uint32_t row, uint32_t at) {
    const uint32_t i = row * TILE_COLS + at;
    switch (dtype) {
    case DT_Q8_0:
        return v_load_i8((const int8_t *)codes + i);
    case DT_G8:
        return v_load_u8(codes + i);
    case DT_F8_E4M3:
        return v_load_e4m3(codes + i);
    case DT_F16:
        return v_load_f16((const uint16_t *)(const void *)codes + i);
    case DT_F32:
        return v_load((const float *)(const void *)codes + i);
    default: {
        const __m512i first = _mm512_set1_epi16((short)code_first(dtype));
        __m512i words = _mm512_add_epi16(row_codes(dtype, codes, row), first);
        __m256i half = at ? _mm512_extracti64x4_epi64(words, 1) : _mm512_castsi512_si256(words);
        return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(half));
    }
    }
}

ALWAYS_INLINE void unpack_values(esp_dtype dtype, const uint8_t *codes, const amx_scales *s,
                                 uint16_t *out) {
    const cpu_scaling scaling = cpu_formats[dtype].scaling;
    const uint32_t second = scaling == SCALE_16 || scaling == SCALE_16_OFFSET; /* half's scale */
    UNROLL_16 for (uint32_t row = 0; row < TILE_ROWS; row++) {
        vf low = row_values(dtype, codes, row, 0), high = row_values(dtype, codes, row, TILE_ROWS);
        if (scaling != SCALE_NONE) {
            low = weights_of(scaling, low, s, 0, row);
            high = weights_of(scaling, high, s, second, row);
        }
        _mm512_store_si512(out + row * TILE_COLS, round_both(low, high));
    }
}

/* dtype is a constant, and not DT_BF16, whose packed blocks are A tiles. */
ALWAYS_INLINE void amx_unpack(esp_dtype dtype, const uint8_t *codes, const amx_scales *s,
                              uint16_t *out) {
    if (cpu_formats[dtype].low_bits == 4 && cpu_formats[dtype].high_bits == 0)
        unpack_nibbles(dtype, codes, s, out);
    else if (cpu_formats[dtype].low_bits == 4 && cpu_formats[dtype].high_bits == 1)
        unpack_fives(dtype, codes, s, out);
    else
        unpack_values(dtype, codes, s, out);
}

#endif
