/* transpose.h - sixteen by sixteen dwords: attention has its queries side by side in a vector, memory
 * one after another. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TRANSPOSE_H
#define ESPALIER_TRANSPOSE_H

#include <immintrin.h>

/* Every fourth of 16 rows, within each 128 bits: four dwords of a row become one of each of four rows. */
static inline void transpose_quads(const __m512i *in, __m512i *out) {
    for (int i = 0; i < 16; i += 4) {
        __m512i a = _mm512_unpacklo_epi32(in[i], in[i + 1]);
        __m512i b = _mm512_unpackhi_epi32(in[i], in[i + 1]);
        __m512i c = _mm512_unpacklo_epi32(in[i + 2], in[i + 3]);
        __m512i d = _mm512_unpackhi_epi32(in[i + 2], in[i + 3]);
        out[i] = _mm512_unpacklo_epi64(a, c);
        out[i + 1] = _mm512_unpackhi_epi64(a, c);
        out[i + 2] = _mm512_unpacklo_epi64(b, d);
        out[i + 3] = _mm512_unpackhi_epi64(b, d);
    }
}

/* rows[i] dword j becomes rows[j] dword i. */
static inline void transpose_dwords(__m512i rows[16]) {
    __m512i quads[16];
    transpose_quads(rows, quads);
    for (int i = 0; i < 4; i++) { /* quads[i + 4g]: dwords i, i + 4, ... of rows 4g .. 4g + 3 */
        __m512i a = _mm512_shuffle_i32x4(quads[i], quads[i + 4], 0x88);
        __m512i b = _mm512_shuffle_i32x4(quads[i], quads[i + 4], 0xdd);
        __m512i c = _mm512_shuffle_i32x4(quads[i + 8], quads[i + 12], 0x88);
        __m512i d = _mm512_shuffle_i32x4(quads[i + 8], quads[i + 12], 0xdd);
        rows[i] = _mm512_shuffle_i32x4(a, c, 0x88);
        rows[i + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
        rows[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88);
        rows[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
}

#endif
