/* tile_blocked.c - many tokens: a block of the strip becomes floats in L1, for all tokens.
 *
 * Temp  weights and scales of one block of STRIP_TILES tiles as floats, per worker
 * Cost  bound by FMA: unpacking is done once a chunk of CHUNK_TOKENS. Once they are floats, formats
 *       differ in cpu_scaling alone. Bar: bench/bench_linear.c */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/level/tile.h"

enum {
    BLOCKED_TOKENS = 6, /* with BLOCKED_TILES: as many accumulators as the registers hold */
    BLOCKED_TILES = VECTORS == 1 ? 4 : 1,
};

/* --- to floats ---------------------------------------------------------------------------- */

/* Block b of tile n of the run. */
ALWAYS_INLINE void expand_tile(esp_dtype dtype, const tile_run *run, uint32_t n, uint32_t b,
                               cpu_scratch *scratch) {
    const cpu_format *format = &cpu_formats[dtype];
    const uint8_t *block = run->codes[n] + (size_t)b * format->code_bytes;
    UNROLL for (uint32_t k = 0; k < TILE_COLS; k++) for (uint32_t v = 0; v < VECTORS; v++)
        v_store(&scratch->weights[n][k][v * LANES], tile_values(dtype, block, k, v));
    for (uint32_t v = 0; format->scaling != SCALE_NONE && v < VECTORS; v++)
        v_store(&scratch->scales[n][0][v * LANES], tile_scale(dtype, run->scales[n], b, 0, v));
}

#define EXPAND_ARGS                                                                                \
    const tile_run *run, uint32_t first, uint32_t end, uint32_t b, cpu_scratch *scratch
typedef void expand_fn(EXPAND_ARGS);
#define EXPAND_OF(dtype)                                                                           \
    UNWATCHED static void expand_##dtype(EXPAND_ARGS) {                                            \
        for (uint32_t n = first; n < end; n++)                                                     \
            expand_tile(dtype, run, n, b, scratch);                                                \
    }
FOR_EACH_FLOAT_FORMAT(EXPAND_OF)
#define EXPAND_ROW(dtype) [dtype] = expand_##dtype,
static expand_fn *const expand_of[DT_COUNT] = {FOR_EACH_FLOAT_FORMAT(EXPAND_ROW)};

/* --- times tokens ------------------------------------------------------------------------- */

/* Adds one block of tiles first .. first + tiles to the sums of tokens token .. token + tokens;
 * scaling, tiles and tokens are constants. */
ALWAYS_INLINE void multiply(cpu_scaling scaling, uint32_t tiles, uint32_t tokens,
                            const tile_run *run, uint32_t first, uint32_t b, uint32_t token,
                            cpu_scratch *scratch) {
    const float *x = run->inputs + ((size_t)b * run->input_rows + token) * TILE_COLS;
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
        float *sum = &scratch->sums[token + t][(first + n) * TILE_ROWS + v * LANES];
        vf acc = b == 0 ? v_zero() : v_load(sum);
        vf scale = v_load(&scratch->scales[first + n][0][v * LANES]);
        v_store(sum, tile_add(scaling, scale, p[t][n][v], acc));
    }
}

ALWAYS_INLINE void multiply_all(cpu_scaling scaling, uint32_t tiles, const tile_run *run,
                                uint32_t first, uint32_t b, uint32_t tokens, cpu_scratch *scratch) {
    uint32_t t = 0;
    for (; t + BLOCKED_TOKENS <= tokens; t += BLOCKED_TOKENS)
        multiply(scaling, tiles, BLOCKED_TOKENS, run, first, b, t, scratch);
    switch (tokens - t) {
    case 5:
        multiply(scaling, tiles, 5, run, first, b, t, scratch);
        break;
    case 4:
        multiply(scaling, tiles, 4, run, first, b, t, scratch);
        break;
    case 3:
        multiply(scaling, tiles, 3, run, first, b, t, scratch);
        break;
    case 2:
        multiply(scaling, tiles, 2, run, first, b, t, scratch);
        break;
    case 1:
        multiply(scaling, tiles, 1, run, first, b, t, scratch);
        break;
    default:
        break;
    }
}

#define MULTIPLY_ARGS                                                                              \
    const tile_run *run, uint32_t first, uint32_t end, uint32_t b, uint32_t tokens,                \
        cpu_scratch *scratch
typedef void multiply_fn(MULTIPLY_ARGS);
#define MULTIPLY_OF(scaling)                                                                       \
    UNWATCHED static void multiply_##scaling(MULTIPLY_ARGS) {                                      \
        for (; first + BLOCKED_TILES <= end; first += BLOCKED_TILES)                               \
            multiply_all(scaling, BLOCKED_TILES, run, first, b, tokens, scratch);                  \
        for (; first < end; first++)                                                               \
            multiply_all(scaling, 1, run, first, b, tokens, scratch);                              \
    }
MULTIPLY_OF(SCALE_NONE)
MULTIPLY_OF(SCALE_32)
static multiply_fn *const multiply_of[] = {
    [SCALE_NONE] = multiply_SCALE_NONE,
    [SCALE_32] = multiply_SCALE_32,
};

void LEVEL_NAME(tiles_blocked)(esp_dtype dtype, const tile_run *run, uint32_t first, uint32_t count,
                               uint32_t tokens, cpu_scratch *scratch) {
    expand_fn *expand = expand_of[dtype];
    multiply_fn *multiply_block = multiply_of[cpu_formats[dtype].scaling];
    for (uint32_t b = 0; b < run->blocks; b++) {
        expand(run, first, first + count, b, scratch);
        multiply_block(run, first, first + count, b, tokens, scratch);
    }
}
