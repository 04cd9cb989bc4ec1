/* gpu_lab.h - an opened CUDA device, its memory, and how long something takes on it. For benches: what fails
 * ends the program with a sentence.
 *
 * Time is the device's own, between two events; the median of several runs counts. gpu_seconds captures the
 * work into a graph, so that the host's share is not in it; gpu_step_seconds has the backend do that, as it
 * does for the engine. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_GPU_LAB_H
#define ESPALIER_GPU_LAB_H

#include <cuda_runtime_api.h>
#include <stdbool.h>

#include "engine/base/pool.h"
#include "kernels/kernels.h"

typedef struct gpu_lab {
    kern_device *dev; /* of kern_cuda */
    thread_pool *pool;
    cudaStream_t stream; /* the device's */
    uint64_t l2_bytes;
    uint32_t index, processors;
    bool smoke; /* the smallest of everything: whether it runs, not how fast */
    double copy_bytes_per_s, mma_flop_per_s; /* once measured (bench_gpu_rates.c) */
} gpu_lab;

_Noreturn void gpu_die(const char *what, const char *why);
/* A CUDA call's result. */
#define GPU_CHECK(call) gpu_check((int)(call), #call)
void gpu_check(int error, const char *call);
/* An esp_code with its error. */
void gpu_expect(esp_code code, const esp_error *err);

gpu_lab gpu_lab_open(uint32_t index, uint32_t tokens_max, bool smoke);
/* With pages of another kind than bf16. */
gpu_lab gpu_lab_open_kv(esp_dtype kv_dtype, uint32_t index, uint32_t tokens_max, bool smoke);
void gpu_lab_close(gpu_lab *lab);

/* Device memory of the backend, filled with bf16 or float32 values about 1. */
void *gpu_alloc(const gpu_lab *lab, size_t bytes);
void *gpu_alloc_filled(const gpu_lab *lab, size_t bytes);
void gpu_free(const gpu_lab *lab, void *memory, size_t bytes);

/* Enqueues work on the lab's stream. */
typedef void (*gpu_work)(const gpu_lab *lab, void *arg);
/* Seconds of one run of it; its ops read no host arrays. */
double gpu_seconds(const gpu_lab *lab, gpu_work work, void *arg);
/* The same for the ops of a step: always the same ones of a lab, for it remembers them. */
double gpu_step_seconds(const gpu_lab *lab, const kern_step *step, gpu_work work, void *arg);
/* Microseconds that the host is busy with such a step, the device being idle before. */
double gpu_step_host_us(const gpu_lab *lab, const kern_step *step, gpu_work work, void *arg);

/* One row of results on stdout, as JSON: the figure, and what it must reach where there is a bar (0: none). */
typedef struct gpu_row {
    const char *bench, *of; /* "linear", "llama-3.1-8b gate_up" */
    const char *format;     /* "bf16"; or "" */
    uint32_t tokens;        /* or 0 */
    double us;              /* of one; 0: it is no time */
    double value;
    const char *unit; /* "of copy bandwidth", "TFLOP/s" */
    double bar;
    bool at_most; /* the bar is an upper one */
} gpu_row;
void gpu_print(const gpu_row *row);

#endif
