/* panel_walk.c - see panel_walk.h. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/amx/panel_walk.h"

enum {
    PART_TOKENS = 128,     /* fewer are not worth unpacking a weight for a second worker */
    PART_CODE_BYTES = 512, /* of a block; larger ones are not worth fetching twice */
};

static bool are_small(const kern_linear *op) {
    for (uint32_t m = 0; m < op->matrix_count; m++)
        if (cpu_formats[op->matrix[m]->dtype].code_bytes > PART_CODE_BYTES) return false;
    return true;
}

/* Into how many parts the tokens are cut; each is met by as many workers, who share the weight tiles. */
static uint32_t token_parts(const kern_linear *op, uint32_t tokens, uint32_t workers) {
    uint32_t parts = tokens / PART_TOKENS < workers ? tokens / PART_TOKENS : workers;
    while (parts > 1 && workers % parts != 0)
        parts--;
    return parts > 1 && are_small(op) ? parts : 1;
}

/* As few parts of at most `most` blocks as there must be, equal ones. */
static uint32_t part_of(uint32_t blocks, uint32_t most) {
    uint32_t parts = (blocks - 1) / most + 1;
    return (blocks - 1) / parts + 1;
}

static uint32_t chunk_tokens(const panel_walk *walk) {
    uint32_t left = walk->token_end - walk->token;
    return left < AMX_CHUNK ? left : AMX_CHUNK;
}

panel_walk panel_walk_begin(const linear_job *job, uint32_t first, uint32_t tokens, uint32_t worker,
                            uint32_t workers) {
    panel_walk walk = {.job = job, .blocks = part_of(job->blocks, PANEL)};
    uint32_t parts = token_parts(job->op, tokens, workers), sharers = workers / parts, begin, end;
    pool_share(tokens, TILE_TOKENS, worker / sharers, parts, &begin, &end);
    pool_share(job->units, PAIR / job->unit_tiles, worker % sharers, sharers, &walk.unit_begin,
               &walk.unit_end);
    walk.alone = sharers == 1;
    walk.token = first + begin;
    walk.token_end = first + end;
    walk.unit = walk.unit_begin;
    uint32_t met = chunk_tokens(&walk), most = RANGE_BLOCKS / (met ? met : 1) / walk.blocks;
    walk.range = part_of(job->blocks, (most ? most : 1) * walk.blocks);
    walk.range = (walk.range + walk.blocks - 1) / walk.blocks * walk.blocks;
    return walk;
}

/* false: there is none. */
static bool next_group(panel_walk *walk) {
    if (walk->unit == walk->unit_end) {
        walk->token += chunk_tokens(walk);
        walk->unit = walk->unit_begin;
    }
    walk->block = walk->begin = walk->slot = walk->count = 0;
    if (walk->token == walk->token_end) return false;
    uint32_t most = walk->range < walk->job->blocks ? GROUP : 1;
    while (walk->count < most && walk->unit < walk->unit_end) {
        strip *s = &walk->group[walk->count++];
        *s = amx_strip_at(walk->job, walk->unit, walk->unit_end, PAIR / walk->job->unit_tiles);
        walk->unit += amx_strip_units(walk->job, s);
    }
    return walk->count > 0;
}

/* To the next strip of the group, or of the next range, if the panel before was the last of its range. */
static void leave_strip(panel_walk *walk) {
    uint32_t blocks = walk->job->blocks, end = walk->begin + walk->range;
    if (walk->block < end && walk->block < blocks) return;
    walk->block = walk->begin;
    if (++walk->slot < walk->count) return;
    walk->slot = 0;
    walk->block = walk->begin = end;
}

panel panel_walk_next(panel_walk *walk) {
    if (walk->count > 0) leave_strip(walk);
    bool done = walk->count == 0 || walk->block >= walk->job->blocks;
    if (done && !next_group(walk)) return (panel){0};
    uint32_t left = walk->job->blocks - walk->block;
    panel p = {.s = walk->group[walk->slot],
               .first = walk->token,
               .tokens = chunk_tokens(walk),
               .block = walk->block,
               .blocks = left < walk->blocks ? left : walk->blocks,
               .begins = walk->block == 0,
               .ends = left <= walk->blocks,
               .slot = walk->slot};
    walk->block += p.blocks;
    return p;
}
