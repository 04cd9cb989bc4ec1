/* epilogue_amx.h - C tiles, 16 rows x 16 tokens of sums, to where an op wants them.
 *
 * A whole tile without bias or cap, which is nearly all of them, is finished in registers; the rest is turned
 * to rows and goes the way of linear_job.h. Both ways compute the same bits. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_EPILOGUE_AMX_H
#define ESPALIER_EPILOGUE_AMX_H

#include "kernels/cpu/amx/scratch_amx.h"
#include "kernels/cpu/level/linear_job.h"

/* 16 x 16 dwords. */
ALWAYS_INLINE void transpose_16x16(__m512i r[16]) {
    __m512i a[16];
    UNROLL_16 for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    UNROLL_16 for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    /* r[4g + c], lane l: column 4l + c of rows 4g .. 4g + 3 */
    UNROLL_16 for (int c = 0; c < 4; c++) {
        a[c] = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x88);          /* lanes 0, 2 of g 0, 1 */
        a[4 + c] = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xdd);      /* lanes 1, 3 */
        a[8 + c] = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x88); /* of g 2, 3 */
        a[12 + c] = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xdd);
    }
    UNROLL_16 for (int c = 0; c < 4; c++) {
        r[c] = _mm512_shuffle_i32x4(a[c], a[8 + c], 0x88);
        r[4 + c] = _mm512_shuffle_i32x4(a[4 + c], a[12 + c], 0x88);
        r[8 + c] = _mm512_shuffle_i32x4(a[c], a[8 + c], 0xdd);
        r[12 + c] = _mm512_shuffle_i32x4(a[4 + c], a[12 + c], 0xdd);
    }
}

/* A C tile to out[token * stride + row]. */
ALWAYS_INLINE void amx_turn(const float *c, float *out, size_t stride) {
    __m512i r[TILE_ROWS];
    UNROLL_16 for (uint32_t i = 0; i < TILE_ROWS; i++) r[i] =
        _mm512_loadu_si512(c + i * TILE_TOKENS);
    transpose_16x16(r);
    UNROLL_16 for (uint32_t t = 0; t < TILE_TOKENS; t++)
        _mm512_storeu_si512(out + t * stride, r[t]);
}

/* Whether the caller of amx_finish combines gate and up itself, and leaves that in gate's place. */
bool amx_gates_early(const linear_job *job, const strip *s);

/* Tokens first .. first + tokens of the op, of the tiles of a strip: c[tile of the strip]. rows: room for
 * 16 tokens of a strip. */
void amx_finish(const linear_job *job, const strip *s, uint32_t first, uint32_t tokens,
                float (*c)[C_TILE], float *rows);

#endif
