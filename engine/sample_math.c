/* sample_math.c - the walks over a row, compiled for what processors have and chosen when called: the
 * same bits on each. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/sample_math.h"

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

enum { GROUP = 16, SUM_LANES = 8, ARGMAX_BLOCK = 1024 };

/* Without infinity. */
static float largest_finite(const float *values, uint32_t count) {
    float largest = -INFINITY;
    for (uint32_t i = 0; i < count; i++)
        if (values[i] > largest && values[i] <= FLT_MAX) largest = values[i];
    return largest;
}

/* Vectors are passed between inlined functions only. */
#pragma GCC diagnostic ignored "-Wpsabi"

#define LANES 4
#define WIDE(name) name##_any
#include "engine/sample_wide.h"

#if defined(__x86_64__) && !defined(__clang__) /* which has no such pragmas */
#pragma GCC push_options
#pragma GCC target("avx2")
#define LANES 8
#define WIDE(name) name##_avx2
#include "engine/sample_wide.h"
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw")
#define LANES 16
#define WIDE(name) name##_avx512
#include "engine/sample_wide.h"
#pragma GCC pop_options

#endif

#define WALKS(target)                                                                              \
    { #target, argmax_##target, block_weights_##target, next_##target }

/* Best first. */
static const sample_walks walks[] = {
#if defined(__x86_64__) && !defined(__clang__) /* which has no such pragmas */
    WALKS(avx512),
    WALKS(avx2),
#endif
    WALKS(any),
};
enum { WALKS_COUNT = sizeof walks / sizeof *walks };

/* How many of them this processor cannot run. */
static uint32_t walks_missing(void) {
#if defined(__x86_64__) && !defined(__clang__) /* which has no such pragmas */
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
        return 0;
    return __builtin_cpu_supports("avx2") ? 1 : 2;
#else
    return 0;
#endif
}

const sample_walks *sample_walks_at(uint32_t index) {
    index += walks_missing();
    return index < WALKS_COUNT ? &walks[index] : NULL;
}

int32_t sample_argmax(const float *values, uint32_t count) {
    return sample_walks_at(0)->argmax(values, count);
}

double sample_weights(const float *values, uint32_t count, float top, float temperature,
                      float *weights, double *sums) {
    const sample_walks *with = sample_walks_at(0);
    double sum = 0;
    for (uint32_t i = 0; i < count; i += SAMPLE_BLOCK) {
        uint32_t some = count - i < SAMPLE_BLOCK ? count - i : SAMPLE_BLOCK;
        double block =
            with->block_weights(values + i, some, top, temperature, weights ? weights + i : NULL);
        if (sums) sums[i / SAMPLE_BLOCK] = block;
        sum += block;
    }
    return sum;
}

uint32_t sample_next_far(const float *values, uint32_t begin, uint32_t count, float bar) {
    return sample_walks_at(0)->next(values, begin, count, bar);
}
