/* cuda_weight.h - one weight of a matrix in tiles (cuda_matrix.h), for kernels that look rows up. */
// SPDX-License-Identifier: Apache-2.0
#ifndef CUDA_WEIGHT_H
#define CUDA_WEIGHT_H

#include "kernels/cuda/cuda_fragments.h"

/* A byte as a float: or-ed into the fraction of 2^23, whose last place is 1. */
CU_DEV float cu_float_of_byte(uint32_t byte) {
    return __uint_as_float(0x4b000000u | byte) - 8388608.0f;
}

/* What the scales of a row say of a run: d and m (or z) as floats, s and o as bytes. */
template <cuda_scaling scaling>
CU_DEV void cu_scale_of(float d, float m, uint32_t s, uint32_t o, float &scale, float &offset) {
    scale = d;
    if (scaling == SCALING_STEPS) scale = d * cu_float_of_signed(s);
    if (scaling == SCALING_STEPS_LESS) scale = d * cu_float_of_byte(s);
    offset = scaling == SCALING_HALF_OFFSET ? m : 0.0f;
    if (scaling == SCALING_HALF_ZERO || scaling == SCALING_FLOAT_ZERO) offset = -d * m;
    if (scaling == SCALING_STEPS_LESS) offset = -m * cu_float_of_byte(o);
}

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

/* A float of 8 bits (quant.h): a half has its exponent and fraction four places higher, and another bias. */
CU_DEV float cu_float_of_e4m3(uint32_t code) {
    return cu_from_f16(static_cast<uint16_t>((code & 0x80u) << 8 | (code & 0x7fu) << 7)) * 256.0f;
}

template <int format> CU_DEV float cu_weight_of(const uint8_t *tile, uint32_t row, uint32_t col) {
    using f = cu_format<format>;
    const uint32_t at = cuda_code_at(f::codes, f::run, row, col);
    if constexpr (f::codes == CODES_BF16) {
        return cu_from_bf16(*reinterpret_cast<const uint16_t *>(tile + at / 8));
    } else {
        float scale, offset, value = 0;
        if constexpr (f::codes == CODES_4) {
            const uint32_t word = *reinterpret_cast<const uint32_t *>(tile + at / 32 * 4);
            const uint32_t code = __funnelshift_r(word, word, CUDA_CODE_4_TURN) >> at % 32 & 15u;
            value = static_cast<float>(code) - (f::offset ? 0.0f : 8.0f);
        }
        if constexpr (f::codes == CODES_8) value = cu_float_of_signed(tile[at / 8]);
        if constexpr (f::codes == CODES_E4M3) value = cu_float_of_e4m3(tile[at / 8]);
        cu_read_scale<format>(tile + f::code_bytes + row * f::row_scales,
                              static_cast<int>(col / f::run), scale, offset);
        return __fadd_rn(__fmul_rn(scale, value), offset);
    }
}

/* Of row `row` and column `col` in the matrix's own order: it meets input matrix.order[col]. Straight from
 * memory: neighbours of a column are not neighbours there. */
CU_DEV float cu_weight(const cuda_matrix_view &matrix, uint32_t row, uint32_t col) {
    const size_t tile =
        static_cast<size_t>(row / CUDA_TILE_ROWS) * matrix.chunks + col / CUDA_TILE_COLS;
    const uint8_t *at = matrix.tiles + tile * matrix.tile_bytes;
    switch (matrix.format) {
#define CU_WEIGHT_CASE(name, codes, scaling, run)                                                  \
    case CUDA_##name:                                                                              \
        return cu_weight_of<CUDA_##name>(at, row % CUDA_TILE_ROWS, col % CUDA_TILE_COLS);
        CUDA_FORMATS(CU_WEIGHT_CASE)
#undef CU_WEIGHT_CASE
    default:
        return 0;
    }
}

#endif
