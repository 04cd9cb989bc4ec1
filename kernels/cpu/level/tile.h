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

/* clang-format off: it does not know that EACH is a loop.
 * In what follows vector c is vector c % VECTORS of tile first + c / VECTORS. */

/* Tiles first .. first + tiles of the run, `tokens` tokens; dtype, tiles, tokens are constants. */
ALWAYS_INLINE void tile_fused(esp_dtype dtype, uint32_t tiles, uint32_t tokens, const tile_run *run,
                              uint32_t first, float (*sums)[STRIP_ROWS]) {
    const uint32_t vectors = tiles * VECTORS;
    const uint32_t code_bytes = cpu_formats[dtype].code_bytes;
    const uint32_t scale_bytes = cpu_formats[dtype].scale_bytes;
    const uint8_t *const *codes = run->codes + first, *const *scales = run->scales + first;
    const float *x = run->inputs, *x_sum = run->input_sums;
    vf acc[STRIP_TILES * VECTORS][FUSED_TOKENS];
    EACH(c, vectors)
    EACH(t, tokens)
    acc[c][t] = v_zero();
    for (uint32_t b = 0; b < run->blocks; b++) {
        vf p[STRIP_TILES * VECTORS][FUSED_TOKENS];
        EACH(c, vectors)
        EACH(t, tokens)
        p[c][t] = v_zero();
        for (uint32_t k = 0; k < TILE_COLS; k += GROUP_COLS) {
            const size_t at = (size_t)b * code_bytes + k * (code_bytes / TILE_COLS);
            EACH(n, tiles)
            for (uint32_t line = 0; line < code_bytes / 4; line += CACHE_LINE_BYTES)
                _mm_prefetch((const char *)codes[n] + at + line + PREFETCH_BYTES, _MM_HINT_T0);
            EACH(j, GROUP_COLS)
            EACH(c, vectors) {
                vf w = tile_codes(dtype, codes[c / VECTORS] + at, j, c % VECTORS);
                EACH(t, tokens)
                p[c][t] = v_fma(w, v_set1(x[t * TILE_COLS + k + j]), p[c][t]);
            }
        }
        EACH(c, vectors)
        EACH(t, tokens)
        acc[c][t] = tile_add_block(dtype, scales[c / VECTORS] + (size_t)b * scale_bytes,
                                   c % VECTORS, p[c][t], x_sum[t], acc[c][t]);
        x += (size_t)run->input_rows * TILE_COLS;
        x_sum += run->input_rows;
    }
    EACH(c, vectors)
    EACH(t, tokens)
    v_store(&sums[t][first * TILE_ROWS + c * LANES], acc[c][t]);
}

/* One block of a tile as floats, [32][16]. */
ALWAYS_INLINE void tile_expand(esp_dtype dtype, const uint8_t *codes, float (*weights)[TILE_ROWS]) {
    const uint32_t group_bytes = cpu_formats[dtype].code_bytes / TILE_COLS * GROUP_COLS;
    for (uint32_t k = 0; k < TILE_COLS; k += GROUP_COLS, codes += group_bytes)
        EACH(j, GROUP_COLS)
    EACH(v, VECTORS)
    v_store(&weights[k + j][v * LANES], tile_codes(dtype, codes, j, v));
}

/* Adds one block of tiles first .. first + tiles to the sums of tokens token .. token + tokens. */
ALWAYS_INLINE void tile_blocked(esp_dtype dtype, uint32_t tiles, uint32_t tokens,
                                const tile_run *run, uint32_t first, uint32_t b, uint32_t token,
                                cpu_scratch *scratch) {
    const uint32_t vectors = tiles * VECTORS, scale_bytes = cpu_formats[dtype].scale_bytes;
    const float *x = run->inputs + ((size_t)b * run->input_rows + token) * TILE_COLS;
    const float *x_sum = run->input_sums + (size_t)b * run->input_rows + token;
    vf p[BLOCKED_TOKENS][BLOCKED_TILES * VECTORS];
    EACH(t, tokens)
    EACH(c, vectors)
    p[t][c] = v_zero();
    for (uint32_t k = 0; k < TILE_COLS; k++) {
        vf w[BLOCKED_TILES * VECTORS];
        EACH(c, vectors)
        w[c] = v_load(&scratch->weights[first + c / VECTORS][k][c % VECTORS * LANES]);
        EACH(t, tokens) {
            vf xt = v_set1(x[t * TILE_COLS + k]);
            EACH(c, vectors)
            p[t][c] = v_fma(w[c], xt, p[t][c]);
        }
    }
    EACH(t, tokens)
    EACH(c, vectors) {
        const uint8_t *scales = run->scales[first + c / VECTORS] + (size_t)b * scale_bytes;
        float *sum = &scratch->sums[token + t][first * TILE_ROWS + c * LANES];
        v_store(sum, tile_add_block(dtype, scales, c % VECTORS, p[t][c], x_sum[t], v_load(sum)));
    }
}

/* clang-format on */

#endif
