/* bench_linear.c - the linears of one model shape at several token counts; one JSON row each.
 *
 *   bench_linear [ref|avx2|avx512|amx][:int8] [THREADS] [TOKENS,TOKENS,...] [FORMAT|formats]
 *
 * The shape is SmolLM2-135M in Q4_1 with a Q8_0 output matrix; with FORMAT (Q4_K), or with `formats`
 * for each one in turn, a stack of matrices of that format instead. Every layer has matrices of its
 * own, so that weights come from where they come from in a real step. us: of one pass over all
 * layers, of one op or, in the row "all", of all ops in the order of a step; gb_per_s: packed weights read once;
 * gflop_per_s: two a weight and token. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>

#include "engine/base/clock.h"
#include "tests/unit/kernel_lab.h"

enum { HIDDEN = 576, KV = 192, INNER = 1536, VOCAB = 49152, LAYERS = 30, TOKENS_MAX = 1024 };
static const int64_t MEASURE_NS = 400000000;

typedef struct shape {
    const char *name;
    esp_dtype dtype;
    uint32_t rows[LINEAR_MATRICES_MAX], matrices, cols, layers;
    kern_epilogue epilogue;
} shape;

static const shape smollm2[] = {
    {"qkv", DT_Q4_1, {HIDDEN, KV, KV}, 3, HIDDEN, LAYERS, EPI_STORE},
    {"o", DT_Q4_1, {HIDDEN}, 1, HIDDEN, LAYERS, EPI_RESIDUAL},
    {"gate_up", DT_Q4_1, {INNER, INNER}, 2, HIDDEN, LAYERS, EPI_SILU_MUL},
    {"down", DT_Q4_1, {HIDDEN}, 1, INNER, LAYERS, EPI_RESIDUAL},
    {"head", DT_Q8_0, {VOCAB}, 1, HIDDEN, 1, EPI_STORE},
};
enum {
    SHAPES = sizeof smollm2 / sizeof smollm2[0],
    STACK_ROWS = 4096,
    STACK_COLS = 2048,
    STACK_LAYERS = 16,
    INPUT_MAX = STACK_COLS,
};
static const size_t OUTPUT_BYTES = (size_t)TOKENS_MAX * VOCAB * sizeof(float);

/* Far larger than the caches in every format. */
static shape stack_of(esp_dtype dtype) {
    return (shape){
        dtype_info(dtype)->name, dtype, {STACK_ROWS}, 1, STACK_COLS, STACK_LAYERS, EPI_STORE};
}

typedef struct model {
    const shape *shapes;
    uint32_t count;
    kern_linear ops[SHAPES][LAYERS];
    size_t bytes[SHAPES];
    void *in, *out;
} model;

static void build(const lab *l, model *m, const shape *shapes, uint32_t count) {
    *m = (model){.shapes = shapes, .count = count};
    m->in = lab_upload_random(l, KIND_ACT, 1, (size_t)TOKENS_MAX * INPUT_MAX);
    m->out = lab_alloc(l, OUTPUT_BYTES);
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t layer = 0; layer < shapes[i].layers; layer++) {
            kern_linear *op = &m->ops[i][layer];
            *op = (kern_linear){.in = m->in,
                                .out = m->out,
                                .epilogue = shapes[i].epilogue,
                                .matrix_count = shapes[i].matrices};
            for (uint32_t k = 0; k < shapes[i].matrices; k++) {
                kern_matrix_desc desc = {.dtype = shapes[i].dtype,
                                         .rows = shapes[i].rows[k],
                                         .cols = shapes[i].cols,
                                         .output = shapes[i].rows[k] == VOCAB};
                op->matrix[k] = lab_random_matrix(l, desc, layer * 8 + k);
                m->bytes[i] += l->ops->matrix_bytes(op->matrix[k]);
            }
        }
}

static void drop(const lab *l, model *m) {
    for (uint32_t i = 0; i < m->count; i++)
        for (uint32_t layer = 0; layer < m->shapes[i].layers; layer++)
            for (uint32_t k = 0; k < m->shapes[i].matrices; k++)
                l->ops->matrix_close(l->dev, (kern_matrix *)m->ops[i][layer].matrix[k]);
    lab_release(l, KIND_ACT, m->in, (size_t)TOKENS_MAX * INPUT_MAX);
    l->ops->release(l->dev, m->out, OUTPUT_BYTES);
}

static double flops(const shape *s) {
    double rows = 0;
    for (uint32_t k = 0; k < s->matrices; k++)
        rows += s->rows[k];
    return 2 * rows * s->cols * s->layers;
}

/* Rows of the output matrix are wanted of each sequence's last token; a prefill has one. */
static uint32_t rows_of(const shape *s, uint32_t tokens) {
    return s->rows[0] == VOCAB && tokens > 64 ? 1 : tokens;
}

