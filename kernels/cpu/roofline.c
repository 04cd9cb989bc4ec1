/* roofline.c - runs the loops of peak.h on all threads and keeps the best pass.
 *
 * Compiled for plain x86-64: which loop may run is asked first. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/roofline.h"

#include <cpuid.h>
#include <stdatomic.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/peak.h"

enum { LEAF7_1_EAX_AVX512_BF16 = 1 << 5 };
/* A pass is short enough to fall between two slices of somebody else, and long beside a barrier. */
static const int64_t PASS_NS = 4000000;
static const int64_t READ_NS = 400000000;
enum { PASSES = 20, MEMORY_PASSES = 8, ROUNDS_FIRST = 1024, FILL = 0x11 };

static const struct {
    const char *name;
    peak_multiply multiply;
} rates[RATE_COUNT] = {
    [RATE_AVX2_F32] = {"avx2_f32", peak_f32_avx2},
    [RATE_AVX2_INT16] = {"avx2_int16", peak_int16_avx2},
    [RATE_AVX512_F32] = {"avx512_f32", peak_f32_avx512},
    [RATE_AVX512_INT16] = {"avx512_int16", peak_int16_avx512},
    [RATE_AVX512_BF16] = {"avx512_bf16", peak_bf16_avx512},
    [RATE_AVX512_INT8] = {"avx512_int8", peak_int8_avx512},
    [RATE_AMX_BF16] = {"amx_bf16", peak_bf16_amx},
    [RATE_AMX_INT8] = {"amx_int8", peak_int8_amx},
};

const char *roofline_rate_name(roofline_rate rate) { return rates[rate].name; }

bool roofline_has(roofline_rate rate) {
    uint32_t ebx, ecx, edx, bf16 = 0;
    kern_level level = kern_cpu_best_level();
    if (level == LEVEL_AUTO) return false;
    if (!__get_cpuid_count(7, 1, &bf16, &ebx, &ecx, &edx)) bf16 = 0;
    switch (rate) {
    case RATE_AVX2_F32:
    case RATE_AVX2_INT16:
        return true;
    case RATE_AVX512_F32:
        return level >= LEVEL_AVX512;
    case RATE_AVX512_BF16:
        return level >= LEVEL_AVX512 && (bf16 & LEAF7_1_EAX_AVX512_BF16);
    case RATE_AVX512_INT16:
    case RATE_AVX512_INT8:
        return level >= LEVEL_AVX512 && cpu_has(CPU_AVX512_VNNI);
    case RATE_AMX_BF16:
        return level >= LEVEL_AMX;
    case RATE_AMX_INT8:
        return level >= LEVEL_AMX && cpu_has(CPU_AMX_INT8);
    case RATE_COUNT:
        break;
    }
    return false;
}

static roofline_rate int8_rate_of(kern_level level) {
    if (level < LEVEL_AVX512 || !roofline_has(RATE_AVX512_INT8)) return RATE_COUNT;
    return level == LEVEL_AMX && roofline_has(RATE_AMX_INT8) ? RATE_AMX_INT8 : RATE_AVX512_INT8;
}

/* Without VNNI a product of words and its addition take the ports as long as two multiply-adds do at AVX-512. */
roofline_rate roofline_rate_of(kern_level level, kern_activations activations, bool whole_codes) {
    if (activations == ACT_INT8) return int8_rate_of(level);
    if (level == LEVEL_AMX) return RATE_AMX_BF16;
    if (level == LEVEL_AVX2) return whole_codes ? RATE_AVX2_INT16 : RATE_AVX2_F32;
    return whole_codes && roofline_has(RATE_AVX512_INT16) ? RATE_AVX512_INT16 : RATE_AVX512_F32;
}

/* ---- multiplying ---- */

typedef struct multiply_job {
    peak_multiply multiply;
    uint32_t rounds;
} multiply_job;

static void multiply_worker(void *arg, uint32_t worker, uint32_t worker_count) {
    const multiply_job *job = arg;
    (void)worker, (void)worker_count;
    job->multiply(job->rounds);
}

static int64_t multiply_ns(thread_pool *pool, multiply_job *job) {
    int64_t began_ns = clock_now_ns();
    pool_run(pool, multiply_worker, job);
    return clock_now_ns() - began_ns;
}

