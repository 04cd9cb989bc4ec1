/* bench_gpu.h - the parts of the benchmark, one a file. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_BENCH_GPU_H
#define ESPALIER_BENCH_GPU_H

#include "bench/gpu/gpu_lab.h"
#include "engine/model/synthetic/synthetic.h"

enum { GPU_SHAPES_MAX = 3, GPU_TOKENS_MAX = 2048 };

/* The shapes that are measured; in a smoke run small ones. NULL at the end. */
const synthetic_shape *bench_gpu_shape(const gpu_lab *lab, uint32_t index);

/* Copy bandwidth and the rate of mma.sync, which the other parts are held to; goes first. */
void bench_gpu_rates(gpu_lab *lab);
/* Each linear of a layer: decode as a share of copy bandwidth, prefill of the mma rate. */
void bench_gpu_linear(gpu_lab *lab);
/* Decode over long contexts, prefill. */
void bench_gpu_attention(gpu_lab *lab);
/* A layer's linears with 32 adapters, with none, and without support for them. */
void bench_gpu_lora(gpu_lab *lab);
/* Whole models: a decode step, and what it costs the host. */
void bench_gpu_model(gpu_lab *lab);

#endif
