/* fused_amx.c - few tokens without tiles, to the bits that tiles give.
 *
 * At one token a tile's 16 rows of codes would be unpacked, stored and loaded for a single row of
 * products; in registers they are used at once, and memory is the bound.
 *
 * tdpbf16ps adds a run's products in two chains of fused multiply-adds, over the first and over the
 * second columns of the pairs (pairs.h), and then the two: so does this. The instruction takes denormal
 * inputs and results for zero: so must we, hence the control word.
 *
 * In     x as float32, its columns as they come
 * Temp   x and its sums; sums of a strip per worker
 * Cost   as tile_fused.c: each weight is read once from memory. Bar: bench/bench_linear.c
 * Source Intel 64 and IA-32 Architectures Software Developer's Manual, TDPBF16PS */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/amx/fused_amx.h"

#include <string.h>

#include "kernels/cpu/level/tile.h"

enum { FLUSH_DENORMALS = 0x8040 /* FTZ and DAZ of MXCSR */ };

/* Columns of a run, of `tiles` tiles from `first` on, into the two chains of each token. */
ALWAYS_INLINE void add_run(esp_dtype dtype, uint32_t tiles, uint32_t tokens, const tile_run *run,
                           uint32_t first, uint32_t b, uint32_t k, const float *x,
                           vf (*chains)[AMX_FUSED_TOKENS][2]) {
    UNROLL for (uint32_t n = 0; n < tiles; n++) {
        const uint8_t *block = run->codes[first + n] + (size_t)b * cpu_formats[dtype].code_bytes;
        tile_prefetch(dtype, run->codes[first + n], b, k);
        UNROLL for (uint32_t j = 0; j < GROUP_COLS; j++) {
            vf w = tile_values(dtype, block, k, j, 0);
            UNROLL for (uint32_t t = 0; t < tokens; t++) {
                vf *chain = &chains[n][t][j / (GROUP_COLS / 2)];
                *chain = v_fma(w, v_set1(x[t * TILE_COLS + k + j]), *chain);
            }
        }
    }
}

/* Tiles first .. first + tiles of the run; dtype, tiles, tokens are constants. */
ALWAYS_INLINE void fused_tiles(esp_dtype dtype, uint32_t tiles, uint32_t tokens,
                               const tile_run *run, uint32_t first, float (*sums)[STRIP_ROWS]) {
    const cpu_scaling scaling = cpu_formats[dtype].scaling;
    const uint32_t cols = scale_cols(scaling);
    vf acc[STRIP_TILES][AMX_FUSED_TOKENS];
    UNROLL for (uint32_t n = 0; n < tiles; n++) UNROLL for (uint32_t t = 0; t < tokens; t++)
        acc[n][t] = v_zero();
    const float *x = run->inputs;
    for (uint32_t b = 0; b < run->blocks; b++, x += (size_t)run->input_rows * TILE_COLS)
        for (uint32_t half = 0; half < TILE_COLS / cols; half++) {
            vf chains[STRIP_TILES][AMX_FUSED_TOKENS][2];
            UNROLL for (uint32_t n = 0; n < tiles; n++) UNROLL for (uint32_t t = 0; t < tokens; t++)
                chains[n][t][0] = chains[n][t][1] = v_zero();
            for (uint32_t k = half * cols; k < (half + 1) * cols; k += GROUP_COLS)
                add_run(dtype, tiles, tokens, run, first, b, k, x, chains);
            UNROLL for (uint32_t n = 0; n < tiles; n++) {
                const uint8_t *scales = run->scales[first + n];
                vf scale = v_zero(), offset = v_zero();
                if (scaling != SCALE_NONE) scale = tile_scale(dtype, scales, b, half, 0);
                if (has_offset(scaling)) offset = tile_offset(dtype, scales, b, half, 0);
                UNROLL for (uint32_t t = 0; t < tokens; t++) acc[n][t] =
                    tile_add(scaling, scale, offset, v_add(chains[n][t][0], chains[n][t][1]),
                             tile_input_sum(scaling, run, b, half, t), acc[n][t]);
            }
        }
    UNROLL for (uint32_t n = 0; n < tiles; n++) UNROLL for (uint32_t t = 0; t < tokens; t++)
        v_store(&sums[t][(first + n) * TILE_ROWS], acc[n][t]);
}

#define FUSED_ARGS const tile_run *run, uint32_t first, uint32_t count, float(*sums)[STRIP_ROWS]

ALWAYS_INLINE void fused_tokens(esp_dtype dtype, uint32_t tokens, FUSED_ARGS) {
    const uint32_t together = tokens == 1 ? STRIP_TILES : STRIP_TILES / 2;
    uint32_t end = first + count;
    for (; first + together <= end; first += together)
        fused_tiles(dtype, together, tokens, run, first, sums);
    for (; first < end; first++)
        fused_tiles(dtype, 1, tokens, run, first, sums);
}

typedef void fused_fn(FUSED_ARGS, uint32_t tokens);
#define FUSED_OF(dtype)                                                                            \
    static void fused_##dtype(FUSED_ARGS, uint32_t tokens) {                                       \
        if (tokens == 1)                                                                           \
            fused_tokens(dtype, 1, run, first, count, sums);                                       \
        else if (tokens == 2)                                                                      \
            fused_tokens(dtype, 2, run, first, count, sums);                                       \
        else                                                                                       \
            fused_tokens(dtype, AMX_FUSED_TOKENS, run, first, count, sums);                        \
    }
FOR_EACH_FORMAT(FUSED_OF)
#define FUSED_ROW(dtype) [dtype] = fused_##dtype,
static fused_fn *const fused_of[DT_COUNT] = {FOR_EACH_FORMAT(FUSED_ROW)};

static void multiply_strip(const linear_job *job, const strip *s, cpu_scratch *scratch) {
    tile_run run = run_of(job, s, job->op->token_count);
    for (uint32_t first = 0, count; first < s->count; first += count) {
        count = take_alike(job, s, first, &run);
        fused_of[format_of(job, s, first)](&run, first, count, scratch->sums, job->op->token_count);
    }
}

static void multiply(void *arg, uint32_t worker, uint32_t workers) {
    const linear_job *job = arg;
    cpu_scratch *scratch = &job->dev->scratch[worker];
    uint32_t tokens = job->op->token_count, begin, end, control = _mm_getcsr();
    pool_share(job->units, 1, worker, workers, &begin, &end);
    _mm_setcsr(control | FLUSH_DENORMALS);
    for (uint32_t unit = begin; unit < end; unit += STRIP_TILES / job->unit_tiles) {
        strip s = strip_at(job, unit, end, STRIP_TILES);
        multiply_strip(job, &s, scratch);
        _mm_setcsr(control);
        finish(job, &s, 0, tokens, scratch->sums[0], STRIP_ROWS);
        _mm_setcsr(control | FLUSH_DENORMALS);
    }
    _mm_setcsr(control);
}

void linear_fused_amx(linear_job *job) {
    expand_tokens(job, 0, job->op->token_count, 0, job->op->token_count);
    pool_run(job->dev->pool, multiply, job);
}
