/* int8.h - linear with activations in int8: what an output is, and the inputs in that form.
 *
 * A token's inputs are cut into blocks of 32, in the order of the matrix's columns. Of a block
 *   d = max |x| / 127       code[k] = x[k] * (127 / max |x|), rounded to the nearest, ties to even
 * in float32; where max |x| is below INT8_LEAST, d and the codes are 0. One output is, over the
 * blocks in order, from acc = 0,
 *   p   = sum of value(weight code) * code, exact in integers: of the block, or of each half where
 *         the format has a scale each 16 columns
 *   y   = fma(scale, p, y) from y = 0, half after half
 *         formats with an offset: then y = fma(offset, sum of the codes, y)
 *         formats with a zero point: y = fma(scale, p - zero * sum of the codes, y)
 *   acc = fma(d, y, acc)
 * with scale, offset and zero as quant.h defines them. Every p is below 2^24, which float32 holds
 * exactly: so all levels, with or without dot products of bytes and tiles, give the same bits, at any
 * token and thread count (Law 1). tests/unit/test_linear_int8.c has the same in plain C. What an
 * epilogue makes of a sum is the level's own: the AMX level's silu and gelu differ in their last bits,
 * for few tokens as for many.
 *
 * Formats whose codes are no whole numbers of 8 bits (F32, F16, BF16, F8_E4M3) take bf16 activations
 * as without this mode, packed as the level has them; where one shares an op with matrices of this
 * form, by a plain loop. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_INT8_H
#define ESPALIER_INT8_H

#include "kernels/cpu/level/linear_job.h"

/* 127 / x is finite from here on; far below what any model's activations are. */
#define INT8_LEAST 0x1p-100f

/* --- inputs ------------------------------------------------------------------------------ */

/* Bits of the largest |x| of the block; a NaN counts as larger than all. */
ALWAYS_INLINE uint32_t int8_largest(const uint16_t *in) {
    const __m256i size = _mm256_set1_epi16(0x7fff);
    __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)in);
    __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)(in + TILE_ROWS));
    low = _mm256_max_epu16(_mm256_and_si256(low, size), _mm256_and_si256(high, size));
    __m128i most = _mm_max_epu16(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
    /* The smallest of the complements is the complement of the largest. */
    most = _mm_minpos_epu16(_mm_xor_si128(most, _mm_set1_epi16(-1)));
    return (uint32_t)(uint16_t)~_mm_cvtsi128_si32(most) << 16;
}

/* Sixteen codes; what is no number becomes -127. */
ALWAYS_INLINE __m128i int8_codes(const uint16_t *in, vf factor) {
    __m128i words[2];
    for (uint32_t i = 0; i < 2; i++) {
        __m128i half = _mm_loadu_si128((const __m128i *)(const void *)(in + i * 8));
        __m256i bits = _mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16);
#ifdef CPU_LEVEL_avx512
        __m256 by = _mm512_castps512_ps256(factor);
#else
        __m256 by = factor;
#endif
        __m256i codes = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_castsi256_ps(bits), by));
        words[i] =
            _mm_packs_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
    }
    return _mm_max_epi8(_mm_packs_epi16(words[0], words[1]), _mm_set1_epi8(-127));
}

ALWAYS_INLINE int32_t int8_sum(__m128i codes) {
    __m128i sums = _mm_maddubs_epi16(_mm_set1_epi8(1), codes);
    sums = _mm_madd_epi16(sums, _mm_set1_epi16(1));
    sums = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0xb1)));
}

static inline void int8_quantise(const uint16_t *in, int8_block *out) {
    float largest = f32_of_bits(int8_largest(in));
    bool zero = largest < INT8_LEAST;
    vf factor = v_set1(zero ? 0 : 127 / largest);
    out->scale = zero ? 0 : largest / 127;
    for (uint32_t half = 0; half < 2; half++) {
        __m128i codes = int8_codes(in + half * TILE_ROWS, factor);
        _mm_storeu_si128((__m128i *)(void *)(out->codes + half * TILE_ROWS), codes);
        out->sum_int[1 + half] = int8_sum(codes);
        out->sum[1 + half] = (float)out->sum_int[1 + half];
    }
    out->sum_int[0] = out->sum_int[1] + out->sum_int[2];
    out->sum[0] = (float)out->sum_int[0];
}

