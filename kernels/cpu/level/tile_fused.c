/* tile_fused.c - few tokens: weights become floats in registers and are used at once.
 *
 * Cost  each weight is read once from memory: bound by it at one token. Bar: bench/bench_linear.c */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/level/tile.h"

/* Tiles first .. first + tiles of the run; dtype, tiles, tokens are constants. */
ALWAYS_INLINE void fused_tiles(esp_dtype dtype, uint32_t tiles, uint32_t tokens,
                               const tile_run *run, uint32_t first, float (*sums)[STRIP_ROWS]) {
    const uint32_t code_bytes = cpu_formats[dtype].code_bytes;
    const cpu_scaling scaling = cpu_formats[dtype].scaling;
    vf acc[STRIP_TILES][VECTORS][FUSED_TOKENS];
    UNROLL for (uint32_t n = 0; n < tiles; n++) UNROLL for (uint32_t v = 0; v < VECTORS; v++)
        UNROLL for (uint32_t t = 0; t < tokens; t++) acc[n][v][t] = v_zero();
    const float *x = run->inputs;
    for (uint32_t b = 0; b < run->blocks; b++, x += (size_t)run->input_rows * TILE_COLS) {
        vf p[STRIP_TILES][VECTORS][FUSED_TOKENS];
        UNROLL for (uint32_t n = 0; n < tiles; n++) UNROLL for (uint32_t v = 0; v < VECTORS; v++)
            UNROLL for (uint32_t t = 0; t < tokens; t++) p[n][v][t] = v_zero();
        for (uint32_t k = 0; k < TILE_COLS; k += GROUP_COLS) {
            UNROLL for (uint32_t n = 0; n < tiles; n++)
                tile_prefetch(dtype, run->codes[first + n], b, k);
            UNROLL for (uint32_t j = 0; j < GROUP_COLS; j++)
                UNROLL for (uint32_t n = 0; n < tiles; n++)
                    UNROLL for (uint32_t v = 0; v < VECTORS; v++) {
                const uint8_t *block = run->codes[first + n] + (size_t)b * code_bytes;
                vf w = tile_values(dtype, block, k + j, v);
                UNROLL for (uint32_t t = 0; t < tokens; t++) p[n][v][t] =
                    v_fma(w, v_set1(x[t * TILE_COLS + k + j]), p[n][v][t]);
            }
        }
        UNROLL for (uint32_t n = 0; n < tiles; n++) UNROLL for (uint32_t v = 0; v < VECTORS; v++) {
            vf scale = v_zero();
            if (scaling != SCALE_NONE) scale = tile_scale(dtype, run->scales[first + n], b, 0, v);
            UNROLL for (uint32_t t = 0; t < tokens; t++) acc[n][v][t] =
                tile_add(scaling, scale, p[n][v][t], acc[n][v][t]);
        }
    }
    UNROLL for (uint32_t n = 0; n < tiles; n++) UNROLL for (uint32_t v = 0; v < VECTORS; v++)
        UNROLL for (uint32_t t = 0; t < tokens; t++)
            v_store(&sums[t][(first + n) * TILE_ROWS + v * LANES], acc[n][v][t]);
}

/* As many tiles at a time as the registers hold accumulators for. */
ALWAYS_INLINE void fused_tokens(esp_dtype dtype, uint32_t tokens, const tile_run *run,
                                uint32_t first, uint32_t count, float (*sums)[STRIP_ROWS]) {
    const uint32_t together = (tokens <= 2 ? STRIP_TILES : STRIP_TILES / 2) / VECTORS;
    uint32_t end = first + count;
    for (; first + together <= end; first += together)
        fused_tiles(dtype, together, tokens, run, first, sums);
    for (; together > 2 && first + 2 <= end; first += 2)
        fused_tiles(dtype, 2, tokens, run, first, sums);
    for (; together > 1 && first < end; first++)
        fused_tiles(dtype, 1, tokens, run, first, sums);
}

#define FUSED_ARGS                                                                                 \
    const tile_run *run, uint32_t first, uint32_t count, uint32_t tokens, float(*sums)[STRIP_ROWS]
typedef void fused_fn(FUSED_ARGS);

ALWAYS_INLINE void fused_format(esp_dtype dtype, FUSED_ARGS) {
    if (tokens == 1)
        fused_tokens(dtype, 1, run, first, count, sums);
    else if (tokens == 2)
        fused_tokens(dtype, 2, run, first, count, sums);
    else if (tokens == 3)
        fused_tokens(dtype, 3, run, first, count, sums);
    else
        fused_tokens(dtype, FUSED_TOKENS, run, first, count, sums);
}

#define FUSED_OF(dtype)                                                                            \
    UNWATCHED static void fused_##dtype(FUSED_ARGS) {                                              \
        fused_format(dtype, run, first, count, tokens, sums);                                      \
    }
FOR_EACH_FLOAT_FORMAT(FUSED_OF)
#define FUSED_ROW(dtype) [dtype] = fused_##dtype,
static fused_fn *const fused_of[DT_COUNT] = {FOR_EACH_FLOAT_FORMAT(FUSED_ROW)};

void LEVEL_NAME(tiles_fused)(esp_dtype dtype, FUSED_ARGS) {
    fused_of[dtype](run, first, count, tokens, sums);
}
