/* cuda_fragments.h - half a tile of weights (cuda_matrix.h) as operands of mma, and its scales.
 *
 * Codes become whole numbers in bf16, which are exact; scales and offsets stay float32 and are applied to the
 * sums. So a product of a linear is, over runs of 32 columns (16 in some formats) in order,
 *   p   = sum of code * x, by mma from 0, steps of 16 columns in order
 *   acc = fma(scale, p, acc)
 *   acc = fma(offset, sum of the run's x, acc)   formats with an offset; the sum by mma too, with ones
 * and of bf16 weights acc = mma(.., acc).
 *
 * Codes of 4 bits are or-ed into the fraction of 128.0, in bf16 0x4300, whose last place is 1; subtracting
 * 128 (or 136) leaves the number. Signed bytes likewise: their low 7 bits there, and the sign doubles what is
 * subtracted, 0x4300 to 0x4380. Bytes that are floats move their exponent and fraction into place; a factor
 * of 2^120 then mends the exponent's bias. */
// SPDX-License-Identifier: Apache-2.0
#ifndef CUDA_FRAGMENTS_H
#define CUDA_FRAGMENTS_H

#include "kernels/cuda/cu.h"
#include "kernels/cuda/cuda_matrix.h"

template <int format> struct cu_format;
#define CU_FORMAT(name, codes_, scaling_, run_)                                                    \
    template <> struct cu_format<CUDA_##name> {                                                    \
        static constexpr cuda_codes codes = codes_;                                                \
        static constexpr cuda_scaling scaling = scaling_;                                          \
        static constexpr int run = run_;                                                           \
        static constexpr int code_bytes = cuda_code_bytes(codes_);                                 \
        static constexpr int row_scales = cuda_scale_bytes(scaling_, run_);                        \
        static constexpr int tile_bytes = code_bytes + CUDA_TILE_ROWS * row_scales;                \
        static constexpr bool scaled = scaling_ != SCALING_NONE;                                   \
        static constexpr bool offset =                                                             \
            scaling_ == SCALING_HALF_OFFSET || scaling_ == SCALING_HALF_ZERO ||                    \
            scaling_ == SCALING_FLOAT_ZERO || scaling_ == SCALING_STEPS_LESS;                      \
        static constexpr int half_words = cuda_code_bits(codes_) / 2; /* a lane's, dwords */       \
        static constexpr int runs = run_ == 16 ? 2 : 1;               /* in a half */              \
    };
CUDA_FORMATS(CU_FORMAT)
#undef CU_FORMAT

/* ---- codes */

/* (a & b) | c in one instruction: as operators, two constants make it two. */
CU_DEV uint32_t cu_pick(uint32_t a, uint32_t b, uint32_t c) { return cu_lop3<0xea>(a, b, c); }

CU_DEV uint32_t cu_code_pair_4(uint32_t word, int i, uint32_t zero) {
    const uint32_t one = 0x3f803f80u;
    return cu_fma_bf16x2(cu_pick(word >> 4 * i, 0x000f000fu, 0x43004300u), one, zero);
}

CU_DEV uint32_t cu_code_pair_8(uint32_t word, int i) {
    const uint32_t minus_one = 0xbf80bf80u, x = word >> 8 * i;
    const uint32_t low = cu_pick(x, 0x007f007fu, 0x43004300u);
    return cu_fma_bf16x2(cu_pick(x, 0x00800080u, 0x43004300u), minus_one, low);
}

CU_DEV uint32_t cu_code_pair_e4m3(uint32_t word, int i) {
    const uint32_t x = word >> 8 * i, minus_zero = 0x80008000u, bias = 0x7b807b80u; /* 2^120 */
    return cu_fma_bf16x2((x & 0x007f007fu) << 4 | (x & 0x00800080u) << 8, bias, minus_zero);
}

/* words: a lane's of one step. */
template <int format> CU_DEV void cu_operand(const uint32_t *words, uint32_t (&a)[4]) {
    using f = cu_format<format>;
    [[maybe_unused]] const uint32_t zero = f::offset ? 0xc300c300u : 0xc308c308u; /* -128, -136 */
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if constexpr (f::codes == CODES_4) a[i] = cu_code_pair_4(words[0], i, zero);
        if constexpr (f::codes == CODES_8) a[i] = cu_code_pair_8(words[i / 2], i % 2);
        if constexpr (f::codes == CODES_E4M3) a[i] = cu_code_pair_e4m3(words[i / 2], i % 2);
    }
}