/* Where block b of row t lies: in [rows / group][blocks][group], so that the blocks of `group` tokens
 * follow one another. rows is a multiple of group. */
static inline size_t int8_row_at(const linear_job *job, uint32_t plane, uint32_t rows,
                                 uint32_t group, uint32_t b, uint32_t t) {
    size_t block = (size_t)(t / group) * job->blocks + b;
    return plane_at(job, plane, rows) + block * group + t % group;
}

/* Tokens base + begin .. base + end of the op into rows begin .. end of every plane. */
static inline void int8_quantise_tokens(const linear_job *job, uint32_t base, uint32_t rows,
                                        uint32_t group, uint32_t begin, uint32_t end) {
    for (uint32_t plane = 0; plane < job->planes; plane++)
        for (uint32_t t = begin; t < end; t++) {
            const uint16_t *in = (const uint16_t *)job->op->in + (size_t)(base + t) * job->cols;
            for (uint32_t b = 0; b < job->blocks; b++) {
                uint32_t left = job->cols - b * TILE_COLS;
                uint16_t lined_up[TILE_COLS];
                int8_quantise(block_of(in, job->order[plane], b,
                                       left < TILE_COLS ? left : TILE_COLS, lined_up),
                              job->dev->quantised + int8_row_at(job, plane, rows, group, b, t));
            }
        }
}

/* --- a block's products ------------------------------------------------------------------- */

/* y with the products p of half `half` (0: of all columns, or of the first half), p as floats. */
ALWAYS_INLINE vf int8_add(cpu_scaling scaling, uint32_t half, vf scale, vf offset, float sum, vf p,
                          vf y) {
    if (scaling == SCALE_32_ZERO) p = v_fma(offset, v_set1(sum), p);
    y = half == 0 ? v_mul(scale, p) : v_fma(scale, p, y);
    return has_offset(scaling) && scaling != SCALE_32_ZERO ? v_fma(offset, v_set1(sum), y) : y;
}
/* Which sum of an int8_block goes with that half. */
ALWAYS_INLINE uint32_t int8_sum_at(cpu_scaling scaling, uint32_t half) {
    return scale_cols(scaling) == TILE_COLS ? 0 : 1 + half;
}

/* --- matrices without this form ------------------------------------------------------------ */

/* One tile's sums for tokens base .. base + tokens: acc = fma(w[k], x[k], acc), k in order. */
static inline void int8_foreign_tile(const linear_job *job, const strip *s, uint32_t i,
                                     uint32_t base, uint32_t tokens, float *sums, uint32_t stride) {
    const kern_matrix *matrix = job->op->matrix[s->matrix[i]];
    const uint32_t *order = matrix->order ? matrix->order->inputs : NULL;
    const uint16_t *in = (const uint16_t *)job->op->in + (size_t)base * job->cols;
    uint32_t rows = tile_rows(matrix, s->tile[i]);
    for (uint32_t r = 0; r < rows; r++) {
        float *sum = sums + i * TILE_ROWS + r;
        for (uint32_t t = 0; t < tokens; t++)
            sum[t * stride] = 0;
        for (uint32_t c = 0; c < job->cols; c++) {
            float w = cpu_weight_at(matrix, s->tile[i] * TILE_ROWS + r, c);
            uint32_t at = order ? order[c] : c;
            for (uint32_t t = 0; t < tokens; t++)
                sum[t * stride] =
                    fmaf(w, f32_of_bf16(in[(size_t)t * job->cols + at]), sum[t * stride]);
        }
    }
}

#endif
