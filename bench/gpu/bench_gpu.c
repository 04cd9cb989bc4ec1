/* bench_gpu.c - what the CUDA backend reaches on this device, one JSON row a figure.
 *
 *   bench_gpu [--smoke] [--device N] [PART...]      parts: rates linear attention lora model; all by default
 *
 * A row has what was measured, its bar where there is one (at_least, at_most) and whether it is met. Weights are
 * random and made here: nothing is read. --smoke: the smallest of everything, so that the tests run it on the
 * emulated device too, where its times say nothing. */
// SPDX-License-Identifier: Apache-2.0
#include "bench/gpu/bench_gpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

static const char *const SHAPES[GPU_SHAPES_MAX] = {"llama-3.1-8b", "llama-3.2-1b", "gemma-2-9b"};
#define SMALL_SHAPE                                                                                \
    .hidden = 256, .heads = 4, .kv_heads = 2, .head_dim = 64, .intermediate = 256, .vocab = 512,   \
    .context = 512, .theta = 1e4, .norm_eps = 1e-5, .tied = true
static const synthetic_shape SMALL[] = {
    {.name = "small llama", .family = &family_llama, .layers = 1, SMALL_SHAPE},
    {.name = "small gemma",
     .family = &family_gemma2,
     .layers = 2,
     SMALL_SHAPE,
     .more = "{\"hidden_activation\": \"gelu_pytorch_tanh\", \"query_pre_attn_scalar\": 64, "
             "\"sliding_window\": 24, \"attn_logit_softcapping\": 50.0, "
             "\"final_logit_softcapping\": 30.0}"}};

const synthetic_shape *bench_gpu_shape(const gpu_lab *lab, uint32_t index) {
    const synthetic_shape *shape = NULL;
    esp_error err = {0};
    if (lab->smoke) return index < sizeof SMALL / sizeof *SMALL ? &SMALL[index] : NULL;
    if (index >= GPU_SHAPES_MAX) return NULL;
    gpu_expect(synthetic_find(SHAPES[index], &shape, &err), &err);
    return shape;
}

static const struct {
    const char *name;
    void (*run)(gpu_lab *lab);
} parts[] = {
    {"linear", bench_gpu_linear},
    {"attention", bench_gpu_attention},
    {"lora", bench_gpu_lora},
    {"model", bench_gpu_model},
};
enum { PARTS = sizeof parts / sizeof *parts };

static void print_device(const gpu_lab *lab) {
    struct cudaDeviceProp p;
    GPU_CHECK(cudaGetDeviceProperties(&p, (int)lab->index));
    printf("{\"bench\":\"device\",\"name\":\"%s\",\"sm\":\"%d%d\",\"processors\":%d,"
           "\"memory_gib\":%.1f,\"l2_mib\":%.1f,\"profile\":\"%s\"}\n",
           p.name, p.major, p.minor, p.multiProcessorCount, (double)p.totalGlobalMem / 0x1p30,
           (double)p.l2CacheSize / 0x1p20, kern_cuda.profile(lab->dev));
}

_Noreturn static void usage(void) {
    fprintf(stderr, "usage: bench_gpu [--smoke] [--device N] [rates|linear|attention|lora|model]"
                    "...\n");
    exit(EX_USAGE);
}

/* Whether a part was asked for. */
static bool wants(int argc, char **argv, int first, const char *name) {
    for (int i = first; i < argc; i++)
        if (!strcmp(argv[i], name)) return true;
    return first >= argc;
}

static void check_parts(int argc, char **argv, int first) {
    for (int i = first; i < argc; i++) {
        bool known = !strcmp(argv[i], "rates");
        for (int p = 0; p < PARTS; p++)
            known = known || !strcmp(argv[i], parts[p].name);
        if (!known) usage();
    }
}

int main(int argc, char **argv) {
    bool smoke = false;
    uint32_t device = 0;
    int first = 1;
    for (; first < argc && argv[first][0] == '-'; first++) {
        if (!strcmp(argv[first], "--smoke"))
            smoke = true;
        else if (!strcmp(argv[first], "--device") && first + 1 < argc)
            device = (uint32_t)strtoul(argv[++first], NULL, 10);
        else
            usage();
    }
    check_parts(argc, argv, first);
    gpu_lab lab = gpu_lab_open(device, GPU_TOKENS_MAX, smoke);
    print_device(&lab);
    bench_gpu_rates(&lab);
    for (int p = 0; p < PARTS; p++)
        if (wants(argc, argv, first, parts[p].name)) parts[p].run(&lab);
    gpu_lab_close(&lab);
    return 0;
}
