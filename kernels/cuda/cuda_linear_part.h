/* cuda_linear_part.h - what the kernels of a linear are told, and what they do with a sum.
 *
 * For cuda_linear*.cu. Rows are worked in pairs of tiles: two neighbours of one matrix or, gated, the same
 * tile of gate and up, so that a warp has at hand what is to be combined. */
// SPDX-License-Identifier: Apache-2.0
#ifndef CUDA_LINEAR_PART_H
#define CUDA_LINEAR_PART_H

#include "kernels/cuda/cuda_fragments.h"
#include "kernels/cuda/cuda_launch.h"

enum {
    LINEAR_WARPS = 8,
    LINEAR_THREADS = 32 * LINEAR_WARPS,
    LINEAR_SEGMENTS = LINEAR_WARPS, /* at most: of the columns */
};

/* One matrix of a linear. */
struct linear_part {
    const uint8_t *tiles;
    const uint16_t *in; /* bf16 rows, 16-byte aligned */
    uint32_t in_stride; /* elements from row to row, a multiple of 8 */
    uint32_t in_cols;   /* readable ones of a row, a multiple of 8 */
    const float *bias;  /* or NULL */
    uint32_t rows, tile_rows;
    uint32_t format;
    uint32_t index; /* in the op */
    uint32_t first; /* output column of row 0; of delta too */
};

struct linear_params {
    linear_part part[LINEAR_MATRICES_MAX];
    uint32_t part_count;
    uint32_t pairs[LINEAR_MATRICES_MAX]; /* of tiles, of each part; gated: of both together */
    uint32_t chunks;                     /* tiles along the columns */
    /* Segment s of them is [border[s], border[s + 1]), maybe none, and summed up by itself. The sums are added
     * in order or, as a tree, two by two. */
    uint32_t border[LINEAR_SEGMENTS + 1];
    uint32_t segments;
    bool tree;
    uint32_t token_count, out_cols;
    kern_epilogue epilogue;
    bool gated;
    bool even; /* neighbouring outputs may be stored as one word: they begin at one, and rows do */
    float softcap;
    const float *delta; /* cuda_launch.h; delta_cols: of a token */
    uint32_t delta_cols, matrix_count;
    const uint8_t *updated;
    const float *const *magnitude;
    const float *const *lora_bias;
    void *out;
    /* Levels of a tree that cuda_linear_many.h keeps in shared memory; the others' are in stack. */
    uint32_t levels_on_chip;
    uint8_t *stack;
};

/* Tokens of a block: 8, 16, 32 with every warp on its own columns (cuda_linear_few.h), or 128 and, of whole weights,
 * 192 (cuda_linear_many.h). The same bits come of all of them. */
enum linear_shape { LINEAR_8, LINEAR_16, LINEAR_32, LINEAR_128, LINEAR_192 };

/* The launchers of formats whose codes have so many bits, of all parts one format; cudaErrorInvalidValue for
 * others'. Mixed: gate and up in different formats, or with their inputs in different orders. */
int linear_launch_16(const linear_params &p, linear_shape shape, cudaStream_t stream);
int linear_launch_8(const linear_params &p, linear_shape shape, cudaStream_t stream);
int linear_launch_4(const linear_params &p, linear_shape shape, cudaStream_t stream);
int linear_launch_mixed(const linear_params &p, cudaStream_t stream);

/* ---- which rows */

struct linear_pair {
    int part[2];
    uint32_t tile[2];
};

/* index counts the pairs of all parts, each part's a multiple of `group`. */
CU_DEV linear_pair linear_pair_of(const linear_params &p, uint32_t index, uint32_t group) {
    linear_pair pair = {{0, 1}, {index, index}};
    if (p.gated) return pair;
    int part = 0;
#pragma unroll
    for (int i = 0; i + 1 < LINEAR_MATRICES_MAX; i++) {
        const uint32_t pairs = (p.pairs[i] + group - 1) / group * group;
        if (part == i && i + 1 < static_cast<int>(p.part_count) && index >= pairs) {
            index -= pairs;
            part = i + 1;
        }
    }
    pair.part[0] = pair.part[1] = part;
    pair.tile[0] = 2 * index;
    pair.tile[1] = 2 * index + 1;
    return pair;
}

/* A tile beyond the matrix reads the last one; its rows are not stored. */
CU_DEV const uint8_t *linear_tiles(const linear_params &p, int part, uint32_t tile,
                                   uint32_t tile_bytes) {
    const linear_part &of = p.part[part];
    return of.tiles + static_cast<size_t>(min(tile, of.tile_rows - 1)) * p.chunks * tile_bytes;
}

/* ---- what becomes of a sum. Products and sums here are never contracted, so that all kernels round alike. */

CU_DEV float linear_silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }

