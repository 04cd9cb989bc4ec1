/* lined_amx.c - see lined_amx.h. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/amx/lined_amx.h"

/* Rows so far apart that they share few sets of the caches. */
enum { STRIDE_COLS = 1024 };

bool amx_lines_up(const linear_job *job) {
    return job->planes > 1 || job->order[0] || job->cols % TILE_COLS != 0 ||
           job->cols % STRIDE_COLS == 0;
}

uint32_t amx_lined_room(const linear_job *job) {
    return (uint32_t)(cpu_input_bytes(job->dev) / (TILE_COLS * sizeof(uint16_t)));
}

/* Elements of a plane's tile of tokens. */
static size_t tile_elements(const linear_job *job) { return (size_t)job->blocks * TILE; }

static uint16_t *plane_begin(const linear_job *job, uint32_t plane) {
    size_t tiles = amx_lined_room(job) / TILE_TOKENS;
    return (uint16_t *)job->dev->inputs + plane * tiles * tile_elements(job);
}

/* One token; out: its first block's row. */
static void line_up_token(const linear_job *job, uint32_t plane, uint32_t token, uint16_t *out) {
    const uint16_t *in = (const uint16_t *)job->op->in + (size_t)token * job->cols;
    for (uint32_t b = 0; b < job->blocks; b++, out += TILE) {
        uint32_t left = job->cols - b * TILE_COLS;
        uint16_t lined_up[TILE_COLS];
        const uint16_t *row =
            block_of(in, job->order[plane], b, left < TILE_COLS ? left : TILE_COLS, lined_up);
        memcpy(out, row, TILE_COLS * sizeof *out);
    }
}

void amx_line_up(const linear_job *job, uint32_t base, uint32_t tokens, uint32_t worker,
                 uint32_t workers) {
    uint32_t begin, end;
    pool_share(tokens, 1, worker, workers, &begin, &end);
    for (uint32_t plane = 0; plane < job->planes; plane++)
        for (uint32_t t = begin; t < end; t++)
            line_up_token(job, plane, base + t,
                          plane_begin(job, plane) + t / TILE_TOKENS * tile_elements(job) +
                              t % TILE_TOKENS * TILE_COLS);
}

input_view amx_inputs(const linear_job *job, uint32_t plane, uint32_t base) {
    const size_t row = TILE_COLS * sizeof(uint16_t), in_row = job->cols * sizeof(uint16_t);
    if (amx_lines_up(job))
        return (input_view){.at = (const char *)plane_begin(job, plane),
                            .row = row,
                            .block = TILE * sizeof(uint16_t),
                            .tile = tile_elements(job) * sizeof(uint16_t)};
    return (input_view){.at = (const char *)job->op->in + base * in_row,
                        .row = in_row,
                        .block = row,
                        .tile = TILE_TOKENS * in_row};
}
