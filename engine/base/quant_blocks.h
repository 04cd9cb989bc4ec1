/* quant_blocks.h - quantised blocks, byte by byte: those of GGUF files, and our own.
 *
 * Little-endian and packed; in a file a block may begin at any address. Bits of a byte are counted
 * from the lowest. For quant.c, quant_finite.c, quantize.c and the packings of engine/model; others
 * read pieces (quant.h).
 * Source  block_q4_0 to block_iq4_xs of the GGUF reference implementation (ggml-common.h) */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_BASE_QUANT_BLOCKS_H
#define ESPALIER_BASE_QUANT_BLOCKS_H

#include <assert.h>
#include <stdint.h>

typedef uint8_t quant_half[2]; /* an f16 */

/* --- 32 weights ---------------------------------------------------------------------------- */

typedef struct block_q8_0 {
    quant_half d;
    int8_t q[32];
} block_q8_0;
static_assert(sizeof(block_q8_0) == 34, "the size in files");

/* low[i]: weight i in bits 0..3, weight i + 16 in bits 4..7. IQ4_NL lies like Q4_0. */
typedef struct block_q4_0 {
    quant_half d;
    uint8_t low[16];
} block_q4_0;
static_assert(sizeof(block_q4_0) == 18, "the size in files");

typedef struct block_q4_1 {
    quant_half d, m;
    uint8_t low[16];
} block_q4_1;
static_assert(sizeof(block_q4_1) == 20, "the size in files");

/* Bit 4 of weight i is bit i % 8 of high[i / 8]; low as above. */
typedef struct block_q5_0 {
    quant_half d;
    uint8_t high[4];
    uint8_t low[16];
} block_q5_0;
static_assert(sizeof(block_q5_0) == 22, "the size in files");

typedef struct block_q5_1 {
    quant_half d, m;
    uint8_t high[4];
    uint8_t low[16];
} block_q5_1;
static_assert(sizeof(block_q5_1) == 24, "the size in files");

/* --- 256 weights: eight pieces of 32, sixteen sub-blocks of 16 ------------------------------- */

/* scales[s]: sub-block s has its scale in bits 0..3, its minimum in bits 4..7.
 * low[32*h + i]: pieces 4h to 4h + 3 have weight i in bits 0..1, 2..3, 4..5, 6..7. */
typedef struct block_q2_k {
    uint8_t scales[16];
    uint8_t low[64];
    quant_half d, m;
} block_q2_k;
static_assert(sizeof(block_q2_k) == 84, "the size in files");

/* Bit 2 of weight i of piece p is bit p of high[i]; low as in Q2_K. Scales have six bits, less 32:
 * the low four in bits 0..3 of scales[s] for s < 8 and in bits 4..7 of scales[s - 8] above, the
 * high two in scales[8 + s % 4] from bit s / 4 * 2. */
typedef struct block_q3_k {
    uint8_t high[32];
    uint8_t low[64];
    uint8_t scales[12];
    quant_half d;
} block_q3_k;
static_assert(sizeof(block_q3_k) == 110, "the size in files");

/* Scale and minimum of piece p have six bits. p < 4: bits 0..5 of scales[p], scales[p + 4].
 * p >= 4: the low four are bits 0..3 and 4..7 of scales[p + 4], the high two bits 6..7 of
 * scales[p - 4] and scales[p].
 * low[32*h + i]: pieces 2h and 2h + 1 have weight i in bits 0..3 and 4..7. */
typedef struct block_q4_k {
    quant_half d, m;
    uint8_t scales[12];
    uint8_t low[128];
} block_q4_k;
static_assert(sizeof(block_q4_k) == 144, "the size in files");

/* As Q4_K; bit 4 of weight i of piece p is bit p of high[i]. */
typedef struct block_q5_k {
    quant_half d, m;
    uint8_t scales[12];
    uint8_t high[32];
    uint8_t low[128];
} block_q5_k;
static_assert(sizeof(block_q5_k) == 176, "the size in files");

/* Half h of the weights is pieces 4h to 4h + 3; weight i of the n-th of them has
 *   bits 0..3 in low[64*h + 32*(n % 2) + i] from bit n / 2 * 4
 *   bits 4..5 in high[32*h + i] from bit 2*n */
typedef struct block_q6_k {
    uint8_t low[128];
    uint8_t high[64];
    int8_t scales[16];
    quant_half d;
} block_q6_k;
static_assert(sizeof(block_q6_k) == 210, "the size in files");

/* Scales have six bits, less 32: the low four of piece p in scales_low[p / 2] from bit p % 2 * 4,
 * the high two in the 16 bits of scales_high from bit 2*p. Piece p is low[16*p] on, as in Q4_0. */
typedef struct block_iq4_xs {
    quant_half d;
    uint8_t scales_high[2];
    uint8_t scales_low[4];
    uint8_t low[128];
} block_iq4_xs;
static_assert(sizeof(block_iq4_xs) == 136, "the size in files");

/* --- ours, in memory alone: 32 weights ------------------------------------------------------- */

enum { QUANT_ZERO_MAX = 256 }; /* of a zero point; an f16 holds it exactly */

/* Weight i is bits[] >> i * n & (2^n - 1), n bits a code, the first lowest. */
typedef struct block_g2 {
    uint8_t scale[4]; /* float32 */
    uint8_t zero[2];  /* <= QUANT_ZERO_MAX */
    uint8_t bits[8];
} block_g2;
static_assert(sizeof(block_g2) == 14, "no padding");

typedef struct block_g3 {
    uint8_t scale[4];
    uint8_t zero[2];
    uint8_t bits[12];
} block_g3;
static_assert(sizeof(block_g3) == 18, "no padding");

typedef struct block_g4 {
    uint8_t scale[4];
    uint8_t zero[2];
    uint8_t bits[16];
} block_g4;
static_assert(sizeof(block_g4) == 22, "no padding");

typedef struct block_g8 {
    uint8_t scale[4];
    uint8_t zero[2];
    uint8_t bits[32];
} block_g8;
static_assert(sizeof(block_g8) == 38, "no padding");

typedef struct block_f8 {
    uint8_t scale[4];
    uint8_t q[32]; /* f32_of_e4m3; no NaN */
} block_f8;
static_assert(sizeof(block_f8) == 36, "no padding");

#endif
