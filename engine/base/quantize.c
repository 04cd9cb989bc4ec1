/* quantize.c - float32 weights -> Q8_0 and Q4_K. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/base/quantize.h"

#include <math.h>
#include <string.h>

#include "engine/base/quant_blocks.h"
#include "engine/base/status.h"

static void put_half(uint8_t *at, uint16_t half) { memcpy(at, &half, sizeof half); }

static float largest_of(const float *x, size_t count) {
    float top = 0;
    for (size_t i = 0; i < count; i++)
        top = fmaxf(top, fabsf(x[i]));
    return top;
}

/* --- Q8_0 ------------------------------------------------------------------------------------ */

static void to_q8_0(const float *x, block_q8_0 *out) {
    float d = largest_of(x, QUANT_PIECE) / 127, inverse = d == 0 ? 0 : 1 / d;
    put_half(out->d, f16_of_f32(d));
    for (uint32_t i = 0; i < QUANT_PIECE; i++)
        out->q[i] = (int8_t)roundf(x[i] * inverse);
}

/* --- Q4_K: w = scale * q - minimum, each 32 weights -------------------------------------------- */

enum { SUBS = 8, CODE_MAX = 15, SCALE_MAX = 63, LANES = 4, VECTORS = QUANT_PIECE / LANES };

typedef float v4 __attribute__((vector_size(16)));
typedef int32_t i4 __attribute__((vector_size(16)));

/* 32 weights, and how much the error of each counts. */
typedef struct sub_block {
    v4 x[VECTORS], importance[VECTORS];
    float lowest, highest;
} sub_block;

typedef struct sub_fit {
    float scale, minimum; /* neither is negative */
    float error;          /* sum of importance * squared error, less a constant of the sub-block */
} sub_fit;

static float sum_of(v4 a) { return (a[0] + a[1]) + (a[2] + a[3]); }
static v4 splat(float a) { return (v4){a, a, a, a}; }

/* The codes nearest to (x + minimum) * inverse, as floats. */
static v4 codes_of(v4 x, float minimum, float inverse) {
    v4 level = (x + minimum) * inverse + 0.5f;
    level = (v4)((i4)level & (level > 0));
    i4 over = level > (float)CODE_MAX;
    level = (v4)(((i4)level & ~over) | ((i4)splat(CODE_MAX) & over));
    i4 code = __builtin_convertvector(level, i4);
    return __builtin_convertvector(code, v4);
}

/* The scale and minimum that are best for the codes nearest under `from`: weighted least squares. */
static sub_fit refit(const sub_block *b, float minimum, float inverse) {
    v4 w = {0}, wx = {0}, wq = {0}, wqq = {0}, wxq = {0};
    for (uint32_t i = 0; i < VECTORS; i++) {
        v4 q = codes_of(b->x[i], minimum, inverse), weight = b->importance[i];
        w += weight;
        wx += weight * b->x[i];
        wq += weight * q;
        wqq += weight * q * q;
        wxq += weight * b->x[i] * q;
    }
    float sw = sum_of(w), sx = sum_of(wx), sq = sum_of(wq), sqq = sum_of(wqq), sxq = sum_of(wxq);
    float determinant = sw * sqq - sq * sq;
    sub_fit fit = {.error = INFINITY};
    if (!(determinant > 0)) return fit;
    fit.scale = (sw * sxq - sx * sq) / determinant;
    fit.minimum = (sq * sxq - sqq * sx) / determinant;
    if (fit.minimum < 0) {
        fit.minimum = 0;
        fit.scale = sxq / sqq;
    }
    if (!(fit.scale >= 0)) return (sub_fit){.error = INFINITY};
    float s = fit.scale, m = fit.minimum;
    fit.error = s * (s * sqq - 2 * m * sq - 2 * sxq) + m * (m * sw + 2 * sx);
    return fit;
}

/* Large weights count more: an error in them moves outputs more, for inputs of one size. */
static void take_sub_block(const float *x, sub_block *b) {
    v4 squares = {0};
    b->lowest = b->highest = x[0];
    for (uint32_t i = 0; i < QUANT_PIECE; i++) {
        b->lowest = fminf(b->lowest, x[i]);
        b->highest = fmaxf(b->highest, x[i]);
    }
    memcpy(b->x, x, sizeof b->x);
    for (uint32_t i = 0; i < VECTORS; i++)
        squares += b->x[i] * b->x[i];
    float rms = sqrtf(sum_of(squares) / QUANT_PIECE);
    for (uint32_t i = 0; i < VECTORS; i++) {
        v4 sign = (v4)((i4)b->x[i] & INT32_MIN);
        b->importance[i] = (v4)((i4)b->x[i] ^ (i4)sign) + rms;
    }
}

