/* output_amx.h - the output matrix of the AMX level, in Q8_0: sums of blocks that are exact, and so the same however
 * they are computed.
 *
 * Few tokens of a step meet the output matrix, and its bytes are many: for one token it should cost what reading
 * it costs, which rounding each weight to bf16 does not allow (unpack_amx.h). So of its inputs each block of 32 is
 * brought to whole numbers of a unit,
 *   unit = 2^(e - 11), where the largest |x| lies in [2^e, 2^(e+1)); n = x / unit to nearest, ties to even
 * which bf16 holds exactly, as it does the codes c of the weights, and float32 every sum of their products, at most
 * 4080 * 128 * 32 < 2^24. An output is, over the blocks in order, from acc = 0,
 *   acc = fma(scale, unit * sum of n c, acc)
 * A block whose largest |x| is below 2^-100 counts as zeros, one with an infinity or NaN as NaNs.
 *
 * Up to OUTPUT_FEW tokens: n as 128 high + low, dot products of bytes, as fast as memory (output_few_amx.c). More: n
 * unit and c in bf16, products on tiles (output_amx.c). */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_OUTPUT_AMX_H
#define ESPALIER_OUTPUT_AMX_H

#include "kernels/cpu/level/linear_job.h"

enum { OUTPUT_FEW = 4 };

/* 32 inputs of a token. */
typedef struct output_block {
    int8_t high[TILE_COLS], low[TILE_COLS];
    float unit;
    int32_t sum; /* of n */
    uint32_t unused[14];
} output_block;
_Static_assert(sizeof(output_block) == 2 * CACHE_LINE_BYTES, "whole lines");

/* The n of a block, and its unit: NaN where the block has a value that is no number. */
static inline float output_whole(const uint16_t *in, __m512i n[2]) {
    vf low = v_load_bf16(in), high = v_load_bf16(in + TILE_ROWS);
    vf most = _mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high));
    const __mmask16 odd =
        _mm512_cmp_ps_mask(low, low, _CMP_UNORD_Q) | _mm512_cmp_ps_mask(high, high, _CMP_UNORD_Q);
    float largest = _mm512_reduce_max_ps(most);
    n[0] = n[1] = _mm512_setzero_si512();
    if (odd || largest > 3.4e38f) return f32_of_bits(0x7fc00000);
    if (largest < 0x1p-100f) return 0;
    union {
        float f;
        uint32_t u;
    } bits = {.f = largest};
    uint32_t exponent = bits.u >> 23;
    vf inverse = v_set1(f32_of_bits((254 + 11 - exponent) << 23));
    n[0] = _mm512_cvtps_epi32(v_mul(low, inverse));
    n[1] = _mm512_cvtps_epi32(v_mul(high, inverse));
    return f32_of_bits((exponent - 11) << 23);
}

/* Pool function over a linear_job whose inputs are in dev->inputs: [blocks][tokens] output_block. */
void output_few_tokens(void *job, uint32_t worker, uint32_t workers);

#endif
