/* quant.c - the table of formats, and the exact meaning of each block as float32.
 *
 * A format whose codes are shorter than a byte is one reader here, which unpacks 32 weights; their
 * dequantisation is then one routine, and a backend packs from the same pieces. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/base/quant.h"

#include <string.h>

#include "engine/base/quant_blocks.h"
#include "engine/base/status.h"

enum { PIECES = 8, SUPER = PIECES * QUANT_PIECE }; /* of a block of 256 weights */

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

/* Bits of exponent and fraction stand in a half as here, four places higher; exponents differ by 8. */
float f32_of_e4m3(uint8_t code) {
    if ((code & 0x7f) == 0x7f) return f32_of_bits(0x7fc00000u);
    return f32_of_f16((uint16_t)((code & 0x80) << 8 | (code & 0x7f) << 7)) * 256.0f;
}

static float load_f32(const uint8_t *bytes) {
    float value;
    memcpy(&value, bytes, sizeof value);
    return value;
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
    const block_q8_0 *block = blocks;
    for (size_t i = 0; i < count; i += QUANT_PIECE, block++) {
        float d = f32_of_f16(load_u16(block->d));
        for (size_t j = 0; j < QUANT_PIECE; j++)
            out[i + j] = d * (float)block->q[j];
    }
}

static void from_f8_e4m3(const void *blocks, float *out, size_t count) {
    const block_f8 *block = blocks;
    for (size_t i = 0; i < count; i += QUANT_PIECE, block++)
        for (size_t j = 0; j < QUANT_PIECE; j++)
            out[i + j] = load_f32(block->scale) * f32_of_e4m3(block->q[j]);
}

/* --- readers: 32 weights of a block, unpacked ------------------------------------------------ */

/* The bits from `shift` up of 32 bytes. */
static void take_bits(const uint8_t *in, size_t shift, uint32_t mask, uint8_t *codes) {
    for (uint32_t i = 0; i < QUANT_PIECE; i++)
        codes[i] = (uint8_t)(in[i] >> shift & mask);
}

/* The bits from `from` up of 32 bytes become those from `to` up of the codes. */
static void add_bits(const uint8_t *in, size_t from, uint32_t mask, uint32_t to, uint8_t *codes) {
    for (uint32_t i = 0; i < QUANT_PIECE; i++)
        codes[i] = (uint8_t)(codes[i] | (in[i] >> from & mask) << to);
}

static void take_nibbles(const uint8_t *low, uint8_t *codes) {
    for (uint32_t i = 0; i < QUANT_PIECE / 2; i++) {
        codes[i] = low[i] & 15;
        codes[i + QUANT_PIECE / 2] = low[i] >> 4;
    }
}

static void add_fifth_bits(const uint8_t *high, uint8_t *codes) {
    for (uint32_t i = 0; i < QUANT_PIECE; i++)
        codes[i] = (uint8_t)(codes[i] | (high[i / 8] >> i % 8 & 1) << 4);
}

/* d, and m or NULL, are the block's only scales. */
static void set_plain(quant_piece *out, const uint8_t *d, const uint8_t *m) {
    out->d = load_u16(d);
    out->m = m ? load_u16(m) : 0;
    out->scale[0] = out->scale[1] = 1;
    out->minimum[0] = out->minimum[1] = m ? 1 : 0;
}

static void read_q4_0(const void *blocks, size_t piece, quant_piece *out) {
    const block_q4_0 *block = (const block_q4_0 *)blocks + piece;
    set_plain(out, block->d, NULL);
    take_nibbles(block->low, out->codes);
}

static void read_q4_1(const void *blocks, size_t piece, quant_piece *out) {
    const block_q4_1 *block = (const block_q4_1 *)blocks + piece;
    set_plain(out, block->d, block->m);
    take_nibbles(block->low, out->codes);
}

