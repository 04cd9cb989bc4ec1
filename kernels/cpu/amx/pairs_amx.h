/* pairs_amx.h - activations to B tiles: 16 pairs of columns x 16 tokens.
 *
 * They lie in dev->inputs: [planes][tokens / 16][K / 32][16 pairs][16 tokens][2] bf16, tokens behind the last
 * as zeros; when there are fewer than 16 tokens, rows have as many. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_PAIRS_AMX_H
#define ESPALIER_PAIRS_AMX_H

#include "kernels/cpu/amx/scratch_amx.h"
#include "kernels/cpu/amx/transpose.h"
#include "kernels/cpu/level/linear_job.h"

/* A C tile, 16 rows x 16 tokens, as rows of tokens; or one the other way round. */
ALWAYS_INLINE void amx_turned(const float *c, __m512i r[TILE_TOKENS]) {
    UNROLL_16 for (uint32_t i = 0; i < TILE_ROWS; i++) r[i] =
        _mm512_loadu_si512(c + i * TILE_TOKENS);
    transpose_dwords(r);
}

/* The same to out[token * stride + row]. */
ALWAYS_INLINE void amx_turn(const float *c, float *out, size_t stride) {
    __m512i r[TILE_TOKENS];
    amx_turned(c, r);
    UNROLL_16 for (uint32_t t = 0; t < TILE_TOKENS; t++)
        _mm512_storeu_si512(out + t * stride, r[t]);
}

/* Tokens of a B tile, and so dwords of its rows: 16, unless there are fewer tokens at all. */
uint32_t amx_tile_tokens(uint32_t tokens);
/* One token needs no pairing: its row is its B tiles. */
bool amx_in_place(const linear_job *job);
/* Where the B tile of block b of tokens 16 i .. of a chunk lies. */
uint16_t *amx_pairs_at(const linear_job *job, uint32_t plane, uint32_t i, uint32_t b);
/* This worker's share of the tokens base .. base + tokens. */
void amx_pair_tokens(const linear_job *job, uint32_t base, uint32_t tokens, uint32_t worker,
                     uint32_t workers);

#endif
