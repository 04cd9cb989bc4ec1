/* bench_limits.c - espalier bench --roofline: what this machine can do with these threads. */
// SPDX-License-Identifier: Apache-2.0
#include <jansson.h>
#include <stdio.h>

#include "engine/base/mem.h"
#include "engine/commands/bench_parts.h"

/* Beyond every cache there is today. */
static const uint64_t BIG_BYTES = 1ull << 30;

/* As far as memory allows: a larger buffer than that is no nearer to the processor either. */
static uint64_t affordable(uint64_t bytes) {
    uint64_t allowed = mem_available() / 4;
    return bytes < allowed ? bytes : allowed;
}

static esp_code measure_memory(thread_pool *pool, bench_limits *out, progress *bar,
                               esp_error *err) {
    esp_code code = ESP_OK;
    if (out->weights_bytes) code = roofline_read(pool, out->weights_bytes, &out->weights_read, err);
    progress_step(bar, 1, RATE_COUNT + 3);
    if (code == ESP_OK) code = roofline_read(pool, out->big_bytes, &out->big_read, err);
    progress_step(bar, 2, RATE_COUNT + 3);
    if (code == ESP_OK) code = roofline_copy(pool, out->big_bytes, &out->big_copy, err);
    progress_step(bar, 3, RATE_COUNT + 3);
    return code;
}

esp_code bench_measure_limits(const bench_options *o, const model_cost *cost, bench_limits *out,
                              esp_error *err) {
    kern_level best = kern_cpu_best_level();
    if (best == LEVEL_AUTO)
        return esp_fail_field(err, ESP_PRECONDITION, "--roofline",
                              "--roofline: this processor or its system lacks AVX2, FMA, F16C or "
                              "BMI2, with which limits are measured");
    thread_pool *pool = NULL;
    esp_code code = pool_open(&pool, o->model.threads, err);
    if (code != ESP_OK) return code;
    progress bar = progress_begin("limits", "measurements");
    kern_level level = o->model.level == LEVEL_AUTO ? best : o->model.level;
    *out = (bench_limits){.known = true,
                          .threads = pool_threads(pool),
                          .level = level,
                          .bound = roofline_rate_of(level, o->model.activations, cost->whole_codes),
                          .weights_bytes = affordable(cost->step_bytes),
                          .big_bytes = affordable(BIG_BYTES)};
    code = measure_memory(pool, out, &bar, err);
    for (roofline_rate rate = 0; code == ESP_OK && rate < RATE_COUNT; rate++) {
        out->rate[rate] = roofline_multiply(pool, rate);
        progress_step(&bar, 4 + rate, RATE_COUNT + 3);
    }
    progress_end(&bar);
    pool_close(pool);
    return code;
}

static const char *level_name(kern_level level) {
    return level == LEVEL_AMX ? "amx" : level == LEVEL_AVX512 ? "avx512" : "avx2";
}

/* ---- JSON ---- */

static json_t *memory_row(uint64_t bytes, double bytes_per_s) {
    json_t *row = json_object();
    bench_set(row, "bytes", json_integer((json_int_t)bytes));
    bench_set(row, "gb_s", json_real(bytes_per_s / 1e9));
    return row;
}

static void print_json(const bench_limits *l) {
    json_t *row = bench_begin_row("roofline"), *rates = json_object();
    bench_set(row, "threads", json_integer(l->threads));
    bench_set(row, "level", json_string(level_name(l->level)));
    if (l->weights_bytes)
        bench_set(row, "read_weights", memory_row(l->weights_bytes, l->weights_read));
    bench_set(row, "read", memory_row(l->big_bytes, l->big_read));
    bench_set(row, "copy", memory_row(l->big_bytes, l->big_copy));
    for (roofline_rate rate = 0; rate < RATE_COUNT; rate++)
        if (l->rate[rate] > 0)
            bench_set(rates, roofline_rate_name(rate), json_real(l->rate[rate] / 1e9));
    bench_set(row, "gop_s", rates);
    bench_end_row(row);
}

/* ---- a table ---- */

static void print_memory(const char *what, uint64_t bytes, double bytes_per_s, const char *note) {
    printf("  %-12s %10.1f MB %10.1f GB/s%s%s\n", what, (double)bytes / 1e6, bytes_per_s / 1e9,
           *note ? "   " : "", note);
}

static void print_table(const bench_limits *l) {
    printf("limits of this machine, %u threads, best of many passes\n", l->threads);
    if (l->weights_bytes)
        print_memory("read", l->weights_bytes, l->weights_read,
                     "the weights that a step reads: decode MBU is held to it");
    print_memory("read", l->big_bytes, l->big_read, "");
    print_memory("copy", l->big_bytes, l->big_copy, "read and written");
    for (roofline_rate rate = 0; rate < RATE_COUNT; rate++)
        if (l->rate[rate] > 0)
            printf("  %-12s %13s %10.1f Gop/s%s\n", roofline_rate_name(rate), "",
                   l->rate[rate] / 1e9,
                   rate == l->bound ? "  this level: prefill MFU is held to it" : "");
    putchar('\n');
}

void bench_print_limits(const bench_options *o, const bench_limits *limits) {
    (o->json ? print_json : print_table)(limits);
}