double roofline_multiply(thread_pool *pool, roofline_rate rate) {
    if (!roofline_has(rate)) return 0;
    multiply_job job = {.multiply = rates[rate].multiply, .rounds = ROUNDS_FIRST};
    if (rate == RATE_AVX2_INT16 && cpu_has(CPU_AVX_VNNI)) job.multiply = peak_int16_avx2_vnni;
    while (multiply_ns(pool, &job) < PASS_NS && job.rounds < UINT32_MAX / 2)
        job.rounds *= 2;
    int64_t best_ns = INT64_MAX;
    for (uint32_t pass = 0; pass < PASSES; pass++) {
        int64_t ns = multiply_ns(pool, &job);
        if (ns < best_ns) best_ns = ns;
    }
    double operations = 2 * job.multiply(1) * job.rounds * pool_threads(pool);
    return operations * 1e9 / (double)best_ns;
}

/* ---- memory ---- */

typedef struct memory_job {
    char *from, *to; /* to NULL: only read */
    uint32_t lines;
    uint32_t streams;
    bool wide; /* AVX-512 */
    bool fill; /* instead: the first touch */
    _Atomic uint64_t sum;
} memory_job;

static void memory_worker(void *arg, uint32_t worker, uint32_t worker_count) {
    memory_job *job = arg;
    uint32_t begin, end;
    pool_share(job->lines, 1, worker, worker_count, &begin, &end);
    size_t at = (size_t)begin * PEAK_LINE, lines = end - begin;
    char *from = job->from + at, *to = job->to ? job->to + at : NULL;
    if (job->fill) {
        memset(from, FILL, lines * PEAK_LINE);
        if (to) memset(to, FILL, lines * PEAK_LINE);
    } else if (to) {
        (job->wide ? peak_copy_avx512 : peak_copy_avx2)(to, from, lines);
    } else {
        job->sum += (job->wide ? peak_read_avx512 : peak_read_avx2)(from, lines, job->streams);
    }
}

static int64_t memory_ns(thread_pool *pool, memory_job *job) {
    int64_t began_ns = clock_now_ns();
    pool_run(pool, memory_worker, job);
    return clock_now_ns() - began_ns;
}

/* Streams are tried in turn: which number is best differs from machine to machine. */
static int64_t best_memory_ns(thread_pool *pool, memory_job *job) {
    job->fill = true;
    memory_ns(pool, job);
    job->fill = false;
    int64_t best_ns = INT64_MAX, began_ns = clock_now_ns();
    for (uint32_t pass = 0; pass < MEMORY_PASSES || clock_now_ns() - began_ns < READ_NS; pass++) {
        job->streams = 1u << pass % 4;
        int64_t ns = memory_ns(pool, job);
        if (ns < best_ns) best_ns = ns;
    }
    return best_ns > 0 ? best_ns : 1;
}

static esp_code take_memory(uint64_t bytes, char **out, esp_error *err) {
    *out = mem_map(bytes);
    if (*out) return ESP_OK;
    return esp_fail(err, ESP_EXHAUSTED, "roofline: no memory for a buffer of %llu bytes",
                    (unsigned long long)bytes);
}

static uint32_t lines_of(const thread_pool *pool, uint64_t bytes) {
    uint64_t lines = bytes / PEAK_LINE, least = pool_threads(pool);
    if (lines > UINT32_MAX) return UINT32_MAX;
    return (uint32_t)(lines > least ? lines : least);
}

static bool is_wide(void) { return kern_cpu_best_level() >= LEVEL_AVX512; }

esp_code roofline_read(thread_pool *pool, uint64_t bytes, double *bytes_per_s, esp_error *err) {
    memory_job job = {.lines = lines_of(pool, bytes), .wide = is_wide()};
    size_t taken = (size_t)job.lines * PEAK_LINE;
    esp_code code = take_memory(taken, &job.from, err);
    if (code != ESP_OK) return code;
    *bytes_per_s = (double)taken * 1e9 / (double)best_memory_ns(pool, &job);
    mem_unmap(job.from, taken);
    return ESP_OK;
}

esp_code roofline_copy(thread_pool *pool, uint64_t bytes, double *bytes_per_s, esp_error *err) {
    memory_job job = {.lines = lines_of(pool, bytes / 2), .wide = is_wide()};
    size_t half = (size_t)job.lines * PEAK_LINE;
    esp_code code = take_memory(2 * half, &job.from, err);
    if (code != ESP_OK) return code;
    job.to = job.from + half;
    *bytes_per_s = 2 * (double)half * 1e9 / (double)best_memory_ns(pool, &job);
    mem_unmap(job.from, 2 * half);
    return ESP_OK;
}
