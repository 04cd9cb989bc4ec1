/* query_tile.c - rows of q to B tiles; sums to rows of bf16. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/amx/query_tile.h"

#include <float.h>

#include "kernels/cpu/amx/transpose.h"
#include "kernels/cpu/level/simd.h"

/* Dims d .. d + 15 of a row, or as many as there are. */
static __mmask16 lanes_of(uint32_t dim, uint32_t d) {
    uint32_t left = d < dim ? dim - d : 0, mask = left < LANES ? (1u << left) - 1 : 0xffff;
    return (__mmask16)mask;
}

/* The upper halves of 32 floats that bf16 holds exactly. */
static __m512 widen_half(__m512i pairs, int half) {
    __m256i words = half ? _mm512_extracti64x4_epi64(pairs, 1) : _mm512_castsi512_si256(pairs);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16));
}

/* 32 dims of every query, as a sum high + low. */
static void split_step(const query_tile *tile, uint32_t dim, uint32_t d, float scale) {
    __m512i high[AMX_QUERIES], low[AMX_QUERIES];
    __mmask16 first = lanes_of(dim, d), second = lanes_of(dim, d + LANES);
    for (uint32_t i = 0; i < AMX_QUERIES; i++) {
        high[i] = low[i] = _mm512_setzero_si512();
        if (i >= tile->count) continue;
        vf a = v_mul(_mm512_maskz_loadu_ps(first, tile->in[i] + d), v_set1(scale));
        vf b = v_mul(_mm512_maskz_loadu_ps(second, tile->in[i] + d + LANES), v_set1(scale));
        high[i] = (__m512i)_mm512_cvtne2ps_pbh(b, a);
        a = v_sub(a, widen_half(high[i], 0));
        b = v_sub(b, widen_half(high[i], 1));
        low[i] = (__m512i)_mm512_cvtne2ps_pbh(b, a);
    }
    transpose_dwords(high);
    transpose_dwords(low);
    uint16_t *out = tile->queries + 2 * d * AMX_QUERIES;
    for (uint32_t i = 0; i < DWORD_ROWS; i++) {
        _mm512_store_si512(out + i * TILE_COLS, high[i]);
        _mm512_store_si512(out + (DWORD_ROWS + i) * TILE_COLS, low[i]);
    }
}

static void find_ranges(query_tile *tile) {
    tile->first_any = tile->first_all = tile->first[0];
    tile->last_any = tile->last_all = tile->last[0];
    for (uint32_t i = 1; i < tile->count; i++) {
        uint32_t first = tile->first[i], last = tile->last[i];
        if (first < tile->first_any) tile->first_any = first;
        if (first > tile->first_all) tile->first_all = first;
        if (last > tile->last_any) tile->last_any = last;
        if (last < tile->last_all) tile->last_all = last;
    }
    for (uint32_t i = tile->count; i < AMX_QUERIES; i++)
        tile->first[i] = 1, tile->last[i] = 0;
}

void query_tile_open(query_tile *tile, uint32_t dim, float scale) {
    for (uint32_t d = 0; d < dim; d += TILE_COLS)
        split_step(tile, dim, d, scale);
    v_store(tile->top, v_set1(-FLT_MAX));
    v_store(tile->sum, v_zero());
    memset(tile->outs, 0, (size_t)cpu_round_up(dim, TILE_ROWS) * AMX_QUERIES * sizeof(float));
    find_ranges(tile);
}

/* Dims d and d + 1 of each query's result, in one dword. */
static __m512i close_pair(const query_tile *tile, uint32_t d, vf share) {
    const __m512i interleave =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    vf even = v_mul(v_load(tile->outs + d * AMX_QUERIES), share);
    vf odd = v_mul(v_load(tile->outs + (d + 1) * AMX_QUERIES), share);
    return _mm512_permutexvar_epi16(interleave, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
}

void query_tile_close(const query_tile *tile, uint32_t dim) {
    vf share = v_div(v_set1(1.0f), v_load(tile->sum));
    for (uint32_t d = 0; d < dim; d += TILE_COLS) {
        uint32_t pairs = (dim - d < TILE_COLS ? dim - d : TILE_COLS) / 2;
        __m512i rows[DWORD_ROWS];
        for (uint32_t i = 0; i < DWORD_ROWS; i++)
            rows[i] = i < pairs ? close_pair(tile, d + 2 * i, share) : _mm512_setzero_si512();
        transpose_dwords(rows);
        for (uint32_t i = 0; i < tile->count; i++)
            _mm512_mask_storeu_epi32(tile->out[i] + d, (__mmask16)((1u << pairs) - 1), rows[i]);
    }
}