/* The tanh form; sqrt(2/pi) is 0.797.. */
CU_DEV float linear_gelu(float x) {
    const float cube = __fmul_rn(__fmul_rn(x, x), x);
    const float inner = __fmul_rn(0.7978845608028654f, __fmaf_rn(0.044715f, cube, x));
    return __fmul_rn(__fmul_rn(0.5f, x), __fadd_rn(1.0f, tanhf(inner)));
}

CU_DEV float linear_gelu_erf(float x) {
    const float tail = erff(__fmul_rn(x, 0.70710678118654752f));
    return __fmul_rn(__fmul_rn(0.5f, x), __fadd_rn(1.0f, tail));
}

/* ((sum + delta) * magnitude + bias) + lora_bias */
CU_DEV float linear_complete(const linear_params &p, const linear_part &part, uint32_t token,
                             uint32_t row, float y) {
    const bool updated = p.delta && p.updated[token];
    const size_t at = static_cast<size_t>(token) * p.matrix_count + part.index;
    if (updated) {
        y = __fadd_rn(y, p.delta[static_cast<size_t>(token) * p.delta_cols + part.first + row]);
        if (p.magnitude && p.magnitude[at]) y = __fmul_rn(y, p.magnitude[at][row]);
    }
    if (part.bias) y = __fadd_rn(y, part.bias[row]);
    if (updated && p.lora_bias && p.lora_bias[at]) y = __fadd_rn(y, p.lora_bias[at][row]);
    return y;
}

CU_DEV float linear_activate(const linear_params &p, float y) {
    switch (p.epilogue) {
    case EPI_SOFTCAP:
        return __fmul_rn(p.softcap, tanhf(__fdiv_rn(y, p.softcap)));
    case EPI_GELU:
        return linear_gelu(y);
    case EPI_GELU_ERF:
        return linear_gelu_erf(y);
    default:
        return y;
    }
}

CU_DEV bool linear_gives_act(const linear_params &p) {
    return p.gated || p.epilogue == EPI_GELU || p.epilogue == EPI_GELU_ERF;
}

/* Outputs col and, if two, col + 1 of a token. */
CU_DEV void linear_store(const linear_params &p, uint32_t token, uint32_t col, bool two, float y0,
                         float y1) {
    const size_t at = static_cast<size_t>(token) * p.out_cols + col;
    if (linear_gives_act(p)) {
        uint16_t *out = static_cast<uint16_t *>(p.out) + at;
        if (two && p.even) {
            *reinterpret_cast<uint32_t *>(out) = cu_pack_bf16(y0, y1);
            return;
        }
        out[0] = cu_to_bf16(y0);
        if (two) out[1] = cu_to_bf16(y1);
        return;
    }
    float *out = static_cast<float *>(p.out) + at;
    if (two && p.even) {
        float2 old = make_float2(0, 0);
        if (p.epilogue == EPI_RESIDUAL) {
            old = *reinterpret_cast<const float2 *>(out);
            y0 = __fadd_rn(old.x, y0);
            y1 = __fadd_rn(old.y, y1);
        }
        *reinterpret_cast<float2 *>(out) = make_float2(y0, y1);
        return;
    }
    out[0] = p.epilogue == EPI_RESIDUAL ? __fadd_rn(out[0], y0) : y0;
    if (two) out[1] = p.epilogue == EPI_RESIDUAL ? __fadd_rn(out[1], y1) : y1;
}

/* The sums of rows row and row + 1 of a matrix for a token; it may be that neither is there. */
CU_DEV void linear_finish(const linear_params &p, int part, uint32_t token, uint32_t row, float y0,
                          float y1) {
    const linear_part &of = p.part[part];
    if (token >= p.token_count || row >= of.rows) return;
    const bool two = row + 1 < of.rows;
    y0 = linear_activate(p, linear_complete(p, of, token, row, y0));
    if (two) y1 = linear_activate(p, linear_complete(p, of, token, row + 1, y1));
    linear_store(p, token, of.first + row, two, y0, y1);
}

CU_DEV float linear_gate(const linear_params &p, uint32_t token, uint32_t row, float gate,
                         float up) {
    gate = linear_complete(p, p.part[0], token, row, gate);
    up = linear_complete(p, p.part[1], token, row, up);
    return __fmul_rn(p.epilogue == EPI_GELU_MUL ? linear_gelu(gate) : linear_silu(gate), up);
}

/* The same of gate's and up's rows. */
CU_DEV void linear_finish_gated(const linear_params &p, uint32_t token, uint32_t row,
                                const float (&gate)[2], const float (&up)[2]) {
    if (token >= p.token_count || row >= p.part[0].rows) return;
    const bool two = row + 1 < p.part[0].rows;
    const float y0 = linear_gate(p, token, row, gate[0], up[0]);
    const float y1 = two ? linear_gate(p, token, row + 1, gate[1], up[1]) : 0.0f;
    linear_store(p, token, row, two, y0, y1);
}

#endif
