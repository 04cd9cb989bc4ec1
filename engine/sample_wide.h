/* sample_wide.h - the bodies of sample_math.h's walks, for the vectors of one target. sample_math.c
 * includes it once for each, with
 *
 *   LANES     floats of a vector: 4, 8 or 16
 *   WIDE(x)   x with the target's suffix
 *
 * and nobody else does. (As inlined functions of a common target the vectors of the wider ones would
 * be taken apart before they are inlined.) Operations are single IEEE ones, lane by lane, so all
 * targets give the same bits. */
// SPDX-License-Identifier: Apache-2.0

typedef float WIDE(f32s) __attribute__((vector_size(4 * LANES)));
typedef int32_t WIDE(i32s) __attribute__((vector_size(4 * LANES)));
typedef int64_t WIDE(i64s) __attribute__((vector_size(4 * LANES)));
typedef float WIDE(halves) __attribute__((vector_size(2 * LANES)));
typedef double WIDE(doubles) __attribute__((vector_size(4 * LANES)));

#define f32s WIDE(f32s)
#define i32s WIDE(i32s)
#define HERE static inline __attribute__((always_inline))
/* Vectors of a group of GROUP values; vectors of doubles that hold the SUM_LANES lanes of a sum. */
#define GROUP_VECTORS (GROUP / LANES)
#define SUM_VECTORS (SUM_LANES / (LANES / 2))

HERE f32s WIDE(load)(const float *at) {
    f32s x;
    memcpy(&x, at, sizeof x);
    return x;
}

HERE f32s WIDE(spread)(float x) { return (f32s){0} + x; }

/* mask ? a : b, bit by bit */
HERE f32s WIDE(choose)(i32s mask, f32s a, f32s b) {
    return (f32s)(((i32s)a & mask) | ((i32s)b & ~mask));
}

HERE bool WIDE(any)(i32s mask) {
    WIDE(i64s) m = (WIDE(i64s))mask;
    int64_t all = 0;
    for (int i = 0; i < LANES / 2; i++)
        all |= m[i];
    return all != 0;
}

/* ---- the largest ---- */

/* Of a block of ARGMAX_BLOCK values; a comparison with NaN is false. Four chains, because each step
 * waits for the one before. */
static float WIDE(block_largest)(const float *values) {
    f32s a = WIDE(spread)(-INFINITY), b = a, c = a, d = a;
    for (uint32_t i = 0; i < ARGMAX_BLOCK; i += 4 * LANES) {
        f32s w = WIDE(load)(values + i), x = WIDE(load)(values + i + LANES);
        f32s y = WIDE(load)(values + i + 2 * LANES), z = WIDE(load)(values + i + 3 * LANES);
        a = WIDE(choose)(w > a, w, a);
        b = WIDE(choose)(x > b, x, b);
        c = WIDE(choose)(y > c, y, c);
        d = WIDE(choose)(z > d, z, d);
    }
    a = WIDE(choose)(b > a, b, a);
    c = WIDE(choose)(d > c, d, c);
    a = WIDE(choose)(c > a, c, a);
    float largest = a[0];
    for (int lane = 1; lane < LANES; lane++)
        if (a[lane] > largest) largest = a[lane];
    return largest;
}

/* The best block is remembered, so that only it is searched for the index. */
static int32_t WIDE(argmax)(const float *values, uint32_t count) {
    float best = -INFINITY;
    uint32_t best_block = 0;
    for (uint32_t i = 0; i < count; i += ARGMAX_BLOCK) {
        bool whole = count - i >= ARGMAX_BLOCK;
        float largest = whole ? WIDE(block_largest)(values + i) : INFINITY;
        if (largest == INFINITY)
            largest = largest_finite(values + i, whole ? ARGMAX_BLOCK : count - i);
        if (largest > best) {
            best = largest;
            best_block = i;
        }
    }
    if (best == -INFINITY) return -1;
    uint32_t i = best_block;
    while (values[i] != best)
        i++;
    return (int32_t)i;
}

/* ---- weights ---- */

