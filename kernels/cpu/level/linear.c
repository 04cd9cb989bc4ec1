/* linear.c - y[t,:] = W x[t,:] (+ bias), then the epilogue.
 *
 * In     x [T,K] bf16; up to three packed matrices [N,K]; bias [N] f32 or NULL
 * Out    STORE, RESIDUAL, SOFTCAP: [T, sum of N] f32; gated: [T,N] bf16; GELU: [T, sum of N] bf16
 * Temp   x as float32, CHUNK_TOKENS at a time, shared by the workers; sums of one strip per worker
 * Work   split over tiles of 16 rows, statically: one worker computes an output, always by the
 * chain of cpu.h, so neither T nor the thread count changes a bit Cost   T <= 4 reads each weight
 * once from memory: bandwidth bound; from about T = 16 on bound by FMA. Bar: bench/bench_linear.c
 */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "kernels/cpu/level/linear_job.h"

/* --- few tokens -------------------------------------------------------------------------- */

static void strip_fused(const linear_job *job, const strip *s, uint32_t tokens,
                        cpu_scratch *scratch) {
    tile_run run = run_of(job, s, tokens);
    for (uint32_t first = 0, count; first < s->count; first += count) {
        count = take_alike(job, s, first, &run);
        esp_dtype dtype = format_of(job, s, first);
        LEVEL_NAME(tiles_fused)(dtype, &run, first, count, tokens, scratch->sums);
    }
}

/* --- many tokens ------------------------------------------------------------------------- */

static void strip_blocked(const linear_job *job, const strip *s, uint32_t tokens,
                          cpu_scratch *scratch) {
    tile_run run = run_of(job, s, tokens);
    memset(scratch->sums, 0, tokens * sizeof scratch->sums[0]);
    for (uint32_t first = 0, count; first < s->count; first += count) {
        count = take_alike(job, s, first, &run);
        esp_dtype dtype = format_of(job, s, first);
        LEVEL_NAME(tiles_blocked)(dtype, &run, first, count, tokens, scratch);
    }
}

/* --- the op ------------------------------------------------------------------------------ */

static void few_tokens(void *arg, uint32_t worker, uint32_t workers) {
    const linear_job *job = arg;
    cpu_scratch *scratch = &job->dev->scratch[worker];
    uint32_t tokens = job->op->token_count, begin, end;
    pool_share(job->units, 1, worker, workers, &begin, &end);
    for (uint32_t unit = begin; unit < end; unit += STRIP_TILES / job->unit_tiles) {
        strip s = strip_at(job, unit, end, STRIP_TILES);
        strip_fused(job, &s, tokens, scratch);
        finish(job, &s, 0, tokens, scratch->sums[0], STRIP_ROWS);
    }
}

static void many_tokens(void *arg, uint32_t worker, uint32_t workers) {
    const linear_job *job = arg;
    cpu_scratch *scratch = &job->dev->scratch[worker];
    uint32_t total = job->op->token_count, begin, end, mine, mine_end;
    pool_share(job->units, 1, worker, workers, &begin, &end);
    for (uint32_t base = 0; base < total; base += CHUNK_TOKENS) {
        uint32_t tokens = total - base < CHUNK_TOKENS ? total - base : CHUNK_TOKENS;
        pool_share(tokens, 1, worker, workers, &mine, &mine_end);
        expand_tokens(job, base, tokens, mine, mine_end);
        pool_barrier(job->dev->pool, worker);
        for (uint32_t unit = begin; unit < end; unit += STRIP_TILES / job->unit_tiles) {
            strip s = strip_at(job, unit, end, STRIP_TILES);
            strip_blocked(job, &s, tokens, scratch);
            finish(job, &s, base, tokens, scratch->sums[0], STRIP_ROWS);
        }
        pool_barrier(job->dev->pool, worker); /* before the inputs are overwritten */
    }
}

void LEVEL_NAME(level_linear)(kern_device *dev, const kern_linear *op) {
    linear_job job = job_of(dev, op);
    if (job.lora) LEVEL_NAME(lora_shrink)(dev, op);
    if (op->token_count > FUSED_TOKENS) {
        pool_run(dev->pool, many_tokens, &job);
        return;
    }
    expand_tokens(&job, 0, op->token_count, 0, op->token_count);
    pool_run(dev->pool, few_tokens, &job);
}