/* Words of shared memory, aligned to as much of their size as a load can use. */
template <int words> CU_DEV void cu_load_words(const uint8_t *from, uint32_t (&to)[words]) {
    if constexpr (words % 4 == 0) {
#pragma unroll
        for (int i = 0; i < words; i += 4) {
            const uint4 v = cu_load16(from + i * 4);
            to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
        }
    } else if constexpr (words % 2 == 0) {
#pragma unroll
        for (int i = 0; i < words; i += 2) {
            const uint2 v = *reinterpret_cast<const uint2 *>(from + i * 4);
            to[i] = v.x, to[i + 1] = v.y;
        }
    } else {
#pragma unroll
        for (int i = 0; i < words; i++)
            to[i] = *reinterpret_cast<const uint32_t *>(from + i * 4);
    }
}

/* The two steps of half `half` of a tile. */
template <int format>
CU_DEV void cu_load_operands(const uint8_t *tile, int half, int lane, uint32_t (&a)[2][4]) {
    using f = cu_format<format>;
    if constexpr (f::codes == CODES_BF16) { /* a word each step */
        cu_load_words(tile + (2 * half * 32 + lane) * 16, a[0]);
        cu_load_words(tile + ((2 * half + 1) * 32 + lane) * 16, a[1]);
    } else {
        uint32_t words[f::half_words];
        cu_load_words(tile + (half * 32 + lane) * f::half_words * 4, words);
#pragma unroll
        for (int s = 0; s < 2; s++)
            cu_operand<format>(words + s * f::half_words / 2, a[s]);
    }
}

/* ---- scales */

/* A byte as a float: or-ed into the fraction of 2^23, whose last place is 1. */
CU_DEV float cu_float_of_byte(uint32_t byte) {
    return __uint_as_float(0x4b000000u | byte) - 8388608.0f;
}
CU_DEV float cu_float_of_signed(uint32_t byte) {
    return __uint_as_float(0x4b000000u | (byte ^ 0x80u)) - 8388736.0f;
}

/* What the scales of a row say of a run: d and m (or z) as floats, s and o as bytes. */
template <cuda_scaling scaling>
CU_DEV void cu_scale_of(float d, float m, uint32_t s, uint32_t o, float &scale, float &offset) {
    const bool steps = scaling == SCALING_STEPS || scaling == SCALING_STEPS_LESS;
    scale = steps ? d * cu_float_of_signed(s) : d;
    offset = scaling == SCALING_HALF_OFFSET ? m : 0.0f;
    if (scaling == SCALING_HALF_ZERO || scaling == SCALING_FLOAT_ZERO) offset = -d * m;
    if (scaling == SCALING_STEPS_LESS) offset = -m * cu_float_of_byte(o);
}

CU_DEV uint32_t cu_two_bytes(const uint8_t *at) { return *reinterpret_cast<const uint16_t *>(at); }
CU_DEV float cu_half_at(const uint8_t *at) {
    return cu_from_f16(*reinterpret_cast<const uint16_t *>(at));
}
CU_DEV float cu_float_at(const uint8_t *at) { return *reinterpret_cast<const float *>(at); }

/* Of run `run` of a tile; row: the scales of a row in it. */
template <int format>
CU_DEV void cu_read_scale(const uint8_t *row, int run, float &scale, float &offset) {
    using f = cu_format<format>;
    constexpr cuda_scaling scaling = f::scaling;
    float d = 0, m = 0;
    uint32_t steps = 0;
    if constexpr (scaling == SCALING_HALF) d = cu_half_at(row + 2 * run);
    if constexpr (scaling == SCALING_HALF_OFFSET || scaling == SCALING_HALF_ZERO) {
        d = cu_half_at(row + 4 * run);
        m = cu_half_at(row + 4 * run + 2);
    }
    if constexpr (scaling == SCALING_FLOAT) d = cu_float_at(row + 4 * run);
    if constexpr (scaling == SCALING_FLOAT_ZERO) {
        d = cu_float_at(row + 8 * run);
        m = cu_float_at(row + 8 * run + 4);
    }
    if constexpr (scaling == SCALING_STEPS) {
        d = cu_half_at(row);
        steps = row[2 + run];
    }
    if constexpr (scaling == SCALING_STEPS_LESS) {
        d = cu_half_at(row);
        m = cu_half_at(row + 2);
        steps = cu_two_bytes(row + 4 + 2 * run);
    }
    cu_scale_of<scaling>(d, m, steps & 0xffu, steps >> 8, scale, offset);
}

#endif
