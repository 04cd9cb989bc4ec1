/* simd.h - the few vector words that the level's kernels are written in.
 *
 * vf is a vector of LANES floats: 8 (AVX2) or 16 (AVX-512). v16 is sixteen floats, the height of a
 * weight tile and the length of a page, in VECTORS registers. Sums over the lanes of a v16 fold its
 * halves, 16 -> 8 -> 4 -> 2 -> 1, at both levels alike. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_SIMD_H
#define ESPALIER_SIMD_H

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/cpu/level/level.h"

/* The loop has few rounds, and their number is a constant: write them out. Under the sanitizers,
 * which check each access, that would take minutes to compile. */
#ifdef ESPALIER_SANITIZED
#define UNROLL
#define UNROLL_16
#else
#define UNROLL _Pragma("GCC unroll 8")
#define UNROLL_16 _Pragma("GCC unroll 16")
#endif

#ifdef CPU_LEVEL_avx512

enum { LANES = 16, VECTORS = 1 };
typedef __m512 vf;

ALWAYS_INLINE vf v_zero(void) { return _mm512_setzero_ps(); }
ALWAYS_INLINE vf v_set1(float x) { return _mm512_set1_ps(x); }
ALWAYS_INLINE vf v_load(const float *p) { return _mm512_loadu_ps(p); }
ALWAYS_INLINE void v_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
ALWAYS_INLINE vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
ALWAYS_INLINE vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
ALWAYS_INLINE vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
ALWAYS_INLINE vf v_div(vf a, vf b) { return _mm512_div_ps(a, b); }
ALWAYS_INLINE vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
/* NaN in b stays. */
ALWAYS_INLINE vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }
ALWAYS_INLINE vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
/* b in the lanes where x < y, else a. */
ALWAYS_INLINE vf v_if_less(vf x, vf y, vf a, vf b) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_LT_OQ), a, b);
}
ALWAYS_INLINE vf v_round(vf a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* a * 2^n for whole n in [-126, 127]. */
ALWAYS_INLINE vf v_scale(vf a, vf n) { return _mm512_scalef_ps(a, n); }
ALWAYS_INLINE vf v_load_bf16(const uint16_t *p) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
ALWAYS_INLINE vf v_load_f16(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
ALWAYS_INLINE vf v_load_i8(const int8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
/* Round to nearest even; NaN stays NaN. */
ALWAYS_INLINE void v_store_bf16(uint16_t *p, vf a) {
#ifdef __AVX512BF16__ /* denormals become zero */
    _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(a));
#else
    __m512i u = _mm512_castps_si512(a);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    up = _mm512_mask_or_epi32(up, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), u,
                              _mm512_set1_epi32(0x400000));
    const __m512i high = _mm512_set_epi16(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 31, 29,
                                          27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    up = _mm512_permutexvar_epi16(high, up);
    _mm256_storeu_si256((__m256i *)p, _mm512_castsi512_si256(up));
#endif
}
/* Of pairs of neighbours: the first twice, the second twice, the two swapped. */
ALWAYS_INLINE vf v_each_even(vf a) { return _mm512_moveldup_ps(a); }
ALWAYS_INLINE vf v_each_odd(vf a) { return _mm512_movehdup_ps(a); }
ALWAYS_INLINE vf v_swap_pairs(vf a) { return _mm512_permute_ps(a, 0xb1); }
/* a - b in even lanes, a + b in odd ones. */
ALWAYS_INLINE vf v_sub_add(vf a, vf b) {
    return _mm512_mask_sub_ps(_mm512_add_ps(a, b), 0x5555, a, b);
}
/* Every second lane of a, then of b. */
ALWAYS_INLINE vf v_evens(vf a, vf b) {
    const __m512i lanes = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    return _mm512_permutex2var_ps(a, lanes, b);
}
ALWAYS_INLINE vf v_odds(vf a, vf b) {
    const __m512i lanes = _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    return _mm512_permutex2var_ps(a, lanes, b);
}

typedef struct v16 {
    vf v[VECTORS];
} v16;

ALWAYS_INLINE __m256 v16_fold_add(v16 a) {
    return _mm256_add_ps(_mm512_castps512_ps256(a.v[0]), _mm512_extractf32x8_ps(a.v[0], 1));
}
ALWAYS_INLINE __m256 v16_fold_max(v16 a) {
    return _mm256_max_ps(_mm512_castps512_ps256(a.v[0]), _mm512_extractf32x8_ps(a.v[0], 1));
}
/* a in lanes first <= lane < end, `other` elsewhere. */
ALWAYS_INLINE v16 v16_keep(v16 a, uint32_t first, uint32_t end, float other) {
    __mmask16 mask = (__mmask16)(((1u << end) - 1u) & ~((1u << first) - 1u));
    a.v[0] = _mm512_mask_blend_ps(mask, _mm512_set1_ps(other), a.v[0]);
    return a;
}

#else /* AVX2 */

enum { LANES = 8, VECTORS = 2 };
typedef __m256 vf;

ALWAYS_INLINE vf v_zero(void) { return _mm256_setzero_ps(); }
ALWAYS_INLINE vf v_set1(float x) { return _mm256_set1_ps(x); }
ALWAYS_INLINE vf v_load(const float *p) { return _mm256_loadu_ps(p); }
ALWAYS_INLINE void v_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
ALWAYS_INLINE vf v_add(vf a, vf b) { return _mm256_add_ps(a, b); }
ALWAYS_INLINE vf v_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
ALWAYS_INLINE vf v_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
ALWAYS_INLINE vf v_div(vf a, vf b) { return _mm256_div_ps(a, b); }
ALWAYS_INLINE vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
ALWAYS_INLINE vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); }
ALWAYS_INLINE vf v_min(vf a, vf b) { return _mm256_min_ps(a, b); }
ALWAYS_INLINE vf v_if_less(vf x, vf y, vf a, vf b) {
    return _mm256_blendv_ps(a, b, _mm256_cmp_ps(x, y, _CMP_LT_OQ));
}
ALWAYS_INLINE vf v_round(vf a) {
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
ALWAYS_INLINE vf v_scale(vf a, vf n) {
    __m256i bits = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(bits, 23)));
}
ALWAYS_INLINE vf v_load_bf16(const uint16_t *p) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
ALWAYS_INLINE vf v_load_f16(const uint16_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
ALWAYS_INLINE vf v_load_i8(const int8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
ALWAYS_INLINE void v_store_bf16(uint16_t *p, vf a) {
    __m256i u = _mm256_castps_si256(a);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i up = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256 nan = _mm256_or_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(0x400000)));
    up = _mm256_castps_si256(
        _mm256_blendv_ps(_mm256_castsi256_ps(up), nan, _mm256_cmp_ps(a, a, _CMP_UNORD_Q)));
    up = _mm256_srli_epi32(up, 16);
    __m128i low = _mm256_castsi256_si128(up), high = _mm256_extracti128_si256(up, 1);
    _mm_storeu_si128((__m128i *)p, _mm_packus_epi32(low, high));
}
ALWAYS_INLINE vf v_each_even(vf a) { return _mm256_moveldup_ps(a); }
ALWAYS_INLINE vf v_each_odd(vf a) { return _mm256_movehdup_ps(a); }
ALWAYS_INLINE vf v_swap_pairs(vf a) { return _mm256_permute_ps(a, 0xb1); }
ALWAYS_INLINE vf v_sub_add(vf a, vf b) { return _mm256_addsub_ps(a, b); }
ALWAYS_INLINE __m256 v_in_order(__m256 mixed) {
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), 0xd8));
}
ALWAYS_INLINE vf v_evens(vf a, vf b) { return v_in_order(_mm256_shuffle_ps(a, b, 0x88)); }
ALWAYS_INLINE vf v_odds(vf a, vf b) { return v_in_order(_mm256_shuffle_ps(a, b, 0xdd)); }

