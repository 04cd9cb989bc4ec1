/* bytes.h - packed codes (cpu.h, "for int8") to bytes, and bytes times bytes.
 *
 * A vector holds four columns of a register's rows: byte i of a dword is column 4*v + i of one row.
 * Without instructions for dot products of bytes, products are added up in 16 bits as long as they
 * fit: 15 * 127 eight times over, 31 * 127 four times, 63 * 127 twice; and codes of 8 bits once, as
 * signed ones, the sign moved to the other side, so that 128 * 127 * 2 is the most. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_BYTES_H
#define ESPALIER_BYTES_H

#include "kernels/cpu/level/tile.h"

enum {
    BYTE_VECTORS = TILE_COLS / 4, /* of a block */
    BYTE_RUN = 4,                 /* of half a block */
};

#ifdef CPU_LEVEL_avx512

ALWAYS_INLINE vi b_set1(int x) { return _mm512_set1_epi8((char)x); }
ALWAYS_INLINE vi b_and(vi a, int mask) { return _mm512_and_si512(a, b_set1(mask)); }
ALWAYS_INLINE vi b_or(vi a, vi b) { return _mm512_or_si512(a, b); }
ALWAYS_INLINE vi b_flip(vi a, int mask) { return _mm512_xor_si512(a, b_set1(mask)); }
ALWAYS_INLINE vi b_sub(vi a, int x) { return _mm512_sub_epi8(a, b_set1(x)); }
ALWAYS_INLINE vi b_iq4(vi nibbles) {
    __m128i table = _mm_loadu_si128((const __m128i *)(const void *)quant_iq4_values);
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), nibbles);
}
ALWAYS_INLINE vi i_set1(int x) { return _mm512_set1_epi32(x); }
ALWAYS_INLINE vf i_floats(vi a) { return _mm512_cvtepi32_ps(a); }

#ifdef CPU_VNNI
ALWAYS_INLINE vi i_dot(vi sum, vi w, vi x) { return _mm512_dpbusd_epi32(sum, w, x); }
#else
ALWAYS_INLINE vi i_pairs(vi w, vi x) { return _mm512_maddubs_epi16(w, x); }
ALWAYS_INLINE vi i_pairs_signed(vi w, vi x) {
    x = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), _mm512_setzero_si512(), x);
    return _mm512_maddubs_epi16(_mm512_abs_epi8(w), x);
}
ALWAYS_INLINE vi i_add_pairs(vi a, vi b) { return _mm512_add_epi16(a, b); }
ALWAYS_INLINE vi i_fold(vi sum, vi pairs) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
#endif

#else /* AVX2 */

ALWAYS_INLINE vi b_set1(int x) { return _mm256_set1_epi8((char)x); }
ALWAYS_INLINE vi b_and(vi a, int mask) { return _mm256_and_si256(a, b_set1(mask)); }
ALWAYS_INLINE vi b_or(vi a, vi b) { return _mm256_or_si256(a, b); }
ALWAYS_INLINE vi b_flip(vi a, int mask) { return _mm256_xor_si256(a, b_set1(mask)); }
ALWAYS_INLINE vi b_sub(vi a, int x) { return _mm256_sub_epi8(a, b_set1(x)); }
ALWAYS_INLINE vi b_iq4(vi nibbles) {
    __m128i table = _mm_loadu_si128((const __m128i *)(const void *)quant_iq4_values);
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), nibbles);
}
ALWAYS_INLINE vi i_set1(int x) { return _mm256_set1_epi32(x); }
ALWAYS_INLINE vf i_floats(vi a) { return _mm256_cvtepi32_ps(a); }

#ifdef CPU_VNNI
ALWAYS_INLINE vi i_dot(vi sum, vi w, vi x) { return _mm256_dpbusd_avx_epi32(sum, w, x); }
#else
ALWAYS_INLINE vi i_pairs(vi w, vi x) { return _mm256_maddubs_epi16(w, x); }
ALWAYS_INLINE vi i_pairs_signed(vi w, vi x) {
    return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
}
ALWAYS_INLINE vi i_add_pairs(vi a, vi b) { return _mm256_add_epi16(a, b); }
ALWAYS_INLINE vi i_fold(vi sum, vi pairs) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
#endif

#endif

/* A dword to all rows. */
ALWAYS_INLINE vi b_quad(const int8_t *codes) {
    int quad;
    memcpy(&quad, codes, sizeof quad);
    return i_set1(quad);
}

/* --- codes to bytes ----------------------------------------------------------------------- */

