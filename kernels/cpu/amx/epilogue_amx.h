/* epilogue_amx.h - C tiles, 16 rows x 16 tokens of sums, to where an op wants them.
 *
 * A whole tile without bias or cap, which is nearly all of them, is finished in registers; the rest is turned
 * to rows and goes the way of linear_job.h. Both ways compute the same bits. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_EPILOGUE_AMX_H
#define ESPALIER_EPILOGUE_AMX_H

#include "kernels/cpu/amx/scratch_amx.h"
#include "kernels/cpu/amx/transpose.h"
#include "kernels/cpu/level/linear_job.h"

/* A C tile as rows of tokens. */
ALWAYS_INLINE void amx_turned(const float *c, __m512i r[TILE_TOKENS]) {
    UNROLL_16 for (uint32_t i = 0; i < TILE_ROWS; i++) r[i] =
        _mm512_loadu_si512(c + i * TILE_TOKENS);
    transpose_dwords(r);
}

/* The same to out[token * stride + row]. */
ALWAYS_INLINE void amx_turn(const float *c, float *out, size_t stride) {
    __m512i r[TILE_TOKENS];
    amx_turned(c, r);
    UNROLL_16 for (uint32_t t = 0; t < TILE_TOKENS; t++)
        _mm512_storeu_si512(out + t * stride, r[t]);
}

/* Whether the caller of amx_finish combines gate and up itself, and leaves that in gate's place. */
bool amx_gates_early(const linear_job *job, const strip *s);

/* Tokens first .. first + tokens of the op, of the tiles of a strip: c[tile of the strip]. rows: room for
 * 16 tokens of a strip. */
void amx_finish(const linear_job *job, const strip *s, uint32_t first, uint32_t tokens,
                float (*c)[C_TILE], float *rows);

#endif