typedef struct v16 {
    vf v[VECTORS];
} v16;

ALWAYS_INLINE __m256 v16_fold_add(v16 a) { return _mm256_add_ps(a.v[0], a.v[1]); }
ALWAYS_INLINE __m256 v16_fold_max(v16 a) { return _mm256_max_ps(a.v[0], a.v[1]); }
ALWAYS_INLINE v16 v16_keep(v16 a, uint32_t first, uint32_t end, float other) {
    const __m256i ramp = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (int i = 0; i < VECTORS; i++) {
        __m256i lane = _mm256_add_epi32(ramp, _mm256_set1_epi32(i * LANES));
        __m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)first), lane);
        __m256i inside = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)end), lane);
        __m256i keep = _mm256_andnot_si256(below, inside);
        a.v[i] = _mm256_blendv_ps(_mm256_set1_ps(other), a.v[i], _mm256_castsi256_ps(keep));
    }
    return a;
}

#endif

ALWAYS_INLINE float fold8_add(__m256 a) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
}
ALWAYS_INLINE float fold8_max(__m256 a) {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps(x, x, 1)));
}
ALWAYS_INLINE float v16_sum(v16 a) { return fold8_add(v16_fold_add(a)); }
ALWAYS_INLINE float v16_max(v16 a) { return fold8_max(v16_fold_max(a)); }

