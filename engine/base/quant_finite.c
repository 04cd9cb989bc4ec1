/* quant_finite.c - whether blocks hold finite weights only: exactly when every float in them is
 * finite, for codes and integer scales are, and no product of theirs reaches float32's limit.
 *
 * A float is not finite when its exponent is all ones. Then adding its lowest exponent bit carries
 * into the sign's place, which the mask has cleared: so several floats are tested at once. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "engine/base/quant.h"
#include "engine/base/quant_blocks.h"
#include "engine/base/status.h"

/* Each 16 bits of a word, or each 32. */
#define EACH_16(bits) (0x0001000100010001u * (bits))
#define EACH_32(bits) (0x0000000100000001u * (bits))

enum { F16_EXPONENT = 0x7c00, F16_LOWEST = 0x0400 };

typedef struct float_masks {
    uint64_t exponent, lowest, sign;
} float_masks;

static const float_masks F32 = {EACH_32(0x7f800000u), EACH_32(0x00800000u), EACH_32(0x80000000u)};
static const float_masks F16 = {EACH_16(F16_EXPONENT), EACH_16(F16_LOWEST), EACH_16(0x8000u)};
static const float_masks BF16 = {EACH_16(0x7f80u), EACH_16(0x0080u), EACH_16(0x8000u)};

typedef uint64_t two_words __attribute__((vector_size(16)));

static bool floats_finite(const uint8_t *at, size_t bytes, float_masks masks) {
    two_words words, found = {0};
    for (; bytes >= sizeof words; at += sizeof words, bytes -= sizeof words) {
        memcpy(&words, at, sizeof words);
        found |= (words & masks.exponent) + masks.lowest;
    }
    words = (two_words){0};
    memcpy(&words, at, bytes);
    found |= (words & masks.exponent) + masks.lowest;
    return !((found[0] | found[1]) & masks.sign);
}

/* Where the halves of a block lie: one or two. */
typedef struct block_halves {
    uint16_t count, at[2];
} block_halves;

static const block_halves HALVES[DT_COUNT] = {
    [DT_Q8_0] = {1, {offsetof(block_q8_0, d)}},
    [DT_Q4_0] = {1, {offsetof(block_q4_0, d)}},
    [DT_Q4_1] = {2, {offsetof(block_q4_1, d), offsetof(block_q4_1, m)}},
    [DT_Q5_0] = {1, {offsetof(block_q5_0, d)}},
    [DT_Q5_1] = {2, {offsetof(block_q5_1, d), offsetof(block_q5_1, m)}},
    [DT_IQ4_NL] = {1, {offsetof(block_q4_0, d)}},
    [DT_Q2_K] = {2, {offsetof(block_q2_k, d), offsetof(block_q2_k, m)}},
    [DT_Q3_K] = {1, {offsetof(block_q3_k, d)}},
    [DT_Q4_K] = {2, {offsetof(block_q4_k, d), offsetof(block_q4_k, m)}},
    [DT_Q5_K] = {2, {offsetof(block_q5_k, d), offsetof(block_q5_k, m)}},
    [DT_Q6_K] = {1, {offsetof(block_q6_k, d)}},
    [DT_IQ4_XS] = {1, {offsetof(block_iq4_xs, d)}},
};

static bool halves_finite(const uint8_t *at, size_t blocks, size_t block_bytes,
                          const block_halves *halves) {
    uint32_t found = 0;
    for (size_t b = 0; b < blocks; b++, at += block_bytes)
        for (uint32_t i = 0; i < halves->count; i++)
            found |= ((at[halves->at[i] + 1] << 8) & F16_EXPONENT) + F16_LOWEST;
    return !(found & 0x8000u);
}

/* A format that has no row above. */
static bool values_finite(const dtype_row *row, const uint8_t *at, size_t blocks) {
    float values[QUANT_PIECE * 8];
    ESP_ASSERT(row->block_elements <= sizeof values / sizeof values[0]);
    for (size_t b = 0; b < blocks; b++, at += row->block_bytes) {
        row->dequantise(at, values, row->block_elements);
        for (uint32_t i = 0; i < row->block_elements; i++)
            if (!isfinite(values[i])) return false;
    }
    return true;
}

bool quant_finite(esp_dtype dtype, const void *blocks, size_t count) {
    const dtype_row *row = dtype_info(dtype);
    const block_halves *halves = &HALVES[dtype];
    size_t block_count = count / row->block_elements;
    ESP_ASSERT(count % row->block_elements == 0);
    if (dtype == DT_F32) return floats_finite(blocks, count * sizeof(float), F32);
    if (dtype == DT_F16) return floats_finite(blocks, count * sizeof(uint16_t), F16);
    if (dtype == DT_BF16) return floats_finite(blocks, count * sizeof(uint16_t), BF16);
    if (halves->count) return halves_finite(blocks, block_count, row->block_bytes, halves);
    return values_finite(row, blocks, block_count);
}
