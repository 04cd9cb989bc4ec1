/* linear.c - y[t,:] = W x[t,:] (+ bias), then the epilogue, of weights whose codes are no whole numbers.
 *
 * In     x [T,K] bf16; up to three packed matrices [N,K]; bias [N] f32 or NULL
 * Out    STORE, RESIDUAL, SOFTCAP: [T, sum of N] f32; gated: [T,N] bf16; GELU: [T, sum of N] bf16
 * Temp   x as float32, CHUNK_TOKENS at a time, shared by the workers; sums of one strip per worker
 * Work   split over tiles of 16 rows, statically: one worker computes an output, always by the chain of cpu.h, so
 *        neither T nor the thread count changes a bit
 * Cost   T <= 4 reads each weight once from memory: bandwidth bound; from about T = 16 on bound by FMA. Bar:
 *        bench/bench_linear.c
 */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/level/linear_job.h"

void LEVEL_NAME(level_tiles)(const linear_job *job, const strip *s, uint32_t first, uint32_t count,
                             uint32_t tokens, cpu_scratch *scratch) {
    tile_run run = run_of(job, s, tokens);
    for (uint32_t end = first + count, some; first < end; first += some) {
        esp_dtype dtype = format_of(job, s, first);
        some = take_alike(job, s, first, &run);
        if (some > end - first) some = end - first;
        tile_watch(run.inputs, (size_t)run.blocks * tokens, TILE_COLS * sizeof *run.inputs);
        if (tokens > FUSED_TOKENS)
            LEVEL_NAME(tiles_blocked)(dtype, &run, first, some, tokens, scratch);
        else
            LEVEL_NAME(tiles_fused)(dtype, &run, first, some, tokens, scratch->sums);
    }
}

/* The strips of units begin .. end, and the tokens base .. base + tokens. */
static void chunk(const linear_job *job, uint32_t base, uint32_t tokens, uint32_t begin,
                  uint32_t end, cpu_scratch *scratch) {
    for (uint32_t unit = begin; unit < end; unit += STRIP_TILES / job->unit_tiles) {
        strip s = strip_at(job, unit, end, STRIP_TILES);
        LEVEL_NAME(level_tiles)(job, &s, 0, s.count, tokens, scratch);
        finish(job, &s, base, tokens, scratch->sums[0], STRIP_ROWS);
    }
}

static void few_tokens(void *arg, uint32_t worker, uint32_t workers) {
    const linear_job *job = arg;
    uint32_t begin, end;
    pool_share(job->units, 1, worker, workers, &begin, &end);
    chunk(job, 0, job->op->token_count, begin, end, &job->dev->scratch[worker]);
}

static void many_tokens(void *arg, uint32_t worker, uint32_t workers) {
    const linear_job *job = arg;
    uint32_t total = job->op->token_count, begin, end, mine, mine_end;
    pool_share(job->units, 1, worker, workers, &begin, &end);
    for (uint32_t base = 0; base < total; base += CHUNK_TOKENS) {
        uint32_t tokens = total - base < CHUNK_TOKENS ? total - base : CHUNK_TOKENS;
        pool_share(tokens, 1, worker, workers, &mine, &mine_end);
        expand_tokens(job, base, tokens, mine, mine_end);
        pool_barrier(job->dev->pool, worker);
        chunk(job, base, tokens, begin, end, &job->dev->scratch[worker]);
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
