/* amx.h - the few tile instructions that this level uses, as inline assembly.
 *
 * gcc 12's intrinsics tell the compiler of 8 of the 64 bytes of a configuration and of no memory that
 * a tile load reads, so that stores before them are dropped as dead; here every operand is said.
 *
 * A tile has up to 16 rows of 64 bytes. tdpbf16ps: C[m][n] += sum over p of A[m][2p] * B[p][2n], plus that of
 * A[m][2p+1] * B[p][2n+1], C float32, A and B bf16: each sum from zero with p in order, then both together, then that to
 * C; denormal inputs and sums count as zero. A row of C depends on its row of A alone.
 *
 * Source  Intel Architecture Instruction Set Extensions, chapter 3 (AMX) */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_AMX_H
#define ESPALIER_AMX_H

#include <stddef.h>
#include <stdint.h>

/* The operand of ldtilecfg. */
typedef struct amx_config {
    uint8_t palette, start_row;
    uint8_t reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} amx_config;
_Static_assert(sizeof(amx_config) == 64, "the instruction reads 64 bytes");

static inline void amx_configure(const amx_config *config) {
    __asm__ volatile("ldtilecfg %0" : : "m"(*config));
}
static inline void amx_release(void) { __asm__ volatile("tilerelease"); }

/* Tiles of 16 rows of 64 bytes, but 0..4, C and one B, of as many tokens as there are. */
static inline void amx_configure_tokens(uint32_t tokens) {
    amx_config config = {.palette = 1};
    for (uint32_t tile = 0; tile < 8; tile++) {
        config.row_bytes[tile] = (uint16_t)(tile < 5 && tokens < 16 ? tokens * 4 : 64);
        config.rows[tile] = 16;
    }
    amx_configure(&config);
}

/* Tiles of 16 rows of 64 bytes, but 0..5, C and A, of as many rows as there are tokens. */
static inline void amx_configure_rows(uint32_t tokens) {
    amx_config config = {.palette = 1};
    for (uint32_t tile = 0; tile < 8; tile++) {
        config.row_bytes[tile] = 64;
        config.rows[tile] = (uint8_t)(tile < 6 ? tokens : 16);
    }
    amx_configure(&config);
}

/* tile: a number 0..7, known at compile time. */
#define AMX_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile : :)
#define AMX_LOAD(tile, from, row_stride_bytes)                                                     \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile                                            \
                     :                                                                             \
                     : "r"(from), "r"((size_t)(row_stride_bytes))                                  \
                     : "memory")
/* The same of what is read once for now: it passes by L1 and leaves there what is. */
#define AMX_LOAD_ONCE(tile, from, row_stride_bytes)                                                \
    __asm__ volatile("tileloaddt1 (%0,%1,1), %%tmm" #tile                                          \
                     :                                                                             \
                     : "r"(from), "r"((size_t)(row_stride_bytes))                                  \
                     : "memory")
#define AMX_STORE(tile, to, row_stride_bytes)                                                      \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)"                                        \
                     :                                                                             \
                     : "r"(to), "r"((size_t)(row_stride_bytes))                                    \
                     : "memory")
#define AMX_MULTIPLY(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)
/* C[m][n] += sum over k of A[m][k] * B[k/4][4n + k%4], signed bytes, C int32; where cpu_has(CPU_AMX_INT8). */
#define AMX_MULTIPLY_BYTES(c, a, b)                                                                \
    __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)

#endif
