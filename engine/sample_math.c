/* sample_math.c - largest value and softmax weights of a row. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/sample_math.h"

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <string.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

enum { LANES = 4, STRETCH = 1024 };
typedef float f32x4 __attribute__((vector_size(16)));
typedef int32_t i32x4 __attribute__((vector_size(16)));

static f32x4 load(const float *at) {
    f32x4 x;
    memcpy(&x, at, sizeof x);
    return x;
}

static f32x4 spread(float x) { return (f32x4){x, x, x, x}; }

/* mask ? a : b, bit by bit */
static f32x4 choose(i32x4 mask, f32x4 a, f32x4 b) {
    return (f32x4)(((i32x4)a & mask) | ((i32x4)b & ~mask));
}

/* The larger one; a NaN in x is not. */
static f32x4 larger(f32x4 best, f32x4 x) {
#if defined(__SSE__)
    return _mm_max_ps(x, best);
#else
    return choose(x > best, x, best);
#endif
}

/* -INFINITY when no value is finite. */
static float largest_finite(const float *values, uint32_t count) {
    float best = -INFINITY;
    for (uint32_t i = 0; i < count; i++)
        if (values[i] > best && values[i] <= FLT_MAX) best = values[i];
    return best;
}

/* The same, for values that mostly are. */
static float largest(const float *values, uint32_t count) {
    /* Four chains, because each step waits for the one before. */
    f32x4 best[4] = {spread(-INFINITY), spread(-INFINITY), spread(-INFINITY), spread(-INFINITY)};
    uint32_t i = 0;
    for (; i + 4 * LANES <= count; i += 4 * LANES) {
        best[0] = larger(best[0], load(values + i));
        best[1] = larger(best[1], load(values + i + LANES));
        best[2] = larger(best[2], load(values + i + 2 * LANES));
        best[3] = larger(best[3], load(values + i + 3 * LANES));
    }
    f32x4 all = larger(larger(best[0], best[1]), larger(best[2], best[3]));
    float most = largest_finite(values + i, count - i);
    for (int lane = 0; lane < LANES; lane++)
        if (all[lane] > most) most = all[lane];
    return most == INFINITY ? largest_finite(values, count) : most;
}

/* By stretches: only the one that first has the largest value is searched for its index. */
int32_t sample_argmax(const float *values, uint32_t count) {
    float best = -INFINITY;
    uint32_t at = count;
    for (uint32_t i = 0; i < count; i += STRETCH) {
        float here = largest(values + i, count - i < STRETCH ? count - i : STRETCH);
        if (here <= best) continue;
        best = here;
        at = i;
    }
    if (at == count) return -1;
    while (values[at] != best)
        at++;
    return (int32_t)at;
}

/* exp(x) for -87 <= x <= 0, 0 elsewhere and for NaN; within 2 ulp, and exactly 1 at 0.
 * x = n ln 2 + r with |r| <= ln 2 / 2 (ln 2 in two parts: W. J. Cody and W. Waite, "Software manual
 * for the elementary functions", 1980); exp(r) by its Taylor series to r^7, whose rest is below
 * 2^-26; times 2^n through the exponent bits. */
static f32x4 exp_weight(f32x4 x) {
    i32x4 inside = (x >= spread(-87.0f)) & (x <= spread(0.0f));
    x = choose(inside, x, spread(0.0f));
    i32x4 n = __builtin_convertvector(x * 1.44269504f - 0.5f, i32x4); /* towards zero: rounds */
    f32x4 whole = __builtin_convertvector(n, f32x4);
    f32x4 r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    f32x4 y = r * (1.0f / 5040) + 1.0f / 720;
    y = y * r + 1.0f / 120;
    y = y * r + 1.0f / 24;
    y = y * r + 1.0f / 6;
    y = y * r + 0.5f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
    return choose(inside, (f32x4)((i32x4)y + (n << 23)), spread(0.0f));
}

/* Sums lane by lane, because each addition waits for the one before; then the lanes in order. */
double sample_weights(const float *values, uint32_t count, float top, float temperature,
                      float *weights) {
    double sums[LANES] = {0}, sum = 0;
    uint32_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        f32x4 w = exp_weight((load(values + i) - top) / temperature);
        if (weights) memcpy(weights + i, &w, sizeof w);
        for (int lane = 0; lane < LANES; lane++)
            sums[lane] += (double)w[lane];
    }
    for (; i < count; i++) {
        float w = exp_weight((spread(values[i]) - top) / temperature)[0];
        if (weights) weights[i] = w;
        sum += (double)w;
    }
    for (int lane = 0; lane < LANES; lane++)
        sum += sums[lane];
    return sum;
}
