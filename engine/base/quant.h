/* quant.h - the block formats in which tensors lie in files, as one table.
 *
 * Shared by the file readers (engine/model) and by the backends that pack matrices (kernels).
 * A new format is one row here plus one unpack routine per backend.
 * Layouts: ggml-common.h of the GGUF reference implementation; all little-endian. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_BASE_QUANT_H
#define ESPALIER_BASE_QUANT_H

#include <stddef.h>
#include <stdint.h>

typedef enum esp_dtype {
    DT_F32,
    DT_F16,
    DT_BF16,
    DT_Q8_0, /* 32 weights: f16 d, int8 q[32];                 w = d*q         34 bytes */
    DT_Q4_0, /* 32 weights: f16 d, u8 q[16];                   w = d*(q-8)     18 bytes */
    DT_Q4_1, /* 32 weights: f16 d, f16 m, u8 q[16];            w = d*q + m     20 bytes
              * In both, byte i holds weight i in its low nibble, weight i+16 in its high one. */
    DT_COUNT
} esp_dtype;

typedef struct dtype_row {
    const char *name;        /* "Q4_1" */
    uint32_t block_elements; /* 1 or 32 */
    uint32_t block_bytes;
    /* count weights, a multiple of block_elements, to float32, exactly as the format defines. */
    void (*dequantise)(const void *blocks, float *out, size_t count);
} dtype_row;

/* Never NULL for a dtype below DT_COUNT. */
const dtype_row *dtype_info(esp_dtype dtype);

static inline float f32_of_bits(uint32_t bits) {
    union { uint32_t u; float f; } x = {bits};
    return x.f;
}
static inline uint32_t bits_of_f32(float f) {
    union { float f; uint32_t u; } x = {f};
    return x.u;
}
static inline float f32_of_bf16(uint16_t h) {
    return f32_of_bits((uint32_t)h << 16);
}
/* Round to nearest even; NaN stays NaN. */
static inline uint16_t bf16_of_f32(float f) {
    uint32_t u = bits_of_f32(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
float f32_of_f16(uint16_t h);
uint16_t f16_of_f32(float f); /* round to nearest even */

#endif
