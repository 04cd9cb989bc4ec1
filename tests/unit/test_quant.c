/* test_quant.c - the block formats and the half conversions. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/quant.h"

/* IEEE 754-2008 binary16, computed from its definition. */
static double half_value(uint16_t h) {
    int exponent = h >> 10 & 31, fraction = h & 0x3ff;
    double magnitude = exponent == 31  ? (fraction ? NAN : INFINITY)
                       : exponent == 0 ? ldexp(fraction, -24)
                                       : ldexp(1024 + fraction, exponent - 25);
    return h & 0x8000 ? -magnitude : magnitude;
}

static void every_half_widens_exactly_and_comes_back(void **state) {
    (void)state;
    for (uint32_t h = 0; h <= 0xffff; h++) {
        float f = f32_of_f16((uint16_t)h);
        double wanted = half_value((uint16_t)h);
        if (isnan(wanted)) {
            assert_true(isnan(f) && (f16_of_f32(f) & 0x7c00) == 0x7c00 && f16_of_f32(f) & 0x3ff);
            continue;
        }
        assert_true((double)f == wanted && !signbit(f) == !signbit(wanted));
        assert_int_equal(f16_of_f32(f), h);
    }
}

/* Half way between two neighbours the even one wins; a hair beside it the nearer one. */
static void narrowing_rounds_to_nearest_even(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x7bff; h++) {
        double middle = (half_value((uint16_t)h) + half_value((uint16_t)(h + 1))) / 2;
        float f = (float)middle;
        assert_true((double)f == middle);
        uint32_t even = h % 2 == 0 ? h : h + 1;
        assert_int_equal(f16_of_f32(f), even);
        assert_int_equal(f16_of_f32(-f), even | 0x8000);
        assert_int_equal(f16_of_f32(nextafterf(f, 0)), h);
        assert_int_equal(f16_of_f32(nextafterf(f, INFINITY)), h + 1);
    }
    assert_int_equal(f16_of_f32(65519.996f), 0x7bff);
    assert_int_equal(f16_of_f32(65520.0f), 0x7c00);
    assert_int_equal(f16_of_f32(INFINITY), 0x7c00);
    assert_int_equal(f16_of_f32(-1e30f), 0xfc00);
    assert_int_equal(f16_of_f32(0x1p-140f), 0);
}

static void bf16_rounds_to_nearest_even_and_keeps_nan(void **state) {
    (void)state;
    assert_int_equal(bf16_of_f32(f32_of_bits(0x3f808000)), 0x3f80);
    assert_int_equal(bf16_of_f32(f32_of_bits(0x3f818000)), 0x3f82);
    assert_int_equal(bf16_of_f32(f32_of_bits(0x3f808001)), 0x3f81);
    assert_int_equal(bf16_of_f32(f32_of_bits(0x7f7fffff)), 0x7f80);
    assert_true(isnan(f32_of_bf16(bf16_of_f32(f32_of_bits(0x7f800001)))));
}

/* Fills a block with bytes that use every nibble, and gives its scale d and minimum m. */
static void make_block(uint8_t *block, uint32_t head, uint32_t bytes, float d, float m) {
    uint16_t half[2] = {f16_of_f32(d), f16_of_f32(m)};
    memcpy(block, half, head);
    for (uint32_t i = head; i < bytes; i++)
        block[i] = (uint8_t)(37 * i + 11);
}

/* The formulas of quant.h, for two blocks at an odd address. */
static void blocks_mean_what_their_format_says(void **state) {
    (void)state;
    const struct {
        esp_dtype dtype;
        uint32_t head, bytes;
    } formats[] = {{DT_Q8_0, 2, 34}, {DT_Q4_0, 2, 18}, {DT_Q4_1, 4, 20}};
    for (size_t f = 0; f < 3; f++) {
        const dtype_row *row = dtype_info(formats[f].dtype);
        uint32_t bytes = formats[f].bytes, head = formats[f].head;
        assert_int_equal(row->block_bytes, bytes);
        assert_int_equal(row->block_elements, 32);
        uint8_t memory[1 + 2 * 34], *blocks = memory + 1;
        const float d[] = {0.125f, -0.0078125f}, m[] = {-3.5f, 0.75f};
        for (uint32_t b = 0; b < 2; b++)
            make_block(blocks + b * bytes, head, bytes, d[b], m[b]);
        float out[64];
        row->dequantise(blocks, out, 64);
        for (uint32_t i = 0; i < 64; i++) {
            const uint8_t *q = blocks + i / 32 * bytes + head;
            uint32_t w = i % 32, nibble = w < 16 ? q[w] & 15u : q[w - 16] >> 4u;
            float scale = d[i / 32];
            float wanted = formats[f].dtype == DT_Q8_0   ? scale * (float)(int8_t)q[w]
                           : formats[f].dtype == DT_Q4_0 ? scale * ((float)nibble - 8)
                                                         : scale * (float)nibble + m[i / 32];
            assert_true(out[i] == wanted);
        }
    }
}

