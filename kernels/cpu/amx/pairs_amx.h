/* pairs_amx.h - activations to B tiles: 16 pairs of columns x 16 tokens.
 *
 * They lie in dev->inputs: [planes][tokens / 16][K / 32][16 pairs][16 tokens][2] bf16, tokens behind the last
 * as zeros; when there are fewer than 16 tokens, rows have as many. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_PAIRS_AMX_H
#define ESPALIER_PAIRS_AMX_H

#include "kernels/cpu/amx/epilogue_amx.h"

/* Tokens of a B tile, and so dwords of its rows: 16, unless there are fewer tokens at all. */
uint32_t amx_tile_tokens(uint32_t tokens);
/* One token needs no pairing: its row is its B tiles. */
bool amx_in_place(const linear_job *job);
/* Where the B tile of block b of tokens 16 i .. of a chunk lies. */
uint16_t *amx_pairs_at(const linear_job *job, uint32_t plane, uint32_t i, uint32_t b);
/* This worker's share of the tokens base .. base + tokens of the op, which become B tiles from 0 on. */
void amx_pair_tokens(const linear_job *job, uint32_t base, uint32_t tokens, uint32_t worker,
                     uint32_t workers);
/* All of the tokens first .. end, the first of which, 16 of them each, become B tile `to`. */
void amx_pair_part(const linear_job *job, uint32_t first, uint32_t end, uint32_t to);

/* Few blocks of few tokens: each worker pairs all of them for itself, and waits for nobody. */
bool amx_pairs_alone(const linear_job *job, uint32_t workers);
uint32_t amx_pair_alone(const linear_job *job, uint32_t worker); /* its first tile */

#endif
