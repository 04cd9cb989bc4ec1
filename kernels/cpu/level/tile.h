/* tile.h - a strip of weight tiles times some tokens: the arithmetic of linear.
 *
 * Both ways through a strip compute each output by the chain that cpu.h defines, so they give the
 * same bits; they differ in where the weights become floats.
 *   fused    up to FUSED_TOKENS tokens: in registers, used at once
 *   blocked  more: a block of the strip into L1, used by all tokens of the chunk
 * Sums are left in sums[token][tile * 16 + row]. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TILE_H
#define ESPALIER_TILE_H

#include "kernels/cpu/level/simd.h"

enum {
    FUSED_TOKENS = 4,
    BLOCKED_TOKENS = 6, /* with BLOCKED_TILES: as many accumulators as the registers hold */
    BLOCKED_TILES = VECTORS == 1 ? 4 : 1,
    GROUP_COLS = 8, /* columns of one line of nibbles */
    PREFETCH_BYTES = 1024,
    STRIP_ROWS = STRIP_TILES * TILE_ROWS,
};

#define UNROLL

/* Some tiles of one format; the tokens they meet. */
typedef struct tile_run {
    const uint8_t *codes[STRIP_TILES];
    const uint8_t *scales[STRIP_TILES];
    uint32_t blocks;
    const float *inputs;     /* [blocks][input_rows][32] */
    const float *input_sums; /* [blocks][input_rows] */
    uint32_t input_rows;
} tile_run;

/* Column j of a group of 8, rows of vector v, as floats (without the scale). */
ALWAYS_INLINE vf tile_codes(esp_dtype dtype, const uint8_t *group, uint32_t j, uint32_t v) {
    uint32_t at = j * TILE_ROWS + v * LANES;
    switch (dtype) {
    case DT_Q4_0:
        return v_load_nibbles(group + v * LANES * 4, j, -8.0f);
    case DT_Q4_1:
        return v_load_nibbles(group + v * LANES * 4, j, 0.0f);
    case DT_Q8_0:
        return v_load_i8((const int8_t *)group + at);
    case DT_F16:
        return v_load_f16((const uint16_t *)(const void *)group + at);
    case DT_BF16:
        return v_load_bf16((const uint16_t *)(const void *)group + at);
    case DT_F32:
    default:
        return v_load((const float *)(const void *)group + at);
    }
}

/* acc with one block's p added; scales are the tile's of this block. */
ALWAYS_INLINE vf tile_add_block(esp_dtype dtype, const uint8_t *scales, uint32_t v, vf p,
                                float input_sum, vf acc) {
    const uint16_t *d = (const uint16_t *)(const void *)scales + v * LANES;
    if (dtype != DT_Q4_0 && dtype != DT_Q4_1 && dtype != DT_Q8_0) return v_add(acc, p);
    acc = v_fma(v_load_f16(d), p, acc);
    if (dtype == DT_Q4_1) acc = v_fma(v_load_f16(d + TILE_ROWS), v_set1(input_sum), acc);
    return acc;
}

