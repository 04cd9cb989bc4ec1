/* unpack_amx.h - a block of a packed tile (cpu.h, by rows) to 16 rows of 32 bf16: an A tile.
 *
 * A weight is computed in float32 as cpu.h says, then made bf16. Codes of 4 or 5 bits pick it out of a
 * table of the row's 16 or 32 possible weights: 32 weights cost the making of the table, a move of bits
 * and a permutation. Codes of 6 bits and whole bytes become weights in one multiplication each. The others are
 * computed step by step.
 *
 * Cost      what bounds it are two of the processor's ports, of which tile multiplications take a quarter. Beside them
 *           only one port multiplies, and conversion to bf16 takes both for two cycles: a float's upper word is
 *           there for nothing. A permutation of bytes is cheaper beside tiles than one of words.
 * Numerics  formats with codes of 4, 5, 6 or 8 bits (but DT_G8) are cut: the upper 16 bits of CUT_GAIN times the
 *           weight. That is within 2/3 of a unit of bf16 of it (of bytes, and 2^-9 of a scale), and on average nearly
 *           as near as rounding: 0.61 of half a unit where rounding has 0.58. Everything else is rounded to nearest
 *           even. */
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

/* Even and odd columns, below. */
enum {
    BYTES_FROM = 0x47000000, /* 2^15, and 2^15 + byte with the byte at bits 8 to 15 */
    BYTES_OFFSET = 0x8080,   /* 2^15, and 2^7: the sign bit is turned around */
    SIXES_FROM = 0x43000000, /* 2^7, and 2^7 + code with the code at bits 16 to 21 */
    SIXES_OFFSET = 128 + 32,
};

/* Cutting takes half a unit off a weight on average, which is 2^-8 of the power of two below it. That much for weights
 * of all sizes between two powers, by least squares: E[m] / E[m^2] of m in [1, 2), as often small as large, is 2/3. */
static const float CUT_GAIN = 1 + 2.0f / 3 / 256;

static inline bool amx_cuts(esp_dtype dtype) {
    return cpu_formats[dtype].low_bits == 4 || dtype == DT_Q8_0;
}

/* --- scales ------------------------------------------------------------------------------ */