static void read_q5_0(const void *blocks, size_t piece, quant_piece *out) {
    const block_q5_0 *block = (const block_q5_0 *)blocks + piece;
    set_plain(out, block->d, NULL);
    take_nibbles(block->low, out->codes);
    add_fifth_bits(block->high, out->codes);
}

static void read_q5_1(const void *blocks, size_t piece, quant_piece *out) {
    const block_q5_1 *block = (const block_q5_1 *)blocks + piece;
    set_plain(out, block->d, block->m);
    take_nibbles(block->low, out->codes);
    add_fifth_bits(block->high, out->codes);
}

static void read_q2_k(const void *blocks, size_t piece, quant_piece *out) {
    const block_q2_k *block = (const block_q2_k *)blocks + piece / PIECES;
    size_t p = piece % PIECES;
    out->d = load_u16(block->d);
    out->m = load_u16(block->m);
    for (size_t half = 0; half < 2; half++) {
        out->scale[half] = block->scales[2 * p + half] & 15;
        out->minimum[half] = block->scales[2 * p + half] >> 4;
    }
    take_bits(block->low + p / 4 * 32, p % 4 * 2, 3, out->codes);
}

static int8_t q3_k_scale(const uint8_t *scales, size_t s) {
    int low = scales[s % 8] >> s / 8 * 4 & 15, high = scales[8 + s % 4] >> s / 4 * 2 & 3;
    return (int8_t)((low | high << 4) - 32);
}

static void read_q3_k(const void *blocks, size_t piece, quant_piece *out) {
    const block_q3_k *block = (const block_q3_k *)blocks + piece / PIECES;
    size_t p = piece % PIECES;
    out->d = load_u16(block->d);
    out->m = 0;
    for (size_t half = 0; half < 2; half++) {
        out->scale[half] = q3_k_scale(block->scales, 2 * p + half);
        out->minimum[half] = 0;
    }
    take_bits(block->low + p / 4 * 32, p % 4 * 2, 3, out->codes);
    add_bits(block->high, p, 1, 2, out->codes);
}

/* Of Q4_K and Q5_K. */
static void set_six_bit(quant_piece *out, const uint8_t *scales, size_t p) {
    int scale = scales[p] & 63, minimum = p < 4 ? scales[p + 4] & 63 : 0;
    if (p >= 4) {
        scale = (scales[p + 4] & 15) | scales[p - 4] >> 6 << 4;
        minimum = scales[p + 4] >> 4 | scales[p] >> 6 << 4;
    }
    out->scale[0] = out->scale[1] = (int8_t)scale;
    out->minimum[0] = out->minimum[1] = (uint8_t)minimum;
}

static void read_q4_k(const void *blocks, size_t piece, quant_piece *out) {
    const block_q4_k *block = (const block_q4_k *)blocks + piece / PIECES;
    size_t p = piece % PIECES;
    out->d = load_u16(block->d);
    out->m = load_u16(block->m);
    set_six_bit(out, block->scales, p);
    take_bits(block->low + p / 2 * 32, p % 2 * 4, 15, out->codes);
}

static void read_q5_k(const void *blocks, size_t piece, quant_piece *out) {
    const block_q5_k *block = (const block_q5_k *)blocks + piece / PIECES;
    size_t p = piece % PIECES;
    out->d = load_u16(block->d);
    out->m = load_u16(block->m);
    set_six_bit(out, block->scales, p);
    take_bits(block->low + p / 2 * 32, p % 2 * 4, 15, out->codes);
    add_bits(block->high, p, 1, 4, out->codes);
}

static void read_q6_k(const void *blocks, size_t piece, quant_piece *out) {
    const block_q6_k *block = (const block_q6_k *)blocks + piece / PIECES;
    size_t p = piece % PIECES, half = p / 4, n = p % 4;
    out->d = load_u16(block->d);
    out->m = 0;
    for (size_t i = 0; i < 2; i++) {
        out->scale[i] = block->scales[2 * p + i];
        out->minimum[i] = 0;
    }
    take_bits(block->low + 64 * half + n % 2 * 32, n / 2 * 4, 15, out->codes);
    add_bits(block->high + 32 * half, 2 * n, 3, 4, out->codes);
}