/* Tries grids a little wider and narrower than the weights' range. */
static sub_fit fit_sub_block(const sub_block *b) {
    enum { STEPS = 20 };
    float minimum = fmaxf(0, -b->lowest), range = b->highest + minimum;
    sub_fit best = {.minimum = minimum, .error = INFINITY};
    if (!(range > 0)) return best; /* all weights are equal and not above 0 */
    best.scale = range / CODE_MAX;
    for (int step = 0; step <= STEPS; step++) {
        float top = CODE_MAX - 1 + 2.0f * (float)step / STEPS;
        sub_fit fit = refit(b, minimum, top / range);
        if (fit.error < best.error) best = fit;
    }
    return best;
}

static float error_of(const sub_block *b, float scale, float minimum) {
    float inverse = scale > 0 ? 1 / scale : 0;
    v4 error = {0};
    for (uint32_t i = 0; i < VECTORS; i++) {
        v4 miss = codes_of(b->x[i], minimum, inverse) * scale - minimum - b->x[i];
        error += b->importance[i] * miss * miss;
    }
    return sum_of(error);
}

static int clamp_scale(int value) { return value < 0 ? 0 : value > SCALE_MAX ? SCALE_MAX : value; }

/* The best of the pairs of whole numbers around the fit. */
static void round_fit(const sub_block *b, const sub_fit *fit, float d, float m, int *scale,
                      int *minimum) {
    int s0 = d > 0 ? (int)floorf(fit->scale / d) : 0,
        m0 = m > 0 ? (int)floorf(fit->minimum / m) : 0;
    float least = INFINITY;
    for (int s = s0; s <= s0 + 1; s++)
        for (int n = m0 - 1; n <= m0 + 2; n++) {
            int cs = clamp_scale(s), cn = clamp_scale(n);
            float error = error_of(b, d * (float)cs, m * (float)cn);
            if (!(error < least)) continue;
            least = error;
            *scale = cs;
            *minimum = cn;
        }
}

/* Six bits each, as set_six_bit of quant.c reads them. */
static void put_scales(uint8_t *scales, uint32_t sub, int scale, int minimum) {
    if (sub < 4) {
        scales[sub] = (uint8_t)(scales[sub] | scale);
        scales[sub + 4] = (uint8_t)(scales[sub + 4] | minimum);
        return;
    }
    scales[sub + 4] = (uint8_t)((scale & 15) | (minimum & 15) << 4);
    scales[sub - 4] = (uint8_t)(scales[sub - 4] | scale >> 4 << 6);
    scales[sub] = (uint8_t)(scales[sub] | minimum >> 4 << 6);
}

static void put_codes(const sub_block *b, float scale, float minimum, uint32_t sub, uint8_t *low) {
    float inverse = scale > 0 ? 1 / scale : 0;
    low += sub / 2 * QUANT_PIECE;
    for (uint32_t i = 0; i < QUANT_PIECE; i++) {
        v4 codes = codes_of(b->x[i / LANES], minimum, inverse);
        low[i] = (uint8_t)(low[i] | (int)codes[i % LANES] << sub % 2 * 4);
    }
}

static void to_q4_k(const float *x, block_q4_k *out) {
    sub_block subs[SUBS];
    sub_fit fits[SUBS];
    float top_scale = 0, top_minimum = 0;
    for (uint32_t s = 0; s < SUBS; s++) {
        take_sub_block(x + s * QUANT_PIECE, &subs[s]);
        fits[s] = fit_sub_block(&subs[s]);
        top_scale = fmaxf(top_scale, fits[s].scale);
        top_minimum = fmaxf(top_minimum, fits[s].minimum);
    }
    memset(out, 0, sizeof *out);
    uint16_t d = f16_of_f32(top_scale / SCALE_MAX), m = f16_of_f32(top_minimum / SCALE_MAX);
    put_half(out->d, d);
    put_half(out->m, m);
    for (uint32_t s = 0; s < SUBS; s++) {
        int scale = 0, minimum = 0;
        round_fit(&subs[s], &fits[s], f32_of_f16(d), f32_of_f16(m), &scale, &minimum);
        put_scales(out->scales, s, scale, minimum);
        put_codes(&subs[s], f32_of_f16(d) * (float)scale, f32_of_f16(m) * (float)minimum, s,
                  out->low);
    }
}

void quantize_weights(esp_dtype dtype, const float *weights, void *blocks, size_t count) {
    const dtype_row *info = dtype_info(dtype);
    ESP_ASSERT(dtype == DT_Q8_0 || dtype == DT_Q4_K);
    for (size_t i = 0; i < count / info->block_elements; i++, weights += info->block_elements) {
        if (dtype == DT_Q8_0)
            to_q8_0(weights, (block_q8_0 *)blocks + i);
        else
            to_q4_k(weights, (block_q4_k *)blocks + i);
    }
}
