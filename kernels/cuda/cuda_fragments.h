/* cuda_fragments.h - half a tile of weights (cuda_matrix.h) as operands of mma, and its scales.
 *
 * Codes become whole numbers in bf16, which are exact; scales and offsets stay float32 and are applied to the
 * sums. So a product of a linear is, over runs of 32 columns (16 in some formats) in order,
 *   p   = sum of code * x, by mma, steps of 16 columns in order, from 0 (but see below)
 *   acc = fma(scale, p, acc)
 *   acc = fma(offset, sum of the run's x, acc)   formats with an offset; the sum by mma too, with ones
 * and of bf16 weights acc = mma(.., acc).
 *
 * Codes of 4 bits are or-ed into the fraction of 16.0, in bf16 0x4180, at its upper end, so that they count as whole
 * numbers. Without an offset 24 is subtracted then. With one the 16 stays: p begins at -16 * sum of x instead of 0,
 * which is the sum that the offset wants too, with -16 in place of the ones and offset / -16: no instruction more,
 * and one a word less. Signed bytes: their low 7 bits in the fraction of 128.0, and the sign doubles what is
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
        static constexpr bool biased = codes_ == CODES_4 && offset;   /* operands are code + 16 */ \
        static constexpr int half_words = cuda_code_bits(codes_) / 2; /* a lane's, dwords */       \
        static constexpr int runs = run_ == 16 ? 2 : 1;               /* in a half */              \
    };
CUDA_FORMATS(CU_FORMAT)
#undef CU_FORMAT

/* ---- codes */

/* (a & b) | c in one instruction: as operators, two constants make it two. */
CU_DEV uint32_t cu_pick(uint32_t a, uint32_t b, uint32_t c) { return cu_lop3<0xea>(a, b, c); }

