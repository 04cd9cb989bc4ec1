/* cuda_matrix.h - a weight matrix on the device: its layout, its view by kernels, how to read a weight.
 *
 * A matrix is cut into tiles of 16 rows and 64 columns, both padded with weights of 0; a row of tiles lies
 * tile after tile along the columns, so that a warp which goes along its inputs reads one stream. A tile is
 * codes, then scales. Codes lie as mma.m16n8k16 wants its A operand, weights being A: of each half of 32
 * columns, which is two steps of 16, lane l has its bits in one word, the words of lanes 0..31 one after another.
 * With g = l / 4, t = l % 4
 *   the lane's rows g and g + 8 of the operand are rows 2g and 2g + 1 of the tile, so that a thread's
 *   results are neighbours in memory;
 *   the lane's columns are neighbours too, so that inputs come 16 bytes at a time into a lane's registers:
 *     runs of 32, 64   the two steps of 16 in 32 columns: lane t has 8t .. 8t+7, step s of them 4s .. 4s+3
 *     runs of 16       a step: lane t has 4t .. 4t+3
 *   each step's four columns are a0 (or a1) low and high half, then a2 (or a3) low and high half.
 * Of a step, a lane has
 *   CODES_BF16   128 bits, a0 a1 a2 a3; here each step has its own word
 *   CODES_8      64 bits: byte i % 2 + 2e of dword i / 2 is half e of a_i
 *   CODES_E4M3   likewise
 *   CODES_4      32 bits, turned left by CUDA_CODE_4_TURN: before that nibble i + 4e is half e of a_i. So a shift by
 *                whole nibbles brings each to the upper end of a bf16's fraction
 * Scales lie row after row; a row has them for each run of weights that share one (see cuda_scaling). All of
 * it is exact but for DT_F32 and DT_F16, which become bf16 (relative error up to 2^-8). An image is a head of
 * 64 bytes (cuda_head), then the tiles.
 *
 * Owner   kernels/cuda/cuda_tiles.c fills tiles, cuda_pack.c brings them to the device. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CUDA_MATRIX_H
#define ESPALIER_CUDA_MATRIX_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/kernels.h"

#ifdef __CUDACC__
#define CUDA_BOTH static constexpr __host__ __device__ __forceinline__
#elif defined(__cplusplus)
#define CUDA_BOTH [[maybe_unused]] static constexpr
#else
#define CUDA_BOTH static inline
#endif

enum {
    CUDA_TILE_ROWS = 16,
    CUDA_TILE_COLS = 64,
    CUDA_HEAD_BYTES = 64,
    CUDA_CODE_4_TURN = 3,
};

typedef enum cuda_codes {
    CODES_BF16, /* whole weights */
    CODES_4,    /* 0..15; in formats without a zero point or an offset, of value code - 8 */
    CODES_8,    /* int8 */
    CODES_E4M3, /* floats */
} cuda_codes;

/* Of a row in a tile, with n = 64 / columns of a run; w = scale * value + offset. */
typedef enum cuda_scaling {
    SCALING_NONE,
    SCALING_HALF,        /* f16 d[n]                            scale d */
    SCALING_HALF_OFFSET, /* { f16 d, m }[n]                     scale d, offset m */
    SCALING_HALF_ZERO,   /* { f16 d, z }[n]                     scale d, offset -(d * z) */
    SCALING_FLOAT,       /* f32 d[n]                            scale d */
    SCALING_FLOAT_ZERO,  /* { f32 d, z }[n]                     scale d, offset -(d * z) */
    SCALING_STEPS,       /* f16 d, int8 s[n]                    scale d * s */
    SCALING_STEPS_LESS,  /* f16 d, m, { uint8 s, o }[n]         scale d * s, offset -(m * o) */
} cuda_scaling;

/* name, codes, scaling, columns of a run */
#define CUDA_FORMATS(X)                                                                            \
    X(BF16, CODES_BF16, SCALING_NONE, 64)                                                          \
    X(C4_HALF, CODES_4, SCALING_HALF, 32)             /* Q4_0 */                                   \
    X(C4_HALF_64, CODES_4, SCALING_HALF, 64)          /* G2 to G4, see cuda_tiles.h */             \
    X(C4_OFFSET, CODES_4, SCALING_HALF_OFFSET, 32)    /* Q4_1 */                                   \
    X(C4_LESS, CODES_4, SCALING_STEPS_LESS, 32)       /* Q4_K */                                   \
    X(C4_LESS_16, CODES_4, SCALING_STEPS_LESS, 16)    /* Q2_K */                                   \
    X(C4_STEPS_16, CODES_4, SCALING_STEPS, 16)        /* Q3_K */                                   \
    X(C4_ZERO, CODES_4, SCALING_HALF_ZERO, 32)        /* G2 to G4 whose scales are halves */       \
    X(C4_ZERO_64, CODES_4, SCALING_HALF_ZERO, 64)     /* ... that hold for 64 columns or more */   \
    X(C4_FLOAT_ZERO, CODES_4, SCALING_FLOAT_ZERO, 32) /* ... others */                             \
    X(C8_HALF, CODES_8, SCALING_HALF, 32)             /* Q8_0, Q5_0, IQ4_NL */                     \
    X(C8_OFFSET, CODES_8, SCALING_HALF_OFFSET, 32)    /* Q5_1 */                                   \
    X(C8_LESS, CODES_8, SCALING_STEPS_LESS, 32)       /* Q5_K */                                   \
    X(C8_STEPS_16, CODES_8, SCALING_STEPS, 16)        /* Q6_K, IQ4_XS */                           \
    X(C8_FLOAT_ZERO, CODES_8, SCALING_FLOAT_ZERO, 32) /* G8 */                                     \
    X(E4M3_FLOAT, CODES_E4M3, SCALING_FLOAT, 32)      /* F8_E4M3 */

