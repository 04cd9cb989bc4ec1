/* pairs_amx.c - see pairs_amx.h. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/amx/pairs_amx.h"

enum { ALONE_BLOCKS = 64 }; /* are paired while workers would wait for each other */

uint32_t amx_tile_tokens(uint32_t tokens) { return tokens < TILE_TOKENS ? tokens : TILE_TOKENS; }

bool amx_in_place(const linear_job *job) {
    return job->op->token_count == 1 && job->planes == 1 && !job->order[0] &&
           job->cols % TILE_COLS == 0;
}

static const uint16_t *in_at(const linear_job *job, uint32_t token) {
    return (const uint16_t *)job->op->in + (size_t)token * job->cols;
}

/* Whether the columns of block b lie side by side in the input. */
static bool whole(const linear_job *job, uint32_t plane, uint32_t b) {
    return !job->order[plane] && (b + 1) * TILE_COLS <= job->cols;
}

/* Block b of 16 tokens, the first of whose rows is `in`, to a B tile. */
static void pair_whole(const uint16_t *in, uint32_t cols, uint16_t *out) {
    __m512i rows[TILE_TOKENS];
    UNROLL_16 for (uint32_t t = 0; t < TILE_TOKENS; t++) rows[t] =
        _mm512_loadu_si512(in + (size_t)t * cols);
    transpose_dwords(rows);
    UNROLL_16 for (uint32_t p = 0; p < TILE_ROWS; p++)
        _mm512_storeu_si512(out + p * TILE_COLS, rows[p]);
}

/* The same of fewer tokens, or of a block whose columns are put together first. */
static void pair_block(const linear_job *job, uint32_t plane, uint32_t first, uint32_t tokens,
                       uint32_t b, uint16_t *out) {
    uint32_t left = job->cols - b * TILE_COLS, count = left < TILE_COLS ? left : TILE_COLS;
    uint32_t width = amx_tile_tokens(job->op->token_count);
    __m512i rows[TILE_TOKENS];
    for (uint32_t t = 0; t < TILE_TOKENS; t++) {
        uint16_t lined_up[TILE_COLS];
        rows[t] = _mm512_setzero_si512();
        if (t < tokens)
            rows[t] = _mm512_loadu_si512(
                block_of(in_at(job, first + t), job->order[plane], b, count, lined_up));
    }
    transpose_dwords(rows);
    for (uint32_t p = 0; p < TILE_ROWS; p++)
        memcpy(out + p * width * 2, &rows[p], width * sizeof(uint32_t));
}

uint16_t *amx_pairs_at(const linear_job *job, uint32_t plane, uint32_t i, uint32_t b) {
    uint32_t width = amx_tile_tokens(job->op->token_count);
    size_t tiles_of_plane = cpu_input_bytes(job->dev) / (TILE * sizeof(uint16_t)) * job->blocks;
    size_t tile = plane * tiles_of_plane + (size_t)i * job->blocks + b;
    return (uint16_t *)job->dev->inputs + tile * TILE_COLS * width;
}

/* Blocks begin .. end of the tiles of some tokens, the first of which becomes tile `to`. */
static void pair_blocks(const linear_job *job, uint32_t base, uint32_t tokens, uint32_t begin,
                        uint32_t end, uint32_t to) {
    for (uint32_t plane = 0; plane < job->planes; plane++)
        for (uint32_t item = begin; item < end; item++) {
            uint32_t first = item / job->blocks * TILE_TOKENS, b = item % job->blocks;
            uint32_t left = tokens - first;
            uint16_t *out = amx_pairs_at(job, plane, to + first / TILE_TOKENS, b);
            if (left >= TILE_TOKENS && whole(job, plane, b))
                pair_whole(in_at(job, base + first) + b * TILE_COLS, job->cols, out);
            else
                pair_block(job, plane, base + first, left < TILE_TOKENS ? left : TILE_TOKENS, b,
                           out);
        }
}

static uint32_t tiles_of(uint32_t tokens) { return (tokens + TILE_TOKENS - 1) / TILE_TOKENS; }

void amx_pair_tokens(const linear_job *job, uint32_t base, uint32_t tokens, uint32_t worker,
                     uint32_t workers) {
    uint32_t begin, end;
    pool_share(tiles_of(tokens) * job->blocks, 1, worker, workers, &begin, &end);
    pair_blocks(job, base, tokens, begin, end, 0);
}

void amx_pair_part(const linear_job *job, uint32_t first, uint32_t end, uint32_t to) {
    pair_blocks(job, first, end - first, 0, tiles_of(end - first) * job->blocks, to);
}

bool amx_pairs_alone(const linear_job *job, uint32_t workers) {
    uint32_t tiles = tiles_of(job->op->token_count);
    size_t room = cpu_input_bytes(job->dev) / (TILE * sizeof(uint16_t));
    return tiles * job->blocks * job->planes <= ALONE_BLOCKS && tiles * workers <= room;
}

uint32_t amx_pair_alone(const linear_job *job, uint32_t worker) {
    uint32_t tokens = job->op->token_count, tile = worker * tiles_of(tokens);
    amx_pair_part(job, 0, tokens, tile);
    return tile;
}
