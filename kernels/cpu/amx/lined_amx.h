/* lined_amx.h - activations as A tiles: 16 tokens x 32 columns.
 *
 * Mostly they are that where they lie, and are read there. Those of matrices with an order of their own, or
 * whose rows end within a block, are lined up first in dev->inputs: [planes][tokens / 16][K / 32][16][32] bf16,
 * columns behind the last as zeros. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_LINED_AMX_H
#define ESPALIER_LINED_AMX_H

#include "kernels/cpu/amx/scratch_amx.h"
#include "kernels/cpu/level/linear_job.h"

/* Where A tiles lie: bytes from one token to the next, one block of columns, one tile of tokens. */
typedef struct input_view {
    const char *at;
    size_t row, block, tile;
} input_view;

bool amx_lines_up(const linear_job *job);
/* So many tokens of the op have room at a time. */
uint32_t amx_lined_room(const linear_job *job);
/* This worker's share of the tokens base .. base + tokens. */
void amx_line_up(const linear_job *job, uint32_t base, uint32_t tokens, uint32_t worker,
                 uint32_t workers);
/* From token `base` on, which is where lining up began if it did. */
input_view amx_inputs(const linear_job *job, uint32_t plane, uint32_t base);

#endif