static void read_iq4_xs(const void *blocks, size_t piece, quant_piece *out) {
    const block_iq4_xs *block = (const block_iq4_xs *)blocks + piece / PIECES;
    size_t p = piece % PIECES;
    int low = block->scales_low[p / 2] >> p % 2 * 4 & 15;
    int high = load_u16(block->scales_high) >> 2 * p & 3;
    set_plain(out, block->d, NULL);
    out->scale[0] = out->scale[1] = (int8_t)((low | high << 4) - 32);
    take_nibbles(block->low + 16 * p, out->codes);
}

/* Of DT_G2 to DT_G8, which have one head: codes of `bits` one after another. */
static void read_grouped(const uint8_t *block, uint32_t bits, quant_piece *out) {
    const uint8_t *in = block + offsetof(block_g2, bits);
    uint32_t window = 0, have = 0;
    out->group_scale = load_f32(block);
    out->zero = load_u16(block + offsetof(block_g2, zero));
    out->d = out->m = 0;
    memset(out->scale, 0, sizeof out->scale);
    memset(out->minimum, 0, sizeof out->minimum);
    for (uint32_t i = 0; i < QUANT_PIECE; i++, window >>= bits, have -= bits) {
        if (have < bits) {
            window |= (uint32_t)*in++ << have;
            have += 8;
        }
        out->codes[i] = (uint8_t)(window & ((1u << bits) - 1));
    }
}

static void read_g2(const void *blocks, size_t piece, quant_piece *out) {
    read_grouped((const uint8_t *)blocks + piece * sizeof(block_g2), 2, out);
}
static void read_g3(const void *blocks, size_t piece, quant_piece *out) {
    read_grouped((const uint8_t *)blocks + piece * sizeof(block_g3), 3, out);
}
static void read_g4(const void *blocks, size_t piece, quant_piece *out) {
    read_grouped((const uint8_t *)blocks + piece * sizeof(block_g4), 4, out);
}
static void read_g8(const void *blocks, size_t piece, quant_piece *out) {
    read_grouped((const uint8_t *)blocks + piece * sizeof(block_g8), 8, out);
}

/* --- the table ------------------------------------------------------------------------------- */

const int8_t quant_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};

static const quant_coding codings[DT_COUNT] = {
    [DT_Q4_0] = {4, 32, .first = -8, .read = read_q4_0},
    [DT_Q4_1] = {4, 32, .offset = 1, .read = read_q4_1},
    [DT_Q5_0] = {5, 32, .first = -16, .read = read_q5_0},
    [DT_Q5_1] = {5, 32, .offset = 1, .read = read_q5_1},
    [DT_IQ4_NL] = {4, 32, .values = quant_iq4_values, .read = read_q4_0},
    [DT_Q2_K] = {2, 16, .offset = -1, .read = read_q2_k},
    [DT_Q3_K] = {3, 16, .first = -4, .read = read_q3_k},
    [DT_Q4_K] = {4, 32, .offset = -1, .read = read_q4_k},
    [DT_Q5_K] = {5, 32, .offset = -1, .read = read_q5_k},
    [DT_Q6_K] = {6, 16, .first = -32, .read = read_q6_k},
    [DT_IQ4_XS] = {4, 32, .values = quant_iq4_values, .read = read_iq4_xs},
    [DT_G2] = {2, 32, .grouped = true, .read = read_g2},
    [DT_G3] = {3, 32, .grouped = true, .read = read_g3},
    [DT_G4] = {4, 32, .grouped = true, .read = read_g4},
    [DT_G8] = {8, 32, .grouped = true, .read = read_g8},
};

