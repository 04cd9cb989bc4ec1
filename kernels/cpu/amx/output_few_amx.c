/* output_few_amx.c - the output matrix (output_amx.h) and up to OUTPUT_FEW tokens, by dot products of bytes.
 *
 * A line of codes holds 4 columns of 16 rows. The instruction wants one side unsigned: codes as c + 128, which adds
 * 128 times the sum of n. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/amx/output_amx.h"

enum { QUADS = TILE_COLS / 4 };

typedef struct few_run {
    const uint8_t *codes[STRIP_TILES], *scales[STRIP_TILES];
    const output_block *x; /* [blocks][tokens] */
    uint32_t blocks;
} few_run;

ALWAYS_INLINE __m512i quad_of(const int8_t *n) {
    int quad;
    memcpy(&quad, n, sizeof quad);
    return _mm512_set1_epi32(quad);
}

/* Sums of n c of some tiles and tokens in block b; their numbers are constants. */
ALWAYS_INLINE void few_sums(uint32_t tiles, uint32_t tokens, const few_run *run, uint32_t b,
                            vf (*sums)[OUTPUT_FEW]) {
    const output_block *x = run->x + (size_t)b * tokens;
    const __m512i sign = _mm512_set1_epi8(-128);
    __m512i high[STRIP_TILES][OUTPUT_FEW], low[STRIP_TILES][OUTPUT_FEW];
    UNROLL for (uint32_t i = 0; i < tiles; i++) UNROLL for (uint32_t t = 0; t < tokens; t++) {
        high[i][t] = _mm512_setzero_si512();
        low[i][t] = _mm512_set1_epi32(-128 * x[t].sum);
    }
    UNROLL for (uint32_t q = 0; q < QUADS; q++) UNROLL for (uint32_t i = 0; i < tiles; i++) {
        const uint8_t *line = run->codes[i] + (size_t)b * TILE_ROWS * TILE_COLS + q * LINE_BYTES;
        __m512i codes = _mm512_xor_si512(_mm512_loadu_si512(line), sign);
        _mm_prefetch((const char *)line + PREFETCH_BYTES, _MM_HINT_T0);
        UNROLL for (uint32_t t = 0; t < tokens; t++) {
            high[i][t] = _mm512_dpbusd_epi32(high[i][t], codes, quad_of(x[t].high + 4 * q));
            low[i][t] = _mm512_dpbusd_epi32(low[i][t], codes, quad_of(x[t].low + 4 * q));
        }
    }
    UNROLL for (uint32_t i = 0; i < tiles; i++) UNROLL for (uint32_t t = 0; t < tokens; t++) {
        __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(high[i][t], 7), low[i][t]);
        sums[i][t] = v_mul(_mm512_cvtepi32_ps(sum), v_set1(x[t].unit));
    }
}

ALWAYS_INLINE void few_tiles(uint32_t tiles, uint32_t tokens, const few_run *run,
                             float (*out)[STRIP_ROWS], uint32_t first) {
    vf acc[STRIP_TILES][OUTPUT_FEW], sums[STRIP_TILES][OUTPUT_FEW];
    UNROLL for (uint32_t i = 0; i < tiles; i++) UNROLL for (uint32_t t = 0; t < tokens; t++)
        acc[i][t] = v_zero();
    for (uint32_t b = 0; b < run->blocks; b++) {
        few_sums(tiles, tokens, run, b, sums);
        UNROLL for (uint32_t i = 0; i < tiles; i++) {
            vf scale = tile_scale(DT_Q8_0, run->scales[i], b, 0, 0);
            UNROLL for (uint32_t t = 0; t < tokens; t++) acc[i][t] =
                v_fma(scale, sums[i][t], acc[i][t]);
        }
    }
    UNROLL for (uint32_t i = 0; i < tiles; i++) UNROLL for (uint32_t t = 0; t < tokens; t++)
        v_store(out[t] + (first + i) * TILE_ROWS, acc[i][t]);
}

/* As many tiles at a time as the registers hold sums for. */
ALWAYS_INLINE void few_strip(uint32_t tokens, few_run run, uint32_t count,
                             float (*out)[STRIP_ROWS]) {
    const uint32_t together = STRIP_TILES / (tokens == 3 ? OUTPUT_FEW : tokens);
    uint32_t first = 0;
    for (; first + together <= count; first += together) {
        few_tiles(together, tokens, &run, out, first);
        memmove(run.codes, run.codes + together, (STRIP_TILES - together) * sizeof *run.codes);
        memmove(run.scales, run.scales + together, (STRIP_TILES - together) * sizeof *run.scales);
    }
    for (; together > 1 && first < count; first++) {
        few_tiles(1, tokens, &run, out, first);
        memmove(run.codes, run.codes + 1, (STRIP_TILES - 1) * sizeof *run.codes);
        memmove(run.scales, run.scales + 1, (STRIP_TILES - 1) * sizeof *run.scales);
    }
}

void output_few_tokens(void *arg, uint32_t worker, uint32_t workers) {
    const linear_job *job = arg;
    cpu_scratch *scratch = &job->dev->scratch[worker];
    uint32_t tokens = job->op->token_count, begin, end;
    pool_share(job->units, 1, worker, workers, &begin, &end);
    for (uint32_t unit = begin; unit < end; unit += STRIP_TILES) {
        strip s = strip_at(job, unit, end, STRIP_TILES);
        tile_run tiles = run_of(job, &s, tokens);
        few_run run = {.x = job->dev->inputs, .blocks = job->blocks};
        memcpy(run.codes, tiles.codes, sizeof run.codes);
        memcpy(run.scales, tiles.scales, sizeof run.scales);
        if (tokens == 1)
            few_strip(1, run, s.count, scratch->sums);
        else if (tokens == 2)
            few_strip(2, run, s.count, scratch->sums);
        else if (tokens == 3)
            few_strip(3, run, s.count, scratch->sums);
        else
            few_strip(OUTPUT_FEW, run, s.count, scratch->sums);
        finish(job, &s, 0, tokens, scratch->sums[0], STRIP_ROWS);
    }
}