/* A nibble's upper end may lie beyond the word's, hence a rotation (CUDA_CODE_4_TURN). */
CU_DEV uint32_t cu_code_pair_4(uint32_t word, int i) {
    const uint32_t there = i < 3 ? word >> 4 * i : __funnelshift_r(word, word, 12);
    return cu_pick(there, 0x00780078u, 0x41804180u);
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
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if constexpr (f::codes == CODES_4) a[i] = cu_code_pair_4(words[0], i);
        if constexpr (f::codes == CODES_4 && !f::biased)
            a[i] = cu_fma_bf16x2(a[i], 0x3f803f80u, 0xc1c0c1c0u); /* - 24 */
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

CU_DEV uint32_t cu_two_bytes(const uint8_t *at) { return *reinterpret_cast<const uint16_t *>(at); }
CU_DEV uint32_t cu_four_bytes(const uint8_t *at) { return *reinterpret_cast<const uint32_t *>(at); }

/* A constant that stays in a register: an instruction has one immediate operand, and ptxas would rather have it here than
 * for what differs each time. Constants of different `which`, 0 to 15, stay in registers of their own. Grids here have no z. */
CU_DEV uint32_t cu_kept(uint32_t constant, int which = 0) { return constant | blockIdx.z >> which; }

/* Byte `at` of word as the low end of a float: of 2^23 (whole numbers), 2^19 (sixteenths). */
CU_DEV float cu_byte_in(float power, uint32_t word, int at) {
    return __uint_as_float(__byte_perm(word, cu_kept(__float_as_uint(power)), 0x7650u | at));
}
CU_DEV float cu_float_of_signed(uint32_t byte) {
    return __uint_as_float(0x4b000000u | (byte ^ 0x80u)) - 8388736.0f;
}

/* What a half of a tile has of scales, for the lane's two rows. Of each row
 *   word   its runs' own: f16 d | f16 m or z << 16; float; bytes s, or s | o << 8, run after run; from bit `at` on
 *   head   what the tile's runs share: f16 d | f16 m << 16; or of SCALING_FLOAT_ZERO the scale, z being the word */
template <int format> struct cu_scales {
    using f = cu_format<format>;
    static constexpr cuda_scaling scaling = f::scaling;
    uint32_t head[2], word[2];
    int at;

    __device__ __forceinline__ static float low(uint32_t halves) {
        return cu_from_f16(static_cast<uint16_t>(halves));
    }
    __device__ __forceinline__ static float high(uint32_t halves) {
        return cu_from_f16(static_cast<uint16_t>(halves >> 16));
    }

    /* Of run `run` of the half; the offset as its sum wants it: cu_format::biased, by -16. Products of d and s, and of
     * m and o, are exact, and so is what fma takes away with the power that the byte came in. */
    __device__ __forceinline__ void of(int run, int row, float &scale, float &offset) const {
        read(head[row], word[row], at, run, scale, offset);
    }
    __device__ __forceinline__ static void read(uint32_t h, uint32_t w, int at, int run,
                                                float &scale, float &offset) {
        constexpr float unit = f::biased ? -0.0625f : 1.0f;
        scale = 1, offset = 0;
        if constexpr (scaling == SCALING_HALF) scale = low(w >> at);
        if constexpr (scaling == SCALING_HALF_OFFSET) {
            scale = low(w);
            offset = high(w) * unit;
        }
        if constexpr (scaling == SCALING_HALF_ZERO) {
            scale = low(w);
            offset = scale * (high(w) * -unit);
        }
        if constexpr (scaling == SCALING_FLOAT) scale = __uint_as_float(w);
        if constexpr (scaling == SCALING_FLOAT_ZERO) {
            scale = __uint_as_float(h);
            offset = scale * (__uint_as_float(w) * -unit);
        }
        if constexpr (scaling == SCALING_STEPS)
            scale = low(h) * cu_float_of_signed(w >> (at + 8 * run) & 0xffu);
        if constexpr (scaling == SCALING_STEPS_LESS) {
            constexpr float power = f::biased ? 0x1p19f : 0x1p23f, sign = f::biased ? 1.0f : -1.0f;
            const int s = at / 8 + 2 * run;
            const float d = low(h), m = high(h) * sign;
            scale = __fmaf_rn(d, cu_byte_in(0x1p23f, w, s), -0x1p23f * d);
            offset = __fmaf_rn(m, cu_byte_in(power, w, s + 1), -power * m);
        }
    }
};

template <int format> CU_DEV const uint8_t *cu_scales_at(const uint8_t *tile, int lane) {
    return tile + cu_format<format>::code_bytes + lane / 4 * 2 * cu_format<format>::row_scales;
}

/* Of both halves of a tile in shared memory, in few loads. */
template <int format>
CU_DEV void cu_load_scales(const uint8_t *tile, int lane, cu_scales<format> (&halves)[2]) {
    using f = cu_format<format>;
    constexpr int bytes = f::row_scales, words = f::scaled ? bytes / 2 : 1; /* of two rows */
    uint32_t all[words] = {};
    if constexpr (f::scaled) cu_load_words(cu_scales_at<format>(tile, lane), all);
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int row = 0; row < 2; row++) {
            cu_scales<format> &to = halves[h];
            uint32_t *own = all + row * bytes / 4;
            to.head[row] = to.word[row] = 0;
            to.at = 0;
            if constexpr (f::scaling == SCALING_HALF && f::run == 64)
                to.word[row] = all[0] >> 16 * row;
            else if constexpr (f::scaling == SCALING_HALF)
                to.word[row] = own[0], to.at = 16 * h;
            else if constexpr (f::scaling == SCALING_FLOAT_ZERO)
                to.head[row] = own[2 * h], to.word[row] = own[2 * h + 1];
            else if constexpr (f::scaling == SCALING_STEPS) /* rows of six bytes */
                to.head[row] = row ? all[1] >> 16 : all[0],
                to.word[row] = row ? all[2] : all[0] >> 16 | all[1] << 16, to.at = 16 * h;
            else if constexpr (f::scaling == SCALING_STEPS_LESS)
                to.head[row] = own[0], to.word[row] = own[f::run == 16 ? 1 + h : 1],
                to.at = f::run == 16 ? 0 : 16 * h;
            else if constexpr (f::scaled)
                to.word[row] = own[f::run == 64 ? 0 : h];
        }
}

/* Of one half, whichever, for the row whose scales begin at `from`: as cu_scales has them, from bit 0 on. */
template <int format>
CU_DEV void cu_load_row_scales(const uint8_t *from, int half, uint32_t &head, uint32_t &word) {
    using f = cu_format<format>;
    constexpr int shared = f::scaling == SCALING_STEPS ? 2 : f::scaling == SCALING_STEPS_LESS ? 4 : 0;
    constexpr int each = f::run == 64 ? f::row_scales : (f::row_scales - shared) / 2;
    const uint8_t *own = from + shared + (f::run == 64 ? 0 : half * each);
    head = word = 0;
    if constexpr (f::scaling == SCALING_STEPS) head = cu_two_bytes(from);
    if constexpr (f::scaling == SCALING_STEPS_LESS) head = cu_four_bytes(from);
    if constexpr (f::scaling == SCALING_FLOAT_ZERO)
        head = cu_four_bytes(own), word = cu_four_bytes(own + 4);
    else if constexpr (f::scaled)
        word = each == 2 ? cu_two_bytes(own) : cu_four_bytes(own);
}

/* .. for the lane's two rows. */
template <int format>
CU_DEV void cu_load_scales_of(const uint8_t *tile, int half, int lane, cu_scales<format> &to) {
    using f = cu_format<format>;
    if constexpr (f::run == 64) { /* the same for both */
        cu_scales<format> halves[2];
        cu_load_scales<format>(tile, lane, halves);
        to = halves[0];
        return;
    }
    to.at = 0;
#pragma unroll
    for (int row = 0; row < 2; row++)
        cu_load_row_scales<format>(cu_scales_at<format>(tile, lane) + row * f::row_scales, half,
                                   to.head[row], to.word[row]);
}

#endif
