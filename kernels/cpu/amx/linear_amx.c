/* linear_amx.c - y[t,:] = W x[t,:] (+ bias) on AMX tiles, then the epilogue.
 *
 * In     x [T,K] bf16; up to three packed matrices [N,K]; bias [N] f32 or NULL
 * Out    STORE, RESIDUAL, SOFTCAP: [T, sum of N] f32; gated, GELU: [T, N] bf16
 * Temp   x as tiles, where it is not one in memory, shared by the workers: [planes][T / 16][K / 32];
 *        unpacked weights and sums of some tiles per worker
 * Work   split over tiles of 16 rows, statically; many tokens over these as well (panel_walk.c)
 * Shape  A is the weights, 16 rows x 32 columns; B is x, 16 pairs of columns x 16 tokens; so C is 16
 *        rows x 16 tokens. Weights are the rows of A because a row has one scale: 32 of them come out of
 *        a table in one permutation (unpack_amx.h).
 * Error  weights become bf16 (unpack_amx.h). An output is the sum over blocks of 32 columns in order, as tdpbf16ps
 *        adds up a block, and begins at 0. The order is the same at every T and thread count (Law 1):
 *        a column of C depends on its column of B alone, and between panels sums rest in memory as
 *        they are.
 * Ways   up to FEW_TOKENS: few_amx.c, bandwidth bound; more: many_amx.c, bound by the matrix unit
 * Cost   a multiplication takes 16 cycles whatever it holds; unpacking a block of codes of 4 bits about
 *        50, of 8 bits 80. Bar: bench/bench_linear.c
 * Source Intel 64 and IA-32 Architectures Optimization Reference Manual, chapter 20 */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/amx/linear_amx.h"

#include "kernels/cpu/amx/level_amx.h"
#include "kernels/cpu/amx/scratch_amx.h"
#include "kernels/cpu/level/linear_job.h"

void level_linear_amx(kern_device *dev, const kern_linear *op) {
    linear_job job = job_of(dev, op);
    job.lora_summed = true; /* lora_amx.h */
    pool_run(dev->pool, op->token_count > FEW_TOKENS ? amx_many_tokens : amx_few_tokens, &job);
}