/* Tiles first .. first + tiles of the run, `tokens` tokens; dtype, tiles, tokens are constants. */
ALWAYS_INLINE void tile_fused(esp_dtype dtype, uint32_t tiles, uint32_t tokens, const tile_run *run,
                              uint32_t first, float (*sums)[STRIP_ROWS]) {
    const uint32_t code_bytes = cpu_formats[dtype].code_bytes;
    const uint32_t scale_bytes = cpu_formats[dtype].scale_bytes;
    vf acc[STRIP_TILES][VECTORS][FUSED_TOKENS];
    UNROLL for (uint32_t n = 0; n < tiles; n++) UNROLL for (uint32_t v = 0; v < VECTORS; v++)
        UNROLL for (uint32_t t = 0; t < tokens; t++) acc[n][v][t] = v_zero();
    const float *x = run->inputs, *x_sum = run->input_sums;
    for (uint32_t b = 0; b < run->blocks; b++) {
        vf p[STRIP_TILES][VECTORS][FUSED_TOKENS];
        UNROLL for (uint32_t n = 0; n < tiles; n++) UNROLL for (uint32_t v = 0; v < VECTORS; v++)
            UNROLL for (uint32_t t = 0; t < tokens; t++) p[n][v][t] = v_zero();
        for (uint32_t k = 0; k < TILE_COLS; k += GROUP_COLS) {
            const size_t at = (size_t)b * code_bytes + k * (code_bytes / TILE_COLS);
            UNROLL for (uint32_t n = 0; n < tiles; n++) for (uint32_t ahead = 0;
                                                             ahead < code_bytes / 4;
                                                             ahead += CACHE_LINE_BYTES)
                _mm_prefetch((const char *)run->codes[first + n] + at + ahead + PREFETCH_BYTES,
                             _MM_HINT_T0);
            UNROLL for (uint32_t j = 0; j < GROUP_COLS; j++)
                UNROLL for (uint32_t n = 0; n < tiles; n++)
                    UNROLL for (uint32_t v = 0; v < VECTORS; v++) {
                vf w = tile_codes(dtype, run->codes[first + n] + at, j, v);
                UNROLL for (uint32_t t = 0; t < tokens; t++) p[n][v][t] =
                    v_fma(w, v_set1(x[t * TILE_COLS + k + j]), p[n][v][t]);
            }
        }
        UNROLL for (uint32_t n = 0; n < tiles; n++) UNROLL for (uint32_t v = 0; v < VECTORS; v++)
            UNROLL for (uint32_t t = 0; t < tokens; t++) acc[n][v][t] =
                tile_add_block(dtype, run->scales[first + n] + (size_t)b * scale_bytes, v,
                               p[n][v][t], x_sum[t], acc[n][v][t]);
        x += (size_t)run->input_rows * TILE_COLS;
        x_sum += run->input_rows;
    }
    UNROLL for (uint32_t n = 0; n < tiles; n++) UNROLL for (uint32_t v = 0; v < VECTORS; v++)
        UNROLL for (uint32_t t = 0; t < tokens; t++)
            v_store(&sums[t][(first + n) * TILE_ROWS + v * LANES], acc[n][v][t]);
}

/* One block of a tile as floats, [32][16]. */
ALWAYS_INLINE void tile_expand(esp_dtype dtype, const uint8_t *codes, float (*weights)[TILE_ROWS]) {
    const uint32_t group_bytes = cpu_formats[dtype].code_bytes / TILE_COLS * GROUP_COLS;
    for (uint32_t k = 0; k < TILE_COLS; k += GROUP_COLS, codes += group_bytes)
        UNROLL for (uint32_t j = 0; j < GROUP_COLS; j++)
            UNROLL for (uint32_t v = 0; v < VECTORS; v++)
                v_store(&weights[k + j][v * LANES], tile_codes(dtype, codes, j, v));
}

/* Adds one block of tiles first .. first + tiles to the sums of tokens token .. token + tokens. */
ALWAYS_INLINE void tile_blocked(esp_dtype dtype, uint32_t tiles, uint32_t tokens,
                                const tile_run *run, uint32_t first, uint32_t b, uint32_t token,
                                cpu_scratch *scratch) {
    const float *x = run->inputs + ((size_t)b * run->input_rows + token) * TILE_COLS;
    const float *x_sum = run->input_sums + (size_t)b * run->input_rows + token;
    vf p[BLOCKED_TOKENS][BLOCKED_TILES][VECTORS];
    UNROLL for (uint32_t t = 0; t < tokens; t++) UNROLL for (uint32_t n = 0; n < tiles; n++)
        UNROLL for (uint32_t v = 0; v < VECTORS; v++) p[t][n][v] = v_zero();
    for (uint32_t k = 0; k < TILE_COLS; k++) {
        vf w[BLOCKED_TILES][VECTORS];
        UNROLL for (uint32_t n = 0; n < tiles; n++) UNROLL for (uint32_t v = 0; v < VECTORS; v++)
            w[n][v] = v_load(&scratch->weights[first + n][k][v * LANES]);
        UNROLL for (uint32_t t = 0; t < tokens; t++) {
            vf xt = v_set1(x[t * TILE_COLS + k]);
            UNROLL for (uint32_t n = 0; n < tiles; n++)
                UNROLL for (uint32_t v = 0; v < VECTORS; v++) p[t][n][v] =
                    v_fma(w[n][v], xt, p[t][n][v]);
        }
    }
    UNROLL for (uint32_t t = 0; t < tokens; t++) UNROLL for (uint32_t n = 0; n < tiles; n++)
        UNROLL for (uint32_t v = 0; v < VECTORS; v++) {
        const uint8_t *scales = run->scales[first + n] + (size_t)b * cpu_formats[dtype].scale_bytes;
        float *sum = &scratch->sums[token + t][(first + n) * TILE_ROWS + v * LANES];
        v_store(sum, tile_add_block(dtype, scales, v, p[t][n][v], x_sum[t], v_load(sum)));
    }
}

#endif