/* Of block b; dtype is a constant. Bytes have an offset of unpack_bytes. */
ALWAYS_INLINE void amx_scales_of(esp_dtype dtype, const uint8_t *scales, uint32_t b,
                                 amx_scales *out) {
    const cpu_scaling scaling = cpu_formats[dtype].scaling;
    const vf gain = v_set1(amx_cuts(dtype) ? CUT_GAIN : 1);
    if (scaling == SCALE_NONE) return;
    for (uint32_t half = 0; half < TILE_COLS / scale_cols(scaling); half++) {
        vf scale = v_mul(tile_scale(dtype, scales, b, half, 0), gain);
        v_store(out[half * SECOND_HALF].scale, scale);
        if (dtype == DT_Q8_0) v_store(out->offset, v_mul(scale, v_set1(-BYTES_OFFSET)));
        if (!has_offset(scaling)) continue;
        vf offset = tile_offset(dtype, scales, b, half, 0);
        v_store(out[half * SECOND_HALF].offset,
                scaling == SCALE_32_ZERO ? offset : v_mul(offset, gain));
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

ALWAYS_INLINE vf v_load_u8(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
ALWAYS_INLINE vf v_ramp(float first) {
    const vf ramp = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_add_ps(ramp, _mm512_set1_ps(first));
}

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

/* For multishift: both bytes of each word are filled from two bits before its nibble j on. */
ALWAYS_INLINE __m512i nibble_bits(uint32_t j) {
    int64_t at = 0;
    for (uint32_t byte = 0; byte < 8; byte++)
        at |= (int64_t)((16 * (byte / 2) + 4 * j - 2) & 63) << (8 * byte);
    return _mm512_set1_epi64(at);
}

/* Sixteen possible weights: codes of 4 bits. Both bytes of a column's word become where the bytes of
 * the float32's upper word lie in the table: 4 * code + 2 and + 3. */
ALWAYS_INLINE void unpack_nibbles(esp_dtype dtype, const uint8_t *codes, const amx_scales *s,
                                  uint16_t *out) {
    const vf values = code_values(dtype, (float)code_first(dtype));
    const __m512i fixed = _mm512_set1_epi16(0x0303), which = _mm512_set1_epi16(0x0302);
    UNROLL for (uint32_t line = 0; line < 4; line++) {
        __m512i bits = _mm512_loadu_si512(codes + line * LINE_BYTES);
        UNROLL for (uint32_t j = 0; j < 4; j++) {
            uint32_t row = 4 * line + j;
            vf weights = weights_of(cpu_formats[dtype].scaling, values, s, 0, row);
            __m512i index = _mm512_multishift_epi64_epi8(nibble_bits(j), bits);
            index = _mm512_ternarylogic_epi32(index, fixed, which, 0xb8);
            _mm512_store_si512(out + row * TILE_COLS,
                               _mm512_permutexvar_epi8(index, _mm512_castps_si512(weights)));
        }
    }
}

/* The operand of gf2p8affine is a matrix of bits: byte 7 - i says of which bits bit i is the sum. Here: of `from`. */
ALWAYS_INLINE uint64_t byte_bit(uint32_t i, uint32_t from) {
    return (uint64_t)1 << (8 * (7 - i) + from);
}

/* A byte holds a nibble and, at bit `top` of its other one, a fifth bit: they become 2 * code + 1. */
ALWAYS_INLINE __m512i upper_words_of_fives(__m512i bytes, bool high, uint32_t top) {
    const uint64_t nibble = high ? 0x0010204080000000 : 0x0001020408000000;
    const int64_t pick = (int64_t)(nibble | byte_bit(5, top));
    return _mm512_gf2p8affine_epi64_epi8(bytes, _mm512_set1_epi64(pick), 1);
}

/* The nibbles of each byte change places. */
ALWAYS_INLINE __m512i swap_nibbles(__m512i bytes) {
    return _mm512_gf2p8affine_epi64_epi8(bytes, _mm512_set1_epi64(0x1020408001020408), 0);
}

/* Thirty-two: codes of 5 bits. A row's fifth bit is brought beside its nibble in one byte. */
ALWAYS_INLINE void unpack_fives(esp_dtype dtype, const uint8_t *codes, const amx_scales *s,
                                uint16_t *out) {
    const cpu_scaling scaling = cpu_formats[dtype].scaling;
    const vf low = code_values(dtype, (float)code_first(dtype));
    const vf high = code_values(dtype, (float)(code_first(dtype) + 16));
    __m512i bits = _mm512_loadu_si512(codes + 4 * LINE_BYTES), swapped = swap_nibbles(bits);
    UNROLL for (uint32_t line = 0; line < 4; line++) {
        if (line == 2) {
            bits = _mm512_srli_epi16(bits, 8);
            swapped = _mm512_srli_epi16(swapped, 8);
        }
        const __m512i bytes = _mm512_loadu_si512(codes + line * LINE_BYTES);
        const __m512i above = _mm512_srli_epi16(bytes, 8);
        UNROLL for (uint32_t j = 0; j < 4; j++) {
            const uint32_t row = 4 * line + j, at = row % 8;
            const bool odd = j % 2, beside = odd ? at < 4 : at >= 4;
            __m512i mixed =
                words_mix(j < 2 ? bytes : above, beside ? bits : swapped, odd ? 0x0f : 0xf0);
            __m512i index = upper_words_of_fives(mixed, odd, beside ? at : (at + 4) % 8);
            __m512i lower = _mm512_castps_si512(weights_of(scaling, low, s, 0, row));
            __m512i upper = _mm512_castps_si512(weights_of(scaling, high, s, 0, row));
            _mm512_store_si512(out + row * TILE_COLS,
                               _mm512_permutex2var_epi16(lower, index, upper));
        }
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

/* --- even and odd columns ---------------------------------------------------------------- */

/* A byte put into the middle of a certain float32 adds to it the byte times some unit: no code is
 * converted. What it was before, times the scale, is taken off in the multiplication.
 * Sixteen even columns and sixteen odd ones become pairs of bf16. */
/* The upper words of the even columns below those of the odd. */
ALWAYS_INLINE __m512i cut_columns(vf even, vf odd) {
    const __m512i upper = _mm512_set4_epi32(0x0f0e, 0x0b0a, 0x0706, 0x0302);
    return _mm512_mask_shuffle_epi8(_mm512_castps_si512(odd), 0x3333333333333333,
                                    _mm512_castps_si512(even), upper);
}

/* Where in 64 bytes the 16 even or odd bytes of 32 lie, for byte 1 of each dword. */
ALWAYS_INLINE __m512i column_bytes(uint32_t first) {
    const __m512i ramp =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_slli_epi32(_mm512_add_epi32(ramp, _mm512_set1_epi32((int)first)), 8);
}

/* Signed bytes. The offset is the scale times what bytes are too large by. */
ALWAYS_INLINE void unpack_bytes(const uint8_t *codes, const amx_scales *s, uint16_t *out) {
    const __m512i from = _mm512_set1_epi32(BYTES_FROM), sign = _mm512_set1_epi8(-128);
    UNROLL for (uint32_t pair = 0; pair < TILE_ROWS / 2; pair++) {
        __m512i bytes = _mm512_xor_si512(_mm512_loadu_si512(codes + pair * 2 * TILE_COLS), sign);
        UNROLL for (uint32_t i = 0; i < 2; i++) {
            const uint32_t row = 2 * pair + i;
            const __mmask64 second = 0x2222222222222222;
            const vf scale = v_set1(s->scale[row]), offset = v_set1(s->offset[row]);
            __m512i even =
                _mm512_mask_permutexvar_epi8(from, second, column_bytes(i * TILE_COLS), bytes);
            __m512i odd =
                _mm512_mask_permutexvar_epi8(from, second, column_bytes(i * TILE_COLS + 1), bytes);
            _mm512_store_si512(out + row * TILE_COLS,
                               cut_columns(v_fma(_mm512_castsi512_ps(even), scale, offset),
                                           v_fma(_mm512_castsi512_ps(odd), scale, offset)));
        }
    }
}

/* A row's scales: of its first 16 columns, and of the others. */
ALWAYS_INLINE vf both_halves(const amx_scales *s, uint32_t row) {
    return _mm512_mask_blend_ps(0xff00, v_set1(s->scale[row]), v_set1(s[SECOND_HALF].scale[row]));
}

/* A byte holds a nibble and, at bits `top` of its other one, two more: they become a code. */
ALWAYS_INLINE __m512i upper_two(__m512i bytes, bool high, uint32_t top) {
    const uint64_t nibble = high ? 0x1020408000000000 : 0x0102040800000000;
    const int64_t pick = (int64_t)(nibble | byte_bit(4, top) | byte_bit(5, top + 1));
    return _mm512_gf2p8affine_epi64_epi8(bytes, _mm512_set1_epi64(pick), 0);
}

/* Codes of 6 bits: the upper two are brought beside the nibble in one byte. */
ALWAYS_INLINE void unpack_sixes(const uint8_t *codes, const amx_scales *s, uint16_t *out) {
    const __m512i from = _mm512_set1_epi32(SIXES_FROM);
    const __m512i bytes_0 = _mm512_set4_epi32(0x000c0000, 0x00080000, 0x00040000, 0);
    const __mmask64 third = 0x4444444444444444; /* bytes 2 */
    __m512i twos = _mm512_setzero_si512(), swapped = twos;
    UNROLL for (uint32_t line = 0; line < 4; line++) {
        twos = line % 2 ? _mm512_srli_epi16(twos, 8)
                        : _mm512_loadu_si512(codes + (4 + line / 2) * LINE_BYTES);
        swapped = swap_nibbles(twos);
        const __m512i bytes = _mm512_loadu_si512(codes + line * LINE_BYTES);
        const __m512i above = _mm512_srli_epi16(bytes, 8);
        UNROLL for (uint32_t j = 0; j < 4; j++) {
            const uint32_t row = 4 * line + j;
            const bool odd = j % 2, beside = odd ? j < 2 : j >= 2;
            __m512i mixed =
                words_mix(j < 2 ? bytes : above, beside ? twos : swapped, odd ? 0x0f : 0xf0);
            __m512i code = upper_two(mixed, odd, odd ? 2 : 4);
            __m512i first = _mm512_mask_shuffle_epi8(from, third, code, bytes_0);
            __m512i second = _mm512_mask_blend_epi8(third, from, code);
            vf scale = both_halves(s, row), offset = v_mul(scale, v_set1(-SIXES_OFFSET));
            _mm512_store_si512(out + row * TILE_COLS,
                               cut_columns(v_fma(_mm512_castsi512_ps(first), scale, offset),
                                           v_fma(_mm512_castsi512_ps(second), scale, offset)));
        }
    }
}

/* dtype is a constant, and not DT_BF16, whose packed blocks are A tiles. */
ALWAYS_INLINE void amx_unpack(esp_dtype dtype, const uint8_t *codes, const amx_scales *s,
                              uint16_t *out) {
    if (cpu_formats[dtype].low_bits == 4 && cpu_formats[dtype].high_bits == 0)
        unpack_nibbles(dtype, codes, s, out);
    else if (cpu_formats[dtype].low_bits == 4 && cpu_formats[dtype].high_bits == 1)
        unpack_fives(dtype, codes, s, out);
    else if (dtype == DT_Q6_K)
        unpack_sixes(codes, s, out);
    else if (dtype == DT_Q8_0)
        unpack_bytes(codes, s, out);
    else
        unpack_values(dtype, codes, s, out);
}

#endif
