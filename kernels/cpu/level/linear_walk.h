/* linear_walk.h - a linear over its tokens and strips: all workers make inputs ready, then each multiplies its strips.
 *
 * A few tokens are made ready by the caller's thread: that takes less than a barrier. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_LINEAR_WALK_H
#define ESPALIER_LINEAR_WALK_H

#include "kernels/cpu/level/linear_job.h"

typedef struct linear_way {
    uint32_t few_tokens;
    /* Tokens base + begin .. base + end of the op, of `rows` that are computed together. */
    void (*take_inputs)(const linear_job *job, uint32_t base, uint32_t rows, uint32_t begin,
                        uint32_t end);
    /* Tokens base .. base + tokens of the op, rows 0 .. tokens of the chunk; to scratch->sums. */
    void (*multiply)(const linear_job *job, const strip *s, uint32_t base, uint32_t tokens,
                     cpu_scratch *scratch);
} linear_way;

typedef struct linear_walk {
    const linear_job *job;
    const linear_way *way;
} linear_walk;

/* Units begin .. end. */
static inline void walk_strips(const linear_walk *walk, uint32_t base, uint32_t tokens,
                               uint32_t begin, uint32_t end, cpu_scratch *scratch) {
    const linear_job *job = walk->job;
    for (uint32_t unit = begin; unit < end; unit += STRIP_TILES / job->unit_tiles) {
        strip s = strip_at(job, unit, end, STRIP_TILES);
        walk->way->multiply(job, &s, base, tokens, scratch);
        finish(job, &s, base, tokens, scratch->sums[0], STRIP_ROWS);
    }
}

static inline void walk_few(void *arg, uint32_t worker, uint32_t workers) {
    const linear_walk *walk = arg;
    const linear_job *job = walk->job;
    uint32_t begin, end;
    pool_share(job->units, 1, worker, workers, &begin, &end);
    walk_strips(walk, 0, job->op->token_count, begin, end, &job->dev->scratch[worker]);
}

static inline void walk_many(void *arg, uint32_t worker, uint32_t workers) {
    const linear_walk *walk = arg;
    const linear_job *job = walk->job;
    uint32_t total = job->op->token_count, begin, end, mine, mine_end;
    pool_share(job->units, 1, worker, workers, &begin, &end);
    for (uint32_t base = 0; base < total; base += CHUNK_TOKENS) {
        uint32_t tokens = total - base < CHUNK_TOKENS ? total - base : CHUNK_TOKENS;
        pool_share(tokens, 1, worker, workers, &mine, &mine_end);
        walk->way->take_inputs(job, base, tokens, mine, mine_end);
        pool_barrier(job->dev->pool, worker);
        walk_strips(walk, base, tokens, begin, end, &job->dev->scratch[worker]);
        pool_barrier(job->dev->pool, worker); /* before the inputs are overwritten */
    }
}

static inline void linear_run(kern_device *dev, const kern_linear *op, const linear_way *way) {
    linear_job job = job_of(dev, op);
    linear_walk walk = {&job, way};
    bool few = op->token_count <= way->few_tokens;
    if (job.lora) dev->level->lora_shrink(dev, op);
    if (few) way->take_inputs(&job, 0, op->token_count, 0, op->token_count);
    pool_run(dev->pool, few ? walk_few : walk_many, &walk);
}

#endif