static void piece_to_f32(const quant_coding *coding, const quant_piece *piece, float *out) {
    for (uint32_t i = 0; coding->grouped && i < QUANT_PIECE; i++)
        out[i] = piece->group_scale * (float)(piece->codes[i] - piece->zero);
    if (coding->grouped) return;
    float d = f32_of_f16(piece->d), m = f32_of_f16(piece->m);
    for (uint32_t i = 0; i < QUANT_PIECE; i++) {
        uint32_t half = i / 16;
        float w = d * (float)piece->scale[half] * quant_value(coding, piece->codes[i]);
        if (coding->offset) w += (float)coding->offset * (m * (float)piece->minimum[half]);
        out[i] = w;
    }
}

/* One function a format, because dequantise is not told which. */
#define FROM_CODES(dtype)                                                                          \
    static void from_##dtype(const void *blocks, float *out, size_t count) {                       \
        quant_piece piece;                                                                         \
        for (size_t i = 0; i < count / QUANT_PIECE; i++) {                                         \
            codings[dtype].read(blocks, i, &piece);                                                \
            piece_to_f32(&codings[dtype], &piece, out + i * QUANT_PIECE);                          \
        }                                                                                          \
    }
FROM_CODES(DT_Q4_0)
FROM_CODES(DT_Q4_1)
FROM_CODES(DT_Q5_0)
FROM_CODES(DT_Q5_1)
FROM_CODES(DT_IQ4_NL)
FROM_CODES(DT_Q2_K)
FROM_CODES(DT_Q3_K)
FROM_CODES(DT_Q4_K)
FROM_CODES(DT_Q5_K)
FROM_CODES(DT_Q6_K)
FROM_CODES(DT_IQ4_XS)
FROM_CODES(DT_G2)
FROM_CODES(DT_G3)
FROM_CODES(DT_G4)
FROM_CODES(DT_G8)

#define CODED(name, elements, block)                                                               \
    { #name, elements, sizeof(block), &codings[DT_##name], from_DT_##name }

static const dtype_row rows[DT_COUNT] = {
    [DT_F32] = {"F32", 1, 4, NULL, from_f32},
    [DT_F16] = {"F16", 1, 2, NULL, from_f16},
    [DT_BF16] = {"BF16", 1, 2, NULL, from_bf16},
    [DT_Q8_0] = {"Q8_0", QUANT_PIECE, sizeof(block_q8_0), NULL, from_q8_0},
    [DT_Q4_0] = CODED(Q4_0, QUANT_PIECE, block_q4_0),
    [DT_Q4_1] = CODED(Q4_1, QUANT_PIECE, block_q4_1),
    [DT_Q5_0] = CODED(Q5_0, QUANT_PIECE, block_q5_0),
    [DT_Q5_1] = CODED(Q5_1, QUANT_PIECE, block_q5_1),
    [DT_IQ4_NL] = CODED(IQ4_NL, QUANT_PIECE, block_q4_0),
    [DT_Q2_K] = CODED(Q2_K, SUPER, block_q2_k),
    [DT_Q3_K] = CODED(Q3_K, SUPER, block_q3_k),
    [DT_Q4_K] = CODED(Q4_K, SUPER, block_q4_k),
    [DT_Q5_K] = CODED(Q5_K, SUPER, block_q5_k),
    [DT_Q6_K] = CODED(Q6_K, SUPER, block_q6_k),
    [DT_IQ4_XS] = CODED(IQ4_XS, SUPER, block_iq4_xs),
    [DT_G2] = CODED(G2, QUANT_PIECE, block_g2),
    [DT_G3] = CODED(G3, QUANT_PIECE, block_g3),
    [DT_G4] = CODED(G4, QUANT_PIECE, block_g4),
    [DT_G8] = CODED(G8, QUANT_PIECE, block_g8),
    [DT_F8_E4M3] = {"F8_E4M3", QUANT_PIECE, sizeof(block_f8), NULL, from_f8_e4m3},
};

const dtype_row *dtype_info(esp_dtype dtype) {
    ESP_ASSERT((unsigned)dtype < DT_COUNT);
    return &rows[dtype];
}