/* 2^r for r in [-0.5, 0.5]: the Taylor series of exp(r ln 2) to r^6, below 2e-7 relative. */
ALWAYS_INLINE vf v_exp2_fraction(vf r) {
    vf y = v_set1(1.5403530393381609e-4f);
    y = v_fma(y, r, v_set1(1.3333558146428443e-3f));
    y = v_fma(y, r, v_set1(9.6181291076284772e-3f));
    y = v_fma(y, r, v_set1(5.5504108664821580e-2f));
    y = v_fma(y, r, v_set1(2.4022650695910071e-1f));
    y = v_fma(y, r, v_set1(6.9314718055994531e-1f));
    return v_fma(y, r, v_set1(1.0f));
}

/* 2^x. Exactly 1 at 0, exactly 0 below 2^-126 (-inf too), at most 2^127; NaN stays NaN. */
ALWAYS_INLINE vf v_exp2(vf x) {
    vf bounded = v_max(v_set1(-126.0f), v_min(v_set1(127.0f), x));
    vf n = v_round(bounded);
    vf y = v_scale(v_exp2_fraction(v_sub(bounded, n)), n);
    return v_if_less(x, v_set1(-126.0f), y, v_zero());
}

/* x / (1 + e^-y) */
ALWAYS_INLINE vf v_logistic_mul(vf x, vf y) {
#ifdef __AVX512BF16__ /* the AMX level: no division, which takes 16 cycles; within 2 ulp of it */
    vf t = v_min(v_set1(126.0f), v_mul(y, v_set1(-1.44269504088896341f)));
    vf n = v_round(t);
    vf d = v_add(v_set1(1.0f), _mm512_scalef_ps(v_exp2_fraction(v_sub(t, n)), n));
    vf inverse = _mm512_rcp14_ps(d);
    inverse = v_fma(inverse, _mm512_fnmadd_ps(d, inverse, v_set1(1.0f)), inverse);
    return v_mul(x, inverse);
#else
    vf e = v_exp2(v_mul(y, v_set1(-1.44269504088896341f)));
    return v_div(x, v_add(v_set1(1.0f), e));
#endif
}

/* x / (1 + e^-x) */
ALWAYS_INLINE vf v_silu(vf x) { return v_logistic_mul(x, x); }

/* 0.5 x (1 + tanh u) = x / (1 + e^-2u), u = sqrt(2/pi) (x + 0.044715 x^3) */
ALWAYS_INLINE vf v_gelu(vf x) {
    vf inner = v_fma(v_mul(x, x), v_set1(0.044715f), v_set1(1.0f));
    return v_logistic_mul(x, v_mul(v_mul(x, inner), v_set1(2.0f * 0.7978845608028654f)));
}

/* e^(z^2) erfc(z) = t P(t), t = 1 / (1 + 0.4 z), for z >= 0: a relative least-maximum fit of ours to
 * double precision values, within 4e-7 once in float32. */
