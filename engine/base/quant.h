/* quant.h - the block formats in which tensors lie in files and reach a backend, as one table.
 *
 * Shared by the file readers (engine/model) and by the backends that pack matrices (kernels).
 * A new format is a layout in quant_blocks.h, a row and a reader in quant.c; a backend that packs
 * matrices adds a row of its own. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_BASE_QUANT_H
#define ESPALIER_BASE_QUANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum esp_dtype {
    DT_F32,
    DT_F16,
    DT_BF16,
    DT_Q8_0,   /* 32 weights: d f16, 32 int8; w = d*q */
    DT_Q4_0,   /* 32 weights, codes of 4 bits:  w = d*(q-8) */
    DT_Q4_1,   /*                               w = d*q + m */
    DT_Q5_0,   /* codes of 5 bits:              w = d*(q-16) */
    DT_Q5_1,   /*                               w = d*q + m */
    DT_IQ4_NL, /* codes of 4 bits into a table: w = d*table[q] */
    DT_Q2_K,   /* 256 weights, a scale and minimum each 16: w = d*scale*q - m*minimum */
    DT_Q3_K,   /* a scale each 16:              w = d*scale*(q-4) */
    DT_Q4_K,   /* a scale and minimum each 32:  w = d*scale*q - m*minimum */
    DT_Q5_K,   /* as Q4_K, codes of 5 bits */
    DT_Q6_K,   /* a scale each 16:              w = d*scale*(q-32) */
    DT_IQ4_XS, /* a scale each 32:              w = d*scale*table[q] */
    /* In no file: what the packings of Hugging Face folders become (engine/model). */
    DT_G2, /* 32 weights, a float32 scale and a zero point, codes of 2 bits: w = scale*(q-zero) */
    DT_G3,
    DT_G4,
    DT_G8,
    DT_F8_E4M3, /* 32 weights, a float32 scale, bytes that are floats: w = scale*e4m3(q) */
    DT_COUNT,
    DT_KV_INT8, /* no tensor's: one of the ways to keep keys and values (kernels/kernels.h) */
} esp_dtype; /* byte by byte: quant_blocks.h */

enum { QUANT_PIECE = 32 }; /* weights */

/* 32 consecutive weights of a format with a quant_coding, unpacked. */
typedef struct quant_piece {
    uint8_t codes[QUANT_PIECE];
    uint16_t d, m;      /* f16; m 0 where the format has no offset */
    int8_t scale[2];    /* of weights 0..15 and 16..31; 1 where the block has d alone */
    uint8_t minimum[2]; /* likewise; 1 where the block has m alone */
    float group_scale;  /* of DT_G2 to DT_G8, which have none of the above */
    uint16_t zero;
} quant_piece;

/* What the codes of such a format mean: w = group_scale * (codes[i] - zero) where `grouped`; else,
 * with h the half that weight i lies in,
 *   w = (d * scale[h]) * value(codes[i])                                  offset 0
 *   w = (d * scale[h]) * value(codes[i]) + offset * (m * minimum[h])      offset 1 or -1
 * each operation rounded to float32; the products of scales are exact. */
typedef struct quant_coding {
    uint32_t code_bits;
    uint32_t scale_cols;  /* weights that share a scale: 32 or 16 */
    bool grouped;         /* DT_G2 to DT_G8 */
    int32_t offset;       /* 0: none; 1: m is added; -1: m * minimum is taken away */
    int32_t first;        /* value(code) = first + code, unless ... */
    const int8_t *values; /* ... this is set: value(code) = values[code] */
    void (*read)(const void *blocks, size_t piece, quant_piece *out);
} quant_coding;

typedef struct dtype_row {
    const char *name;        /* "Q4_1" */
    uint32_t block_elements; /* 1, 32 or 256 */
    uint32_t block_bytes;
    const quant_coding *coding; /* NULL for F32, F16, BF16, Q8_0, F8_E4M3: elements are whole */
    /* count weights, a multiple of block_elements, to float32, exactly as the format defines. */
    void (*dequantise)(const void *blocks, float *out, size_t count);
} dtype_row;

/* The values of IQ4_NL's and IQ4_XS's codes. */
extern const int8_t quant_iq4_values[16];

static inline float quant_value(const quant_coding *coding, uint8_t code) {
    return (float)(coding->values ? coding->values[code] : coding->first + code);
}

/* Never NULL for a dtype below DT_COUNT. */
const dtype_row *dtype_info(esp_dtype dtype);

/* Whether the format's codes are whole numbers of at most 8 bits. */
static inline bool dtype_has_whole_codes(esp_dtype dtype) {
    return dtype == DT_Q8_0 || dtype_info(dtype)->coding;
}

/* Whether all of count weights, a multiple of block_elements, are finite numbers. About as fast as
 * memory gives the blocks (quant_finite.c). */
bool quant_finite(esp_dtype dtype, const void *blocks, size_t count);

static inline float f32_of_bits(uint32_t bits) {
    union {
        uint32_t u;
        float f;
    } x = {bits};
    return x.f;
}
static inline uint32_t bits_of_f32(float f) {
    union {
        float f;
        uint32_t u;
    } x = {f};
    return x.u;
}
static inline float f32_of_bf16(uint16_t h) { return f32_of_bits((uint32_t)h << 16); }
/* Round to nearest even; NaN stays NaN. */
static inline uint16_t bf16_of_f32(float f) {
    uint32_t u = bits_of_f32(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
/* A float of 8 bits, 4 of them exponent (arXiv:2209.05433): no infinities; 0x7f and 0xff are NaN. */
float f32_of_e4m3(uint8_t code);
float f32_of_f16(uint16_t h);
uint16_t f16_of_f32(float f); /* round to nearest even */

#endif
