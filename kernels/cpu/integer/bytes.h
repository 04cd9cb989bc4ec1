/* bytes.h - packed codes (cpu.h, "bytes") to bytes, and bytes times bytes.
 *
 * A vector holds four columns of a register's rows: byte i of a dword is column 4*v + i of one row.
 * Without instructions for dot products of bytes, products are added up in 16 bits as long as they
 * fit: 15 * 127 eight times over, 31 * 127 four times, 63 * 127 twice; and codes of 8 bits once, as
 * signed ones, the sign moved to the other side, so that 128 * 127 * 2 is the most. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_BYTES_H
#define ESPALIER_BYTES_H

#include "kernels/cpu/integer/lines.h"

enum {
    DOT_COLS = 4,                       /* of a dword */
    DOT_VECTORS = TILE_COLS / DOT_COLS, /* of a block */
    DOT_RUN = DOT_VECTORS / 2,          /* of half a block */
};

#ifdef CPU_LEVEL_avx512

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

/* A dword of codes of an int8_block to all rows. */
ALWAYS_INLINE vi dot_inputs(const int8_t *codes, uint32_t v) {
    int quad;
    memcpy(&quad, codes + v * DOT_COLS, sizeof quad);
    return vi_set1(quad);
}

/* --- codes to bytes ----------------------------------------------------------------------- */

enum { UPPER_BITS = (int)0x80808080 };

ALWAYS_INLINE bool byte_is_whole(esp_dtype dtype) {
    return dtype == DT_Q8_0 || dtype == DT_G8 || dtype == DT_IQ4_NL || dtype == DT_IQ4_XS;
}

/* Vector v of a block, rows of register part `y`: whole codes of 8 bits as signed bytes (G8's less
 * 128), others as they lie in the file; dtype, v, y are constants. */
ALWAYS_INLINE vi byte_codes(esp_dtype dtype, const uint8_t *block, uint32_t v, uint32_t y) {
    switch (dtype) {
    case DT_Q8_0:
        return vi_line(block + y * LANES * 4 + v * LINE_BYTES);
    case DT_G8:
        return vi_flip(vi_line(block + y * LANES * 4 + v * LINE_BYTES), UPPER_BITS);
    case DT_IQ4_NL:
    case DT_IQ4_XS:
        return vi_look_up(_mm_loadu_si128((const __m128i *)(const void *)quant_iq4_values),
                          vi_fields(dtype, block, DOT_COLS, v, y));
    default:
        return vi_fields(dtype, block, DOT_COLS, v, y);
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
    return byte_is_whole(dtype) ? vi_flip(codes, UPPER_BITS) : codes;
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
typedef struct dot_sum {
    vi sum;
} dot_sum;
/* Adds vector v: w the weights, x the codes of the inputs. */
ALWAYS_INLINE void dot_add(uint32_t kind, uint32_t v, vi w, vi x, dot_sum *p) {
    (void)kind, (void)v;
    p->sum = i_dot(p->sum, w, x);
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
    return scale_cols(format->scaling) < TILE_COLS && fits > DOT_RUN ? DOT_RUN : fits;
}
typedef struct dot_sum {
    vi sum, pairs; /* pairs: products between calls */
} dot_sum;
/* Adds vector v. */
ALWAYS_INLINE void dot_add(uint32_t kind, uint32_t v, vi w, vi x, dot_sum *p) {
    vi pairs = kind == 1 ? i_pairs_signed(w, x) : i_pairs(w, x);
    p->pairs = v % kind == 0 ? pairs : i_add_pairs(p->pairs, pairs);
    if (v % kind == kind - 1) p->sum = i_fold(p->sum, p->pairs);
}

#endif

#endif