/* exp(x) for -87 <= x <= 0, 0 elsewhere and for NaN; within 2 ulp, and exactly 1 at 0.
 * x = n ln 2 + r with |r| <= ln 2 / 2 (ln 2 in two parts: W. J. Cody and W. Waite, "Software manual
 * for the elementary functions", 1980); exp(r) by its Taylor series to r^7, whose rest is below
 * 2^-26; times 2^n through the exponent bits. */
HERE f32s WIDE(exp_weight)(f32s x) {
    i32s inside = (x >= WIDE(spread)(-87.0f)) & (x <= WIDE(spread)(0.0f));
    x = WIDE(choose)(inside, x, WIDE(spread)(0.0f));
    i32s n = __builtin_convertvector(x * 1.44269504f - 0.5f, i32s); /* towards zero: rounds */
    f32s whole = __builtin_convertvector(n, f32s);
    f32s r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    f32s y = r * (1.0f / 5040) + 1.0f / 720;
    y = y * r + 1.0f / 120;
    y = y * r + 1.0f / 24;
    y = y * r + 1.0f / 6;
    y = y * r + 0.5f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
    return WIDE(choose)(inside, (f32s)((i32s)y + (n << 23)), WIDE(spread)(0.0f));
}

/* GROUP weights into their lanes. */
HERE void WIDE(group_weights)(const float *values, float top, float temperature, float *weights,
                              WIDE(doubles) * lanes) {
    for (int v = 0; v < GROUP_VECTORS; v++) {
        f32s x = WIDE(load)(values + v * LANES) - top;
        if (temperature != 1) x /= temperature; /* as slow as all the rest */
        f32s w = WIDE(exp_weight)(x);
        WIDE(halves) half[2];
        memcpy(half, &w, sizeof w);
        if (weights) memcpy(weights + v * LANES, &w, sizeof w);
        lanes[2 * v % SUM_VECTORS] += __builtin_convertvector(half[0], WIDE(doubles));
        lanes[(2 * v + 1) % SUM_VECTORS] += __builtin_convertvector(half[1], WIDE(doubles));
    }
}

/* The rest of a row: values behind its end count as -infinity, whose weight 0 changes no sum. */
HERE void WIDE(last_weights)(const float *values, uint32_t count, float top, float temperature,
                             float *weights, WIDE(doubles) * lanes) {
    float padded[GROUP], out[GROUP];
    for (uint32_t i = 0; i < GROUP; i++)
        padded[i] = i < count ? values[i] : -INFINITY;
    WIDE(group_weights)(padded, top, temperature, out, lanes);
    if (weights) memcpy(weights, out, count * sizeof *weights);
}

static double WIDE(block_weights)(const float *values, uint32_t count, float top, float temperature,
                                  float *weights) {
    WIDE(doubles) lanes[SUM_VECTORS] = {{0}};
    double l[SUM_LANES];
    uint32_t i = 0;
    for (; i + GROUP <= count; i += GROUP)
        WIDE(group_weights)(values + i, top, temperature, weights ? weights + i : NULL, lanes);
    if (i < count) WIDE(last_weights)
    (values + i, count - i, top, temperature, weights ? weights + i : NULL, lanes);
    memcpy(l, lanes, sizeof l);
    return ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]));
}

/* ---- the next one above a bar ---- */

static uint32_t WIDE(next)(const float *values, uint32_t begin, uint32_t count, float bar) {
    f32s bars = WIDE(spread)(bar);
    uint32_t i = begin;
    for (; i + 4 * LANES <= count; i += 4 * LANES) {
        i32s a = WIDE(load)(values + i) > bars, b = WIDE(load)(values + i + LANES) > bars;
        i32s c = WIDE(load)(values + i + 2 * LANES) > bars;
        i32s d = WIDE(load)(values + i + 3 * LANES) > bars;
        if (WIDE(any)((a | b) | (c | d))) break;
    }
    while (i < count && !(values[i] > bar))
        i++;
    return i;
}

#undef f32s
#undef i32s
#undef HERE
#undef GROUP_VECTORS
#undef SUM_VECTORS
#undef LANES
#undef WIDE