ALWAYS_INLINE vf v_erfc_factor(vf z) {
    vf t = v_div(v_set1(1.0f), v_fma(z, v_set1(0.4f), v_set1(1.0f)));
    vf y = v_set1(4.1253332e-2f);
    y = v_fma(y, t, v_set1(-1.4032063e-1f));
    y = v_fma(y, t, v_set1(8.3990104e-2f));
    y = v_fma(y, t, v_set1(8.7961204e-2f));
    y = v_fma(y, t, v_set1(7.9758592e-2f));
    y = v_fma(y, t, v_set1(1.9339235e-1f));
    y = v_fma(y, t, v_set1(2.0188780e-1f));
    y = v_fma(y, t, v_set1(2.2644308e-1f));
    y = v_fma(y, t, v_set1(2.2563423e-1f));
    return v_mul(y, t);
}

/* 0.5 x (1 + erf(x / sqrt(2))): with h = 0.5 |x| erfc(|x| / sqrt(2)), -h below 0 and x - h above. */
ALWAYS_INLINE vf v_gelu_erf(vf x) {
    vf size = v_max(v_sub(v_zero(), x), x);
    vf e = v_exp2(v_mul(v_mul(x, x), v_set1(-0.5f * 1.44269504088896341f)));
    vf factor = v_erfc_factor(v_mul(size, v_set1(0.70710678118654752f)));
    vf h = v_mul(v_mul(v_set1(0.5f), size), v_mul(factor, e));
    return v_sub(v_max(v_zero(), x), h);
}

/* tanh x = 1 - 2 / (1 + e^2x), within 2e-7 of it. */
ALWAYS_INLINE vf v_tanh(vf x) {
    vf e = v_exp2(v_mul(x, v_set1(2.0f * 1.44269504088896341f)));
    return v_sub(v_set1(1.0f), v_div(v_set1(2.0f), v_add(v_set1(1.0f), e)));
}

/* cap * tanh(x / cap) */
ALWAYS_INLINE vf v_softcap(vf x, float cap) {
    return v_mul(v_set1(cap), v_tanh(v_mul(x, v_set1(1.0f / cap))));
}

/* The sum of (x - centre)^2: sixteen partial sums, the last partial vector padded with the centre. */
ALWAYS_INLINE float v_sum_of_squares_around(const float *x, float centre, uint32_t width) {
    v16 sum;
    for (uint32_t v = 0; v < VECTORS; v++)
        sum.v[v] = v_zero();
    uint32_t i = 0;
    for (; i + 16 <= width; i += 16)
        for (uint32_t v = 0; v < VECTORS; v++) {
            vf a = v_sub(v_load(x + i + v * LANES), v_set1(centre));
            sum.v[v] = v_fma(a, a, sum.v[v]);
        }
    if (i == width) return v16_sum(sum);
    float tail[16];
    for (uint32_t k = 0; k < 16; k++)
        tail[k] = i + k < width ? x[i + k] : centre;
    for (uint32_t v = 0; v < VECTORS; v++) {
        vf a = v_sub(v_load(tail + v * LANES), v_set1(centre));
        sum.v[v] = v_fma(a, a, sum.v[v]);
    }
    return v16_sum(sum);
}

ALWAYS_INLINE float v_sum_of_squares(const float *x, uint32_t width) {
    return v_sum_of_squares_around(x, 0, width);
}

/* Sixteen partial sums, the last partial vector padded with zeros. */
ALWAYS_INLINE float v_sum(const float *x, uint32_t width) {
    v16 sum;
    for (uint32_t v = 0; v < VECTORS; v++)
        sum.v[v] = v_zero();
    uint32_t i = 0;
    for (; i + 16 <= width; i += 16)
        for (uint32_t v = 0; v < VECTORS; v++)
            sum.v[v] = v_add(v_load(x + i + v * LANES), sum.v[v]);
    float tail[16] = {0};
    memcpy(tail, x + i, (width - i) * sizeof *x);
    for (uint32_t v = 0; v < VECTORS; v++)
        sum.v[v] = v_add(v_load(tail + v * LANES), sum.v[v]);
    return v16_sum(sum);
}

#endif
