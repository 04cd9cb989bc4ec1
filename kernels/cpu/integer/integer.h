/* integer.h - linear with activations as integers: what an output is, and the inputs in that form.
 *
 * A token's inputs are cut into blocks of 32, in the order of the matrix's columns. Of a block
 *   8 bits    d = max |x| / 127       code[k] = x[k] * (127 / max |x|), rounded to the nearest, ties to even
 *   16 bits   d = 2^(e - 14), 2^e being the power of two in max |x|      code[k] = x[k] / d, rounded likewise: of
 *             bf16 inputs those of at least max |x| / 128 exactly, and none by more than max |x| / 2^15. Where one
 *             is no finite number, d is none
 * in float32; where max |x| is below INT_LEAST, d and the codes are 0. One output is, over the blocks in order, from acc = 0,
 *   p   = sum of value(weight code) * code, exact in integers: of the block, or of each half where
 *         the format has a scale each 16 columns; then rounded to float32, as 24 bits hold all of 8-bit inputs, not
 *         all of 16-bit ones
 *   y   = fma(scale, p, y) from y = 0, half after half
 *         formats with an offset: then y = fma(offset, sum of the codes, y)
 *         formats with a zero point: y = fma(scale, fma(-zero, sum of the codes, p), y)
 *   acc = fma(d, y, acc)
 * with scale, offset and zero as quant.h defines them. So of such weights all levels, with or without dot products of bytes
 * or words and tiles, give the same bits, at any token and thread count (Law 1). tests/unit/test_linear_integer.c has the same in
 * plain C. What an epilogue makes of a sum is the level's own: the AMX level's silu and gelu differ in their last bits,
 * for few tokens as for many.
 *
 * 8 bits are --activations int8. 16 are what the levels without tiles make of bf16: twice the products an instruction that
 * float32 has, and of an error far below half a step of bf16 of the block's largest.
 *
 * Formats whose codes are no whole numbers of 8 bits (F32, F16, BF16, F8_E4M3) take bf16 activations, packed as the level
 * has them; where one shares an op with matrices of this form, by the level's own way (cpu_level.tiles) or a plain loop. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_INTEGER_H
#define ESPALIER_INTEGER_H

#ifdef CPU_WORDS
#include "kernels/cpu/integer/int16.h"
#else
#include "kernels/cpu/integer/int8.h"
#endif

/* --- inputs ------------------------------------------------------------------------------ */

/* Where block b of row t lies: in [rows / group][blocks][group], so that the blocks of `group` tokens
 * follow one another. rows is a multiple of group. */
static inline size_t act_row_at(const linear_job *job, uint32_t plane, uint32_t rows,
                                uint32_t group, uint32_t b, uint32_t t) {
    size_t block = (size_t)(t / group) * job->blocks + b;
    return plane_at(job, plane, rows) + block * group + t % group;
}

/* Tokens base + begin .. base + end of the op into rows begin .. end of every plane. */
static inline void act_quantise_tokens(const linear_job *job, uint32_t base, uint32_t rows,
                                       uint32_t group, uint32_t begin, uint32_t end) {
    for (uint32_t plane = 0; plane < job->planes; plane++)
        for (uint32_t t = begin; t < end; t++) {
            const uint16_t *in = (const uint16_t *)job->op->in + (size_t)(base + t) * job->cols;
            for (uint32_t b = 0; b < job->blocks; b++) {
                uint32_t left = job->cols - b * TILE_COLS;
                uint16_t lined_up[TILE_COLS];
                act_block *out =
                    (act_block *)job->dev->quantised + act_row_at(job, plane, rows, group, b, t);
                act_quantise(block_of(in, job->order[plane], b, left < TILE_COLS ? left : TILE_COLS,
                                      lined_up),
                             out);
            }
        }
}

/* --- a block's products ------------------------------------------------------------------- */

/* y with the products p of half `half` (0: of all columns, or of the first half), p as floats. */
ALWAYS_INLINE vf act_add(cpu_scaling scaling, uint32_t half, vf scale, vf offset, float sum, vf p,
                         vf y) {
    if (scaling == SCALE_32_ZERO) p = v_fma(offset, v_set1(sum), p);
    y = half == 0 ? v_mul(scale, p) : v_fma(scale, p, y);
    return has_offset(scaling) && scaling != SCALE_32_ZERO ? v_fma(offset, v_set1(sum), y) : y;
}
/* Which sum of an act_block goes with that half. */
ALWAYS_INLINE uint32_t act_sum_at(cpu_scaling scaling, uint32_t half) {
    return scale_cols(scaling) == TILE_COLS ? 0 : 1 + half;
}

/* --- matrices without this form ------------------------------------------------------------ */

/* One tile's sums for tokens base .. base + tokens: acc = fma(w[k], x[k], acc), k in order. */
static inline void foreign_tile(const linear_job *job, const strip *s, uint32_t i, uint32_t base,
                                uint32_t tokens, float *sums, uint32_t stride) {
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
