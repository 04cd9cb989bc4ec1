/* bench_gpu_rates.c - what the device can do at most: copy its memory, multiply bf16 with mma.sync. */
// SPDX-License-Identifier: Apache-2.0
#include "bench/gpu/bench_gpu.h"
#include "bench/gpu/gpu_rates.h"

enum { COPY_BYTES = 1 << 30, COPY_BYTES_SMOKE = 1 << 16 };
enum { MMA_ROUNDS = 4096, MMA_ROUNDS_SMOKE = 2, MMA_BLOCKS_OF_A_PROCESSOR = 4 };

typedef struct copy_case {
    void *from, *to;
    size_t bytes;
} copy_case;

static void copy_work(const gpu_lab *lab, void *arg) {
    copy_case *c = arg;
    GPU_CHECK(cudaMemcpyAsync(c->to, c->from, c->bytes, cudaMemcpyDeviceToDevice, lab->stream));
}

/* What is read and what is written both count. */
static void measure_copy(gpu_lab *lab) {
    copy_case c = {.bytes = lab->smoke ? COPY_BYTES_SMOKE : COPY_BYTES};
    c.from = gpu_alloc_filled(lab, c.bytes);
    c.to = gpu_alloc(lab, c.bytes);
    double seconds = gpu_seconds(lab, copy_work, &c);
    lab->copy_bytes_per_s = 2 * (double)c.bytes / seconds;
    gpu_print(&(gpu_row){.bench = "rate",
                         .of = "copy",
                         .us = seconds * 1e6,
                         .value = lab->copy_bytes_per_s * 1e-9,
                         .unit = "GB/s"});
    gpu_free(lab, c.from, c.bytes);
    gpu_free(lab, c.to, c.bytes);
}

typedef struct mma_case {
    uint32_t blocks, rounds;
    float *out;
} mma_case;

static void mma_work(const gpu_lab *lab, void *arg) {
    mma_case *c = arg;
    GPU_CHECK(gpu_mma(c->blocks, c->rounds, c->out, lab->stream));
}

static void measure_mma(gpu_lab *lab) {
    mma_case c = {.blocks = lab->smoke ? 1 : lab->processors * MMA_BLOCKS_OF_A_PROCESSOR,
                  .rounds = lab->smoke ? MMA_ROUNDS_SMOKE : MMA_ROUNDS};
    size_t bytes = (size_t)c.blocks * MMA_WARPS * 32 * sizeof(float);
    c.out = gpu_alloc(lab, bytes);
    double seconds = gpu_seconds(lab, mma_work, &c);
    double flops = (double)c.blocks * MMA_WARPS * MMA_TILES * c.rounds * MMA_FLOPS;
    lab->mma_flop_per_s = flops / seconds;
    gpu_print(&(gpu_row){.bench = "rate",
                         .of = "mma.sync bf16",
                         .us = seconds * 1e6,
                         .value = lab->mma_flop_per_s * 1e-12,
                         .unit = "TFLOP/s"});
    gpu_free(lab, c.out, bytes);
}

void bench_gpu_rates(gpu_lab *lab) {
    measure_copy(lab);
    measure_mma(lab);
}
