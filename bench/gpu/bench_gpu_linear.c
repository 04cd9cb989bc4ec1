/* bench_gpu_linear.c - the linears of a layer. Decode should take as long as reading the weights, prefill as long
 * as multiplying. Weights come from memory, not from the cache: there are matrices enough to fill the L2
 * several times, used in turn. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>

#include "bench/gpu/bench_gpu.h"
#include "bench/gpu/gpu_linears.h"

enum { DECODE_MAX = 64, TOKENS_SMOKE = 20 };
static const uint32_t COUNTS[] = {1, 2, 4, 8, 16, 2048};
enum { COUNT = sizeof COUNTS / sizeof *COUNTS };

typedef struct linear_case {
    const gpu_linears *linears;
    uint32_t part;
} linear_case;

static void linear_work(const gpu_lab *lab, void *arg) {
    const linear_case *c = arg;
    for (uint32_t copy = 0; copy < c->linears->copies; copy++)
        kern_cuda.linear(lab->dev, &c->linears->op[c->part][copy]);
}

typedef struct sums {
    double seconds, bytes, flops;
} sums;

static void print_row(const gpu_lab *lab, const synthetic_shape *s, const char *name,
                      esp_dtype dtype, uint32_t tokens, const sums *sum, bool whole) {
    bool prefill = tokens > DECODE_MAX;
    double bar = prefill ? 0.60 : dtype != DT_BF16 ? 0.80 : tokens == 1 ? 0.85 : 0;
    char of[96];
    snprintf(of, sizeof of, "%s %s", s->name, name);
    gpu_print(&(gpu_row){.bench = "linear",
                         .of = of,
                         .format = dtype_info(dtype)->name,
                         .tokens = tokens,
                         .us = sum->seconds * 1e6,
                         .value = prefill ? sum->flops / sum->seconds / lab->mma_flop_per_s
                                          : sum->bytes / sum->seconds / lab->copy_bytes_per_s,
                         .unit = prefill ? "of the mma rate" : "of copy bandwidth",
                         .bar = whole ? bar : 0});
}

/* The parts one by one, then their sum, which has the bar. */
static void measure_count(const gpu_lab *lab, const synthetic_shape *shape, esp_dtype dtype,
                          gpu_linears *linears, uint32_t tokens) {
    sums all = {0};
    gpu_linears_tokens(linears, tokens);
    for (uint32_t p = 0; p < GPU_LINEAR_PARTS; p++) {
        const gpu_linear_part *part = &linears->part[p];
        linear_case c = {linears, p};
        sums one = {.seconds = gpu_seconds(lab, linear_work, &c) / linears->copies,
                    .bytes = linears->bytes[p],
                    .flops = 2.0 * gpu_linear_rows(part) * part->cols * tokens};
        all.seconds += one.seconds;
        all.bytes += one.bytes;
        all.flops += one.flops;
        print_row(lab, shape, part->name, dtype, tokens, &one, false);
    }
    print_row(lab, shape, "layer", dtype, tokens, &all, true);
}

static void measure_shape(const gpu_lab *lab, const synthetic_shape *shape, esp_dtype dtype) {
    static gpu_linears linears;
    uint32_t tokens_max = lab->smoke ? TOKENS_SMOKE : GPU_TOKENS_MAX;
    gpu_linears_make(lab, shape, dtype, tokens_max, lab->smoke, &linears);
    for (int n = 0; n < COUNT; n++)
        if (!lab->smoke || n == 0) measure_count(lab, shape, dtype, &linears, COUNTS[n]);
    gpu_linears_drop(lab, &linears);
}

void bench_gpu_linear(gpu_lab *lab) {
    for (uint32_t i = 0; bench_gpu_shape(lab, i); i++) {
        measure_shape(lab, bench_gpu_shape(lab, i), DT_BF16);
        measure_shape(lab, bench_gpu_shape(lab, i), DT_Q4_K);
    }
}