static void run_layer(const lab *l, model *m, uint32_t shape_index, uint32_t layer,
                      uint32_t tokens) {
    kern_linear *op = &m->ops[shape_index][layer];
    op->token_count = rows_of(&m->shapes[shape_index], tokens);
    l->ops->linear(l->dev, op);
}

/* Layer after layer as a step does it, and behind them what is there once. */
static void run_pass(const lab *l, model *m, uint32_t first, uint32_t end, uint32_t tokens) {
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        for (uint32_t i = first; i < end; i++)
            if (m->shapes[i].layers > 1 && layer < m->shapes[i].layers)
                run_layer(l, m, i, layer, tokens);
    for (uint32_t i = first; i < end; i++)
        if (m->shapes[i].layers == 1) run_layer(l, m, i, 0, tokens);
}

static void sort(double *values, uint32_t count) {
    for (uint32_t i = 1; i < count; i++)
        for (uint32_t j = i; j > 0 && values[j] < values[j - 1]; j--) {
            double swap = values[j];
            values[j] = values[j - 1];
            values[j - 1] = swap;
        }
}

/* Microseconds of one pass over the layers of some shapes: the median of passes. */
static double time_shapes(const lab *l, model *m, uint32_t first, uint32_t end, uint32_t tokens) {
    enum { PASSES_MAX = 400 };
    double passes[PASSES_MAX];
    uint32_t count = 0;
    int64_t begin = clock_now_ns(), then = begin, now;
    do {
        run_pass(l, m, first, end, tokens);
        now = clock_now_ns();
        passes[count++] = (double)(now - then) / 1e3;
        then = now;
    } while (count < 3 || (count < PASSES_MAX && now - begin < MEASURE_NS));
    sort(passes, count);
    return passes[count / 2];
}

static void run(const lab *l, model *m, uint32_t tokens) {
    for (uint32_t i = 0; i < m->count; i++) {
        const shape *s = &m->shapes[i];
        uint32_t rows = rows_of(s, tokens);
        double us = time_shapes(l, m, i, i + 1, tokens);
        printf("{\"bench\":\"linear\",\"device\":\"%s\",\"threads\":%u,\"op\":\"%s\",\"tokens\":%u,"
               "\"us\":%.1f,\"gb_per_s\":%.1f,\"gflop_per_s\":%.1f}\n",
               l->ops->profile(l->dev), pool_threads(l->pool), s->name, rows, us,
               (double)m->bytes[i] / us / 1e3, flops(s) * rows / us / 1e3);
    }
    if (m->count > 1) {
        double us = time_shapes(l, m, 0, m->count, tokens);
        printf(
            "{\"bench\":\"linear\",\"device\":\"%s\",\"threads\":%u,\"op\":\"all\",\"tokens\":%u,"
            "\"us\":%.1f,\"tokens_per_s\":%.1f}\n",
            l->ops->profile(l->dev), pool_threads(l->pool), tokens, us, tokens / us * 1e6);
    }
    fflush(stdout);
}

static void run_counts(const lab *l, const shape *shapes, uint32_t count, const char *counts) {
    static model m;
    build(l, &m, shapes, count);
    while (*counts) {
        char *end;
        unsigned long tokens = strtoul(counts, &end, 10);
        if (tokens == 0 || tokens > TOKENS_MAX) break;
        run(l, &m, (uint32_t)tokens);
        counts = *end == ',' ? end + 1 : end;
    }
    drop(l, &m);
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "auto", *counts = argc > 3 ? argv[3] : "1,4,16,512";
    bool ref = strcmp(name, "ref") == 0;
    kern_level level = strncmp(name, "avx2", 4) == 0     ? LEVEL_AVX2
                       : strncmp(name, "avx512", 6) == 0 ? LEVEL_AVX512
                       : strncmp(name, "amx", 3) == 0    ? LEVEL_AMX
                                                         : LEVEL_AUTO;
    lab l = lab_open_for(strstr(name, ":int8") ? ACT_INT8 : ACT_BF16, ref ? &kern_ref : &kern_cpu,
                         level, ref ? DT_F32 : DT_BF16, argc > 2 ? (uint32_t)atoi(argv[2]) : 0);
    if (argc <= 4) run_counts(&l, smollm2, SHAPES, counts);
    for (esp_dtype d = DT_F32; argc > 4 && d < DT_COUNT; d++) {
        shape stack = stack_of(d);
        if (strcmp(argv[4], "formats") == 0 || strcmp(argv[4], stack.name) == 0)
            run_counts(&l, &stack, 1, counts);
    }
    lab_close(&l);
    return 0;
}
