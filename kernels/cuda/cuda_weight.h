/* cuda_weight.h - one weight of a matrix in tiles (cuda_matrix.h), for kernels that look rows up. */
// SPDX-License-Identifier: Apache-2.0
#ifndef CUDA_WEIGHT_H
#define CUDA_WEIGHT_H

#include "kernels/cuda/cuda_fragments.h"

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
        uint32_t head, word;
        const uint8_t *scales = tile + f::code_bytes + row * f::row_scales;
        cu_load_row_scales<format>(scales, static_cast<int>(col / 32), head, word);
        cu_scales<format>::read(head, word, 0, static_cast<int>(col % 32 / f::run), scale, offset);
        /* What the sum of code + 16 wants is not what a code wants. */
        if (f::biased) offset *= -16.0f;
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
