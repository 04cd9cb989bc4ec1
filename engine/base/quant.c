/* quant.c - the table of formats, and the exact meaning of each block as float32.
 *
 * Source  block_q8_0, block_q4_0, block_q4_1 of the GGUF reference implementation (ggml-common.h).
 * Blocks in files are not aligned for their halves, hence the copies. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/base/quant.h"

#include <string.h>

#include "engine/base/status.h"

enum { BLOCK = 32, F16_BYTES = 2 };

float f32_of_f16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h >> 10 & 31u, fraction = h & 0x3ffu;
    if (exponent == 0) {
        float magnitude = (float)fraction * 0x1p-24f; /* zero or subnormal */
        return f32_of_bits(bits_of_f32(magnitude) | sign);
    }
    if (exponent == 31) {
        uint32_t quiet = fraction ? 0x400000u : 0; /* as the hardware's conversion does */
        return f32_of_bits(sign | 0x7f800000u | fraction << 13 | quiet);
    }
    return f32_of_bits(sign | (exponent + 127 - 15) << 23 | fraction << 13);
}

/* Below 2^-14 halves step by 2^-24, which is the step of floats in [0.5, 1): adding 0.5 rounds. */
static uint32_t subnormal_half(float magnitude) {
    return bits_of_f32(magnitude + 0.5f) - bits_of_f32(0.5f);
}

uint16_t f16_of_f32(float f) {
    uint32_t u = bits_of_f32(f), sign = u >> 16 & 0x8000u, half;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) {
        half = 0x7e00u | (u >> 13 & 0x3ffu);
    } else if (u >= bits_of_f32(65520.0f)) { /* half way above the largest, 65504 */
        half = 0x7c00u;
    } else if (u < bits_of_f32(0x1p-14f)) {
        half = subnormal_half(f32_of_bits(u));
    } else {
        half = (u + 0xfffu + (u >> 13 & 1u) - ((127u - 15u) << 23)) >> 13;
    }
    return (uint16_t)(sign | half);
}

static uint16_t load_u16(const uint8_t *bytes) {
    uint16_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

static void from_f32(const void *blocks, float *out, size_t count) {
    memcpy(out, blocks, count * sizeof *out);
}

static void from_f16(const void *blocks, float *out, size_t count) {
    const uint8_t *in = blocks;
    for (size_t i = 0; i < count; i++)
        out[i] = f32_of_f16(load_u16(in + i * 2));
}

static void from_bf16(const void *blocks, float *out, size_t count) {
    const uint8_t *in = blocks;
    for (size_t i = 0; i < count; i++)
        out[i] = f32_of_bf16(load_u16(in + i * 2));
}

static void from_q8_0(const void *blocks, float *out, size_t count) {
    const uint8_t *in = blocks;
    for (size_t i = 0; i < count; i += BLOCK, in += F16_BYTES + BLOCK) {
        float d = f32_of_f16(load_u16(in));
        for (size_t j = 0; j < BLOCK; j++)
            out[i + j] = d * (float)(int8_t)in[F16_BYTES + j];
    }
}

static void from_q4_0(const void *blocks, float *out, size_t count) {
    const uint8_t *in = blocks;
    for (size_t i = 0; i < count; i += BLOCK, in += F16_BYTES + BLOCK / 2) {
        float d = f32_of_f16(load_u16(in));
        for (size_t j = 0; j < BLOCK / 2; j++) {
            uint8_t pair = in[F16_BYTES + j];
            out[i + j] = d * (float)((pair & 15) - 8);
            out[i + j + BLOCK / 2] = d * (float)((pair >> 4) - 8);
        }
    }
}

static void from_q4_1(const void *blocks, float *out, size_t count) {
    const uint8_t *in = blocks;
    for (size_t i = 0; i < count; i += BLOCK, in += 2 * F16_BYTES + BLOCK / 2) {
        float d = f32_of_f16(load_u16(in)), m = f32_of_f16(load_u16(in + F16_BYTES));
        for (size_t j = 0; j < BLOCK / 2; j++) {
            uint8_t pair = in[2 * F16_BYTES + j];
            out[i + j] = d * (float)(pair & 15) + m;
            out[i + j + BLOCK / 2] = d * (float)(pair >> 4) + m;
        }
    }
}

static const dtype_row rows[DT_COUNT] = {
    [DT_F32] = {"F32", 1, 4, from_f32},
    [DT_F16] = {"F16", 1, 2, from_f16},
    [DT_BF16] = {"BF16", 1, 2, from_bf16},
    [DT_Q8_0] = {"Q8_0", BLOCK, F16_BYTES + BLOCK, from_q8_0},
    [DT_Q4_0] = {"Q4_0", BLOCK, F16_BYTES + BLOCK / 2, from_q4_0},
    [DT_Q4_1] = {"Q4_1", BLOCK, 2 * F16_BYTES + BLOCK / 2, from_q4_1},
};

const dtype_row *dtype_info(esp_dtype dtype) {
    ESP_ASSERT((unsigned)dtype < DT_COUNT);
    return &rows[dtype];
}
