/* turn_amx.h - a block of a packed tile (cpu.h, by rows) to 16 pairs of columns x 16 rows of bf16: a B tile.
 *
 * The weights are those of unpack_amx.h to the last bit, which makes A tiles of them. Codes of 4 bits never
 * are one: they change places while they are codes, 16 rows to a vector, as their scales lie. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TURN_AMX_H
#define ESPALIER_TURN_AMX_H

#include "kernels/cpu/amx/scratch_amx.h"
#include "kernels/cpu/amx/transpose.h"

/* An A tile, whose rows lie so many bytes apart, to a B tile; or the other way round. */
ALWAYS_INLINE void turn_rows(const uint16_t *in, size_t stride, uint16_t *out) {
    __m512i rows[TILE_ROWS];
    UNROLL_16 for (uint32_t i = 0; i < TILE_ROWS; i++) rows[i] =
        _mm512_loadu_si512((const char *)in + i * stride);
    transpose_dwords(rows);
    UNROLL_16 for (uint32_t i = 0; i < TILE_ROWS; i++)
        _mm512_store_si512(out + i * TILE_COLS, rows[i]);
}

/* Sixteen rows of a column, as weights_of has them. */
ALWAYS_INLINE vf scaled_rows(cpu_scaling scaling, vf values, vf scale, vf offset) {
    if (scaling == SCALE_32_ZERO) return v_mul(v_add(values, offset), scale);
    return has_offset(scaling) ? v_fma(values, scale, offset) : v_mul(values, scale);
}

/* Dword p of line l holds the columns 2p and 2p + 1 of rows 4l .. 4l + 3. */
ALWAYS_INLINE void turn_nibbles(esp_dtype dtype, const uint8_t *codes, const uint8_t *scales,
                                uint32_t b, uint16_t *out) {
    const cpu_scaling scaling = cpu_formats[dtype].scaling;
    const vf values = code_values(dtype, (float)code_first(dtype));
    const __m512i line = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    const __m512i shift = _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
    vf scale = tile_scale(dtype, scales, b, 0, 0);
    vf offset = has_offset(scaling) ? tile_offset(dtype, scales, b, 0, 0) : v_zero();
    __m512i in[16], quads[16]; /* quads[i], 128 bits j: dword 4j + i of each line */
    UNROLL_16 for (uint32_t i = 0; i < 16; i++) in[i] =
        i < 4 ? _mm512_loadu_si512(codes + i * LINE_BYTES) : _mm512_setzero_si512();
    transpose_quads(in, quads);
    UNROLL_16 for (uint32_t p = 0; p < TILE_COLS / 2; p++) {
        __m512i where = _mm512_add_epi32(line, _mm512_set1_epi32((int)(p / 4 * 4)));
        __m512i rows = _mm512_srlv_epi32(_mm512_permutexvar_epi32(where, quads[p % 4]), shift);
        vf first = _mm512_permutexvar_ps(rows, values);
        vf second = _mm512_permutexvar_ps(_mm512_srli_epi32(rows, 16), values);
        _mm512_store_si512(out + p * TILE_COLS,
                           round_columns(scaled_rows(scaling, first, scale, offset),
                                         scaled_rows(scaling, second, scale, offset)));
    }
}

/* Block b of a tile, whose codes these are; dtype is a constant. room: for scales that lie together. */
ALWAYS_INLINE void amx_turn_block(esp_dtype dtype, const uint8_t *codes, const uint8_t *scales,
                                  uint32_t b, amx_scales *room, uint16_t *out) {
    _Alignas(CACHE_LINE_BYTES) uint16_t rows[TILE];
    if (dtype == DT_BF16) {
        turn_rows((const uint16_t *)(const void *)codes, ROW_BYTES, out);
    } else if (cpu_formats[dtype].low_bits == 4 && cpu_formats[dtype].high_bits == 0) {
        turn_nibbles(dtype, codes, scales, b, out);
    } else {
        amx_scales_of(dtype, scales, b, room);
        amx_unpack(dtype, codes, room, rows);
        turn_rows(rows, ROW_BYTES, out);
    }
}

#endif
