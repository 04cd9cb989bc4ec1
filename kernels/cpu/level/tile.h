/* tile.h - a strip of weight tiles times some tokens: the arithmetic of linear.
 *
 * Of weights whose codes are no whole numbers; of others: integer/. Both ways through a strip compute
 * each output by the chain that cpu.h defines, so they give the same bits; they differ in where the weights become floats.
 *   fused    up to FUSED_TOKENS tokens: in registers, used at once        tile_fused.c
 *   blocked  more: a block of the strip into L1, used by all tokens       tile_blocked.c
 * Sums are left in sums[token][tile * 16 + row]. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TILE_H
#define ESPALIER_TILE_H

#include "kernels/cpu/level/codes.h"

enum {
    FUSED_TOKENS = 4,
    GROUP_COLS = 8, /* columns between fetches of what comes later */
    STRIP_ROWS = STRIP_TILES * TILE_ROWS,
};

/* The thread sanitizer looks at each access to a vector: of the loops over weights that would take all of the time of a
 * test. So they are not looked at, and tile_watch reads of what other workers have written in their stead. */
#ifdef __SANITIZE_THREAD__
#define UNWATCHED __attribute__((no_sanitize("thread")))
#else
#define UNWATCHED
#endif
/* One byte of each of `count` rows of inputs. */
static inline void tile_watch(const void *rows, size_t count, size_t row_bytes) {
#ifdef __SANITIZE_THREAD__
    for (size_t i = 0; i < count; i++)
        (void)*((const volatile char *)rows + i * row_bytes);
#else
    (void)rows, (void)count, (void)row_bytes;
#endif
}

/* Codes that are whole numbers, and others; whatever is not bf16 already; all. */
#define FOR_EACH_INTEGER_FORMAT(of)                                                                \
    of(DT_Q8_0) of(DT_Q4_0) of(DT_Q4_1) of(DT_Q5_0) of(DT_Q5_1) of(DT_IQ4_NL) of(DT_Q2_K)          \
        of(DT_Q3_K) of(DT_Q4_K) of(DT_Q5_K) of(DT_Q6_K) of(DT_IQ4_XS) of(DT_G2) of(DT_G3)          \
            of(DT_G4) of(DT_G8)
#define FOR_EACH_UNPACKED_FORMAT(of)                                                               \
    FOR_EACH_INTEGER_FORMAT(of) of(DT_F32) of(DT_F16) of(DT_F8_E4M3)
#define FOR_EACH_FORMAT(of) FOR_EACH_UNPACKED_FORMAT(of) of(DT_BF16)
#define FOR_EACH_FLOAT_FORMAT(of) of(DT_F32) of(DT_F16) of(DT_F8_E4M3) of(DT_BF16)

/* Some tiles of one format; the tokens they meet. */
typedef struct tile_run {
    const uint8_t *codes[STRIP_TILES];
    const uint8_t *scales[STRIP_TILES];
    uint32_t blocks;
    const float *inputs; /* [blocks][input_rows][32] */
    uint32_t input_rows;
} tile_run;

enum { PREFETCH_BYTES = 1024 };

/* The codes of the columns behind column k of block b, well before they are read. */
ALWAYS_INLINE void tile_prefetch(esp_dtype dtype, const uint8_t *codes, uint32_t b, uint32_t k) {
    const uint32_t code_bytes = cpu_formats[dtype].code_bytes;
    const uint8_t *at = codes + (size_t)b * code_bytes + k * (code_bytes / TILE_COLS);
    for (uint32_t ahead = 0; ahead < code_bytes / (TILE_COLS / GROUP_COLS);
         ahead += CACHE_LINE_BYTES)
        _mm_prefetch((const char *)at + ahead + PREFETCH_BYTES, _MM_HINT_T0);
}

/* acc with the p of a block added; SCALE_NONE or SCALE_32. */
ALWAYS_INLINE vf tile_add(cpu_scaling scaling, vf scale, vf p, vf acc) {
    return scaling == SCALE_NONE ? v_add(acc, p) : v_fma(scale, p, acc);
}

/* Tiles first .. first + count of the run, all of this format. tokens: 1 to FUSED_TOKENS. */
void LEVEL_NAME(tiles_fused)(esp_dtype dtype, const tile_run *run, uint32_t first, uint32_t count,
                             uint32_t tokens, float (*sums)[STRIP_ROWS]);
/* Into scratch->sums. */
void LEVEL_NAME(tiles_blocked)(esp_dtype dtype, const tile_run *run, uint32_t first, uint32_t count,
                               uint32_t tokens, cpu_scratch *scratch);

#endif