ALWAYS_INLINE bool byte_is_whole(esp_dtype dtype) {
    return dtype == DT_Q8_0 || dtype == DT_G8 || dtype == DT_IQ4_NL || dtype == DT_IQ4_XS;
}

/* Vector v of a block, rows of register part `y`: whole codes of 8 bits as signed bytes (G8's less
 * 128), others as they lie in the file; dtype, v, y are constants. */
ALWAYS_INLINE vi byte_codes(esp_dtype dtype, const uint8_t *block, uint32_t v, uint32_t y) {
    const uint8_t *rows = block + y * LANES * 4;
    const uint8_t *high = rows + cpu_formats[dtype].low_bits * LINE_BYTES;
    vi line;
    switch (dtype) {
    case DT_Q8_0:
        return vi_line(rows + v * LINE_BYTES);
    case DT_G8:
        return b_flip(vi_line(rows + v * LINE_BYTES), 128);
    case DT_Q2_K:
    case DT_G2:
        return b_and(vi_right(vi_line(rows + v / 4 * LINE_BYTES), v % 4 * 2), 3);
    case DT_Q3_K:
    case DT_G3:
        line = b_and(vi_right(vi_line(rows + v / 4 * LINE_BYTES), v % 4 * 2), 3);
        return b_or(line, b_and(vi_move(vi_line(high), v, 2), 4));
    default:
        line = b_and(vi_right(vi_line(rows + v / 2 * LINE_BYTES), v % 2 * 4), 15);
        break;
    }
    switch (dtype) {
    case DT_IQ4_NL:
    case DT_IQ4_XS:
        return b_iq4(line);
    case DT_Q5_0:
    case DT_Q5_1:
    case DT_Q5_K:
        return b_or(line, b_and(vi_move(vi_line(high), v, 4), 16));
    case DT_Q6_K:
        return b_or(line, b_and(vi_move(vi_line(high + v / 4 * LINE_BYTES), v % 4 * 2, 4), 48));
    default:
        return line;
    }
}

/* value(code) less what byte_codes gives. */
ALWAYS_INLINE int byte_first(esp_dtype dtype) { return dtype == DT_G8 ? 128 : code_first(dtype); }

/* --- bytes times bytes -------------------------------------------------------------------- */

#ifdef CPU_VNNI

/* The instruction wants the weight unsigned. */
ALWAYS_INLINE vi dot_codes(esp_dtype dtype, const uint8_t *block, uint32_t v, uint32_t y) {
    if (dtype == DT_G8) return vi_line(block + y * LANES * 4 + v * LINE_BYTES);
    vi codes = byte_codes(dtype, block, v, y);
    return byte_is_whole(dtype) ? b_flip(codes, 128) : codes;
}
ALWAYS_INLINE int dot_first(esp_dtype dtype) {
    if (dtype == DT_G8) return 0;
    return byte_is_whole(dtype) ? -128 : byte_first(dtype);
}
/* All formats are one kind. */
ALWAYS_INLINE uint32_t dot_kind(esp_dtype dtype) {
    (void)dtype;
    return 1;
}
/* Adds vector v: w the weights, x the codes of the inputs, spare unused. */
ALWAYS_INLINE void dot_add(uint32_t kind, uint32_t v, vi w, vi x, vi *sum, vi *spare) {
    (void)kind, (void)v, (void)spare;
    *sum = i_dot(*sum, w, x);
}

#else

ALWAYS_INLINE vi dot_codes(esp_dtype dtype, const uint8_t *block, uint32_t v, uint32_t y) {
    return byte_codes(dtype, block, v, y);
}
ALWAYS_INLINE int dot_first(esp_dtype dtype) { return byte_first(dtype); }
/* How many vectors' products 16 bits hold; 1: the weights are signed. */
ALWAYS_INLINE uint32_t dot_kind(esp_dtype dtype) {
    if (byte_is_whole(dtype)) return 1;
    const cpu_format *format = &cpu_formats[dtype];
    uint32_t bits = format->low_bits + format->high_bits;
    uint32_t fits = bits <= 4 ? 8 : bits == 5 ? 4 : 2;
    return scale_cols(format->scaling) < TILE_COLS && fits > BYTE_RUN ? BYTE_RUN : fits;
}
/* Adds vector v; spare gathers products between calls. */
ALWAYS_INLINE void dot_add(uint32_t kind, uint32_t v, vi w, vi x, vi *sum, vi *spare) {
    vi pairs = kind == 1 ? i_pairs_signed(w, x) : i_pairs(w, x);
    *spare = v % kind == 0 ? pairs : i_add_pairs(*spare, pairs);
    if (v % kind == kind - 1) *sum = i_fold(*sum, *spare);
}

#endif

#endif