static void plain_formats_are_one_element_a_block(void **state) {
    (void)state;
    const float wanted[] = {1.5f, -0.25f, 65504.0f};
    uint16_t half[3], brain[3];
    for (int i = 0; i < 3; i++) {
        half[i] = f16_of_f32(wanted[i]);
        brain[i] = bf16_of_f32(wanted[i]);
    }
    float out[3];
    dtype_info(DT_F32)->dequantise(wanted, out, 3);
    assert_memory_equal(out, wanted, sizeof out);
    dtype_info(DT_F16)->dequantise(half, out, 3);
    assert_memory_equal(out, wanted, sizeof out);
    dtype_info(DT_BF16)->dequantise(brain, out, 2);
    assert_memory_equal(out, wanted, 2 * sizeof *out);
}

/* GGUF spells them so (ggml_type names, upper case). */
static void every_format_has_a_name_and_a_size(void **state) {
    (void)state;
    static const char *const names[] = {
        "F32",  "F16",  "BF16", "Q8_0", "Q4_0",   "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "Q2_K",
        "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "G2",   "G3",   "G4",   "G8",     "F8_E4M3"};
    for (int i = 0; i < DT_COUNT; i++) {
        assert_string_equal(dtype_info((esp_dtype)i)->name, names[i]);
        assert_true(dtype_info((esp_dtype)i)->block_bytes > 0);
    }
}

/* The pieces that a backend packs from, put together by the formula beside quant_coding, are the
 * weights; blocks at an odd address. */
static void pieces_add_up_to_the_weights(void **state) {
    (void)state;
    for (int d = 0; d < DT_COUNT; d++) {
        const dtype_row *row = dtype_info((esp_dtype)d);
        const quant_coding *coding = row->coding;
        if (!coding || coding->grouped) continue;
        uint8_t memory[1 + 2 * 210];
        for (size_t i = 0; i < sizeof memory; i++)
            memory[i] = (uint8_t)(i * 37 % 101); /* no byte makes an infinite half */
        float out[512];
        uint32_t count = 2 * row->block_elements;
        row->dequantise(memory + 1, out, count);
        for (uint32_t i = 0; i < count; i++) {
            quant_piece piece;
            coding->read(memory + 1, i / QUANT_PIECE, &piece);
            uint32_t half = i % QUANT_PIECE / 16;
            uint8_t code = piece.codes[i % QUANT_PIECE];
            assert_true(code < 1u << coding->code_bits);
            if (coding->scale_cols == QUANT_PIECE) assert_int_equal(piece.scale[0], piece.scale[1]);
            float w = f32_of_f16(piece.d) * (float)piece.scale[half] * quant_value(coding, code);
            float m = f32_of_f16(piece.m) * (float)piece.minimum[half];
            assert_true(out[i] == w + (float)coding->offset * m);
        }
    }
}

/* Codes of every width, some across two bytes, against zero points up to 2^bits. */
static void grouped_blocks_mean_scale_times_distance_from_zero(void **state) {
    (void)state;
    static const struct {
        esp_dtype dtype;
        uint32_t bits;
    } formats[] = {{DT_G2, 2}, {DT_G3, 3}, {DT_G4, 4}, {DT_G8, 8}};
    for (size_t f = 0; f < 4; f++) {
        uint32_t bits = formats[f].bits;
        uint8_t block[38];
        const float scale = -0.0123f;
        uint16_t zero = (uint16_t)(1u << bits);
        memcpy(block, &scale, 4);
        memcpy(block + 4, &zero, 2);
        for (uint32_t i = 0; i < 4 * bits; i++)
            block[6 + i] = (uint8_t)(i * 91 + 29);
        assert_int_equal(dtype_info(formats[f].dtype)->block_bytes, 6 + 4 * bits);
        float out[32];
        dtype_info(formats[f].dtype)->dequantise(block, out, 32);
        for (uint32_t i = 0; i < 32; i++) {
            int code = 0;
            for (uint32_t b = 0; b < bits; b++)
                code |= (block[6 + (i * bits + b) / 8] >> (i * bits + b) % 8 & 1) << b;
            assert_true(out[i] == scale * (float)(code - zero));
        }
    }
}

/* arXiv:2209.05433, table 1: bias 7, subnormals, largest 448, no infinity. */
static void floats_of_eight_bits_are_what_their_paper_says(void **state) {
    (void)state;
    for (int code = 0; code < 256; code++) {
        int exponent = code >> 3 & 15, fraction = code & 7;
        float wanted =
            exponent ? ldexpf(8.0f + (float)fraction, exponent - 10) : ldexpf((float)fraction, -9);
        float got = f32_of_e4m3((uint8_t)code);
        if ((code & 0x7f) == 0x7f)
            assert_true(isnan(got));
        else
            assert_true(got == (code & 0x80 ? -wanted : wanted));
    }
    assert_true(f32_of_e4m3(0x7e) == 448.0f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_half_widens_exactly_and_comes_back),
        cmocka_unit_test(narrowing_rounds_to_nearest_even),
        cmocka_unit_test(bf16_rounds_to_nearest_even_and_keeps_nan),
        cmocka_unit_test(blocks_mean_what_their_format_says),
        cmocka_unit_test(plain_formats_are_one_element_a_block),
        cmocka_unit_test(pieces_add_up_to_the_weights),
        cmocka_unit_test(grouped_blocks_mean_scale_times_distance_from_zero),
        cmocka_unit_test(floats_of_eight_bits_are_what_their_paper_says),
        cmocka_unit_test(every_format_has_a_name_and_a_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
