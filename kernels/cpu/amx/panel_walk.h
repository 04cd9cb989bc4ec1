/* panel_walk.h - a worker's way through a linear of many tokens: which weights it unpacks, in which order, and
 * which tokens meet them.
 *
 * A panel is some blocks of a pair of weight tiles, and a chunk of tokens. Where rows are so long that they are
 * cut into ranges of blocks, a range is walked for a group of pairs before the next one: its inputs
 * stay in L2, and sums rest in between. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_PANEL_WALK_H
#define ESPALIER_PANEL_WALK_H

#include "kernels/cpu/amx/source_amx.h"

typedef struct panel {
    strip s;                /* one or two tiles; none: behind the last panel */
    uint32_t first, tokens; /* of the op; first is a multiple of 16 */
    uint32_t block, blocks;
    bool begins, ends; /* sums begin at 0; are whole afterwards */
    uint32_t slot;     /* where sums rest, of the group */
} panel;

typedef struct panel_walk {
    const linear_job *job;
    uint32_t unit_begin, unit_end, token_end; /* of the worker */
    bool alone;                               /* no other worker meets these tokens */
    uint32_t token, unit;                     /* behind the group */
    uint32_t blocks, range;                   /* of a panel, of a range, at most */
    strip group[GROUP];
    uint32_t count;              /* of the group */
    uint32_t slot, begin, block; /* strip and range under way; behind the last panel */
} panel_walk;

/* The worker's part of the tokens first .. first + tokens and of all weight tiles. */
panel_walk panel_walk_begin(const linear_job *job, uint32_t first, uint32_t tokens, uint32_t worker,
                            uint32_t workers);
panel panel_walk_next(panel_walk *walk);

#endif
