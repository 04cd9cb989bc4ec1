/* linear_walk.h - a linear over its tokens and strips: all workers make inputs ready, and h of its updates, then each
 * multiplies its strips and fetches meanwhile what updates will read.
 *
 * A few tokens are made ready by the caller's thread: that takes less than a barrier, which only updates need then. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_LINEAR_WALK_H
#define ESPALIER_LINEAR_WALK_H

#include "kernels/cpu/level/linear_job.h"
#include "kernels/cpu/lora_fetch.h"
#include "kernels/cpu/lora_plan.h"

/* What of the updates' memory is fetched while a strip is multiplied: its B, and this worker's A of the next op. */
typedef struct linear_ahead {
    lora_fetch strip, next;
} linear_ahead;

typedef struct linear_way {
    uint32_t few_tokens;
    /* Tokens base + begin .. base + end of the op, of `rows` that are computed together. */
    void (*take_inputs)(const linear_job *job, uint32_t base, uint32_t rows, uint32_t begin,
                        uint32_t end);
    /* How many steps of what is fetched a block of a strip takes, of more than few_tokens. NULL: it reads longer than
     * it computes, and has no time for that. */
    uint32_t (*fetch_steps)(uint32_t tokens);
    /* Tokens base .. base + tokens of the op, rows 0 .. tokens of the chunk; to scratch->sums. ahead: to be fetched,
     * step by step; NULL: nothing. */
    void (*multiply)(const linear_job *job, const strip *s, uint32_t base, uint32_t tokens,
                     linear_ahead *ahead, cpu_scratch *scratch);
} linear_way;

typedef struct linear_walk {
    const linear_job *job;
    const linear_way *way;
} linear_walk;

/* --- ahead ------------------------------------------------------------------------------- */

/* B of the strip's tiles, of the updates of its tokens, while it is multiplied. */
static inline void fetch_strip(const linear_walk *walk, const strip *s, uint32_t base,
                               uint32_t tokens, lora_fetch *fetch) {
    const linear_job *job = walk->job;
    const cpu_lora_plan *plan = job->lora;
    lora_fetch_clear(fetch);
    for (uint32_t u = plan->tile_first[base / LORA_TILE_TOKENS]; u < plan->count; u++) {
        const cpu_lora_use *use = &plan->uses[u];
        if (use->first >= base + tokens) break;
        if (use->first + use->count <= base) continue;
        for (uint32_t i = 0, count; i < s->count; i += count) {
            uint32_t m = s->matrix[i],
                     rank = m < use->lora->part_count ? use->lora->part[m].rank : 0;
            count = strip_of_matrix(s, i);
            for (uint32_t g = 0; g < cpu_lora_groups(rank); g++)
                lora_fetch_units(fetch, &use->layout.part[m].b[g], use->lora->pieces, s->tile[i],
                                 count);
        }
    }
    lora_fetch_within(fetch, job->blocks * walk->way->fetch_steps(tokens));
}

/* This worker's share of the next op's A, while it multiplies all strips of this one. */
static inline void fetch_next(const linear_walk *walk, uint32_t units, uint32_t worker,
                              uint32_t workers, lora_fetch *fetch) {
    const linear_job *job = walk->job;
    uint32_t strips = (units * job->unit_tiles + STRIP_TILES - 1) / STRIP_TILES;
    uint32_t steps = strips * job->blocks * walk->way->fetch_steps(job->op->token_count);
    lora_fetch_clear(fetch);
    job->dev->level->lora_fetch_next(job, worker, workers, fetch);
    lora_fetch_within(fetch, steps ? steps : 1);
}

static inline void fetch_ahead(linear_ahead *ahead) {
    lora_fetch_step(&ahead->strip);
    lora_fetch_step(&ahead->next);
}

/* --- the walk ---------------------------------------------------------------------------- */

/* Units begin .. end. */
static inline void walk_strips(const linear_walk *walk, uint32_t base, uint32_t tokens,
                               uint32_t begin, uint32_t end, linear_ahead *ahead,
                               cpu_scratch *scratch) {
    const linear_job *job = walk->job;
    for (uint32_t unit = begin; unit < end; unit += STRIP_TILES / job->unit_tiles) {
        strip s = strip_at(job, unit, end, STRIP_TILES);
        if (ahead) fetch_strip(walk, &s, base, tokens, &ahead->strip);
        walk->way->multiply(job, &s, base, tokens, ahead, scratch);
        finish(job, &s, base, tokens, scratch->sums[0], STRIP_ROWS);
    }
}

static inline void walk_few(void *arg, uint32_t worker, uint32_t workers) {
    const linear_walk *walk = arg;
    const linear_job *job = walk->job;
    uint32_t begin, end;
    if (job->lora) {
        job->dev->level->lora_shrink(job, worker, workers);
        pool_barrier(job->dev->pool, worker);
    }
    pool_share(job->units, 1, worker, workers, &begin, &end);
    walk_strips(walk, 0, job->op->token_count, begin, end, NULL, &job->dev->scratch[worker]);
}

static inline void walk_many(void *arg, uint32_t worker, uint32_t workers) {
    const linear_walk *walk = arg;
    const linear_job *job = walk->job;
    uint32_t total = job->op->token_count, begin, end, mine, mine_end;
    bool fetches = job->lora && walk->way->fetch_steps;
    linear_ahead ahead;
    pool_share(job->units, 1, worker, workers, &begin, &end);
    if (job->lora) job->dev->level->lora_shrink(job, worker, workers);
    if (fetches) fetch_next(walk, end - begin, worker, workers, &ahead.next);
    for (uint32_t base = 0; base < total; base += CHUNK_TOKENS) {
        uint32_t tokens = total - base < CHUNK_TOKENS ? total - base : CHUNK_TOKENS;
        pool_share(tokens, 1, worker, workers, &mine, &mine_end);
        walk->way->take_inputs(job, base, tokens, mine, mine_end);
        pool_barrier(job->dev->pool, worker);
        walk_strips(walk, base, tokens, begin, end,
                    fetches && tokens > walk->way->few_tokens ? &ahead : NULL,
                    &job->dev->scratch[worker]);
        pool_barrier(job->dev->pool, worker); /* before the inputs are overwritten */
    }
}

static inline void linear_run(kern_device *dev, const kern_linear *op, const linear_way *way) {
    linear_job job = job_of(dev, op);
    linear_walk walk = {&job, way};
    bool few = op->token_count <= way->few_tokens;
    if (few) way->take_inputs(&job, 0, op->token_count, 0, op->token_count);
    pool_run(dev->pool, few ? walk_few : walk_many, &walk);
}

#endif