#define CUDA_FORMAT_NAME(name, codes, scaling, run) CUDA_##name,
typedef enum cuda_format { CUDA_FORMATS(CUDA_FORMAT_NAME) CUDA_FORMAT_COUNT } cuda_format;
#undef CUDA_FORMAT_NAME

/* What a format's name says, as numbers. */
typedef struct cuda_format_row {
    cuda_codes codes;
    cuda_scaling scaling;
    uint32_t run; /* 16, 32 or 64 columns */
} cuda_format_row;

/* A matrix as a kernel sees it. */
typedef struct cuda_matrix_view {
    const uint8_t *tiles;  /* device; 64-byte aligned */
    const uint32_t *order; /* device: column c meets input order[c]; or NULL */
    uint32_t rows, cols;
    uint32_t chunks;     /* tiles along the columns */
    uint32_t tile_bytes; /* a multiple of 32 */
    uint32_t format;     /* cuda_format */
} cuda_matrix_view;

#ifndef __cplusplus
/* An order of inputs, shared by the matrices that have it: linear tells by the pointer that they do. */
typedef struct cuda_order {
    struct cuda_order *next;
    uint32_t users, cols;
    uint32_t *there;   /* device */
    uint32_t inputs[]; /* [cols] host */
} cuda_order;

/* Of this backend; the host's side. */
struct kern_matrix {
    esp_dtype dtype; /* as it was packed from */
    cuda_matrix_view view;
    uint8_t *memory;          /* device: head and tiles */
    uint64_t bytes;           /* of them */
    struct cuda_order *order; /* that view.order is of, or NULL */
    kern_device *dev;
    uint8_t *image; /* host: the memory's bytes, once kern_ops.image was called */
};
#endif

/* The first bytes of an image, zero to CUDA_HEAD_BYTES. */
typedef struct cuda_head {
    uint32_t format;
} cuda_head;

CUDA_BOTH cuda_format_row cuda_format_of(uint32_t format) {
#define CUDA_FORMAT_ROW(name, codes, scaling, run) {codes, scaling, run},
    const cuda_format_row rows[CUDA_FORMAT_COUNT] = {CUDA_FORMATS(CUDA_FORMAT_ROW)};
#undef CUDA_FORMAT_ROW
    return rows[format];
}

CUDA_BOTH uint32_t cuda_code_bits(cuda_codes codes) {
    return codes == CODES_BF16 ? 16 : codes == CODES_4 ? 4 : 8;
}

CUDA_BOTH uint32_t cuda_code_bytes(cuda_codes codes) {
    return CUDA_TILE_ROWS * CUDA_TILE_COLS * cuda_code_bits(codes) / 8;
}

/* Of the scales of a row in a tile. */
CUDA_BOTH uint32_t cuda_scale_bytes(cuda_scaling scaling, uint32_t run) {
    uint32_t n = CUDA_TILE_COLS / run;
    switch (scaling) {
    case SCALING_HALF:
        return 2 * n;
    case SCALING_HALF_OFFSET:
    case SCALING_HALF_ZERO:
    case SCALING_FLOAT:
        return 4 * n;
    case SCALING_FLOAT_ZERO:
        return 8 * n;
    case SCALING_STEPS:
        return 2 + n;
    case SCALING_STEPS_LESS:
        return 4 + 2 * n;
    default:
        return 0;
    }
}

CUDA_BOTH uint32_t cuda_tile_bytes(uint32_t format) {
    cuda_format_row f = cuda_format_of(format);
    return cuda_code_bytes(f.codes) + CUDA_TILE_ROWS * cuda_scale_bytes(f.scaling, f.run);
}

/* Where a tile has the code of a row and a column: in bits from its beginning; of CODES_4 before the word is turned. */
CUDA_BOTH uint32_t cuda_code_at(cuda_codes codes, uint32_t run, uint32_t row, uint32_t col) {
    uint32_t wide = run != 16, t = wide ? col % 32 / 8 : col % 16 / 4;
    uint32_t step = wide ? col / 32 * 2 + col % 8 / 4 : col / 16;
    uint32_t lane = row / 2 * 4 + t, i = row % 2 + col % 4 / 2 * 2, e = col % 2;
    switch (codes) {
    case CODES_BF16:
        return (step * 32 + lane) * 128 + i * 32 + e * 16;
    case CODES_4:
        return (step / 2 * 32 + lane) * 64 + step % 2 * 32 + (i + 4 * e) * 4;
    default:
        return (step / 2 * 32 + lane) * 128 + (step % 2 * 2 + i / 2) * 32 + (i % 2 + 2 * e) * 8;
    }
}

#endif
