/* gpu_lab.c - opening the device, and timing what runs on it. */
// SPDX-License-Identifier: Apache-2.0
#include "bench/gpu/gpu_lab.h"

#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>

#include "bench/gpu/gpu_rates.h"
#include "engine/base/clock.h"
#include "kernels/cuda/cuda_device.h"

enum { RUNS = 7, RUNS_SMOKE = 1, WARM_STEPS = 3 };
static const double RUN_SECONDS = 0.05; /* between two events, about */

void gpu_die(const char *what, const char *why) {
    fprintf(stderr, "bench_gpu: %s: %s\n", what, why);
    exit(EX_SOFTWARE);
}

void gpu_check(int error, const char *call) {
    if (error) gpu_die(call, cudaGetErrorString((cudaError_t)error));
}

void gpu_expect(esp_code code, const esp_error *err) {
    if (code) gpu_die(esp_code_name(code), err->message);
}

gpu_lab gpu_lab_open_kv(esp_dtype kv_dtype, uint32_t index, uint32_t tokens_max, bool smoke) {
    gpu_lab lab = {.smoke = smoke, .index = index};
    esp_error err = {0};
    int l2 = 0, processors = 0;
    gpu_expect(pool_open(&lab.pool, smoke ? 1 : 0, &err), &err);
    kern_options options = {
        .pool = lab.pool, .kv_dtype = kv_dtype, .tokens_max = tokens_max, .index = index};
    gpu_expect(kern_cuda.open(&lab.dev, &options, &err), &err);
    lab.stream = lab.dev->stream;
    GPU_CHECK(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, (int)index));
    GPU_CHECK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, (int)index));
    lab.l2_bytes = (uint64_t)l2;
    lab.processors = (uint32_t)processors;
    return lab;
}

gpu_lab gpu_lab_open(uint32_t index, uint32_t tokens_max, bool smoke) {
    return gpu_lab_open_kv(DT_BF16, index, tokens_max, smoke);
}

void gpu_lab_close(gpu_lab *lab) {
    kern_cuda.close(lab->dev);
    pool_close(lab->pool);
}

/* ---- memory ---- */

void *gpu_alloc(const gpu_lab *lab, size_t bytes) {
    void *memory;
    esp_error err = {0};
    gpu_expect(kern_cuda.alloc(lab->dev, bytes, &memory, &err), &err);
    return memory;
}

void *gpu_alloc_filled(const gpu_lab *lab, size_t bytes) {
    void *memory = gpu_alloc(lab, bytes);
    GPU_CHECK(gpu_fill(memory, bytes / sizeof(uint32_t), (uint32_t)bytes, lab->stream));
    return memory;
}

void gpu_free(const gpu_lab *lab, void *memory, size_t bytes) {
    kern_cuda.release(lab->dev, memory, bytes);
}

/* ---- time ---- */

typedef struct timing {
    gpu_work run; /* enqueues it once */
    void *arg;
} timing;

/* Seconds of `count` runs. */
static double timed(const gpu_lab *lab, const timing *t, uint32_t count) {
    cudaEvent_t begin, end;
    float ms = 0;
    GPU_CHECK(cudaEventCreate(&begin));
    GPU_CHECK(cudaEventCreate(&end));
    GPU_CHECK(cudaEventRecord(begin, lab->stream));
    for (uint32_t i = 0; i < count; i++)
        t->run(lab, t->arg);
    GPU_CHECK(cudaEventRecord(end, lab->stream));
    GPU_CHECK(cudaEventSynchronize(end));
    GPU_CHECK(cudaEventElapsedTime(&ms, begin, end));
    GPU_CHECK(cudaEventDestroy(begin));
    GPU_CHECK(cudaEventDestroy(end));
    return (double)ms * 1e-3;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, by_size);
    return values[count / 2];
}

static double median_seconds(const gpu_lab *lab, const timing *t) {
    double seconds[RUNS];
    int runs = lab->smoke ? RUNS_SMOKE : RUNS;
    double once = timed(lab, t, 1);
    uint32_t count = lab->smoke || once > RUN_SECONDS ? 1 : (uint32_t)(RUN_SECONDS / (once + 1e-6));
    for (int i = 0; i < runs; i++)
        seconds[i] = timed(lab, t, count) / count;
    return median(seconds, runs);
}

static void sync(const gpu_lab *lab) {
    esp_error err = {0};
    gpu_expect(kern_cuda.sync(lab->dev, &err), &err);
}

static void launch(const gpu_lab *lab, void *arg) {
    cudaGraphExec_t *graph = arg;
    GPU_CHECK(cudaGraphLaunch(*graph, lab->stream));
}

double gpu_seconds(const gpu_lab *lab, gpu_work work, void *arg) {
    cudaGraph_t graph;
    cudaGraphExec_t launchable;
    work(lab, arg); /* workspaces grow, code is loaded */
    sync(lab);
    GPU_CHECK(cudaStreamBeginCapture(lab->stream, cudaStreamCaptureModeThreadLocal));
    work(lab, arg);
    GPU_CHECK(cudaStreamEndCapture(lab->stream, &graph));
    GPU_CHECK(cudaGraphInstantiate(&launchable, graph, 0));
    launch(lab, &launchable);
    double seconds = median_seconds(lab, &(timing){launch, &launchable});
    GPU_CHECK(cudaGraphExecDestroy(launchable));
    GPU_CHECK(cudaGraphDestroy(graph));
    sync(lab);
    return seconds;
}

typedef struct step_case {
    const kern_step *step;
    gpu_work work;
    void *arg;
} step_case;

static void run_step(const gpu_lab *lab, void *arg) {
    step_case *c = arg;
    do
        if (kern_cuda.step_begin(lab->dev, c->step)) c->work(lab, c->arg);
    while (!kern_cuda.step_end(lab->dev));
}

static void warm_up(const gpu_lab *lab, step_case *c) {
    for (int i = 0; i < WARM_STEPS; i++)
        run_step(lab, c);
    sync(lab);
}

double gpu_step_seconds(const gpu_lab *lab, const kern_step *step, gpu_work work, void *arg) {
    step_case c = {step, work, arg};
    warm_up(lab, &c);
    double seconds = median_seconds(lab, &(timing){run_step, &c});
    sync(lab);
    return seconds;
}

double gpu_step_host_us(const gpu_lab *lab, const kern_step *step, gpu_work work, void *arg) {
    enum { STEPS = 21 };
    double us[STEPS];
    int steps = lab->smoke ? 1 : STEPS;
    step_case c = {step, work, arg};
    warm_up(lab, &c);
    for (int i = 0; i < steps; i++) {
        int64_t begin = clock_now_ns();
        run_step(lab, &c);
        us[i] = (double)(clock_now_ns() - begin) * 1e-3;
        sync(lab);
    }
    return median(us, steps);
}

/* ---- rows ---- */

void gpu_print(const gpu_row *r) {
    printf("{\"bench\":\"%s\",\"of\":\"%s\"", r->bench, r->of);
    if (r->format && r->format[0]) printf(",\"format\":\"%s\"", r->format);
    if (r->tokens) printf(",\"tokens\":%u", r->tokens);
    if (r->us > 0) printf(",\"us\":%.2f", r->us);
    printf(",\"value\":%.6g,\"unit\":\"%s\"", r->value, r->unit);
    if (r->bar > 0)
        printf(",\"%s\":%.6g,\"met\":%s", r->at_most ? "at_most" : "at_least", r->bar,
               (r->at_most ? r->value <= r->bar : r->value >= r->bar) ? "true" : "false");
    printf("}\n");
    fflush(stdout);
}
