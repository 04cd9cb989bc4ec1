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
#include "kernels/cpu/level/linear_walk.h"

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

static void multiply(const linear_job *job, const strip *s, uint32_t base, uint32_t tokens,
                     linear_ahead *ahead, cpu_scratch *scratch) {
    (void)base, (void)ahead;
    LEVEL_NAME(level_tiles)(job, s, 0, s->count, tokens, scratch);
}

void LEVEL_NAME(level_linear)(kern_device *dev, const kern_linear *op) {
    static const linear_way way = {FUSED_TOKENS, expand_tokens, NULL, multiply};
    linear_run(dev, op, &way);
}
