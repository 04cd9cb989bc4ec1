/* roofline.h - what this machine can do at most with these threads: read memory, copy it, multiply.
 *
 * Each figure is the best of many short passes, so that a neighbour's slice of time does not count.
 * Matrix rates work out of registers and L1; a multiplication and an addition are two operations.
 * Needs the CPU backend's least level (kern_cpu_best_level is not LEVEL_AUTO).
 *
 * Thread  the pool's owner.
 * Source  Williams, Waterman, Patterson: Roofline, CACM 52(4), 2009 */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_ROOFLINE_H
#define ESPALIER_ROOFLINE_H

#include "engine/base/pool.h"
#include "kernels/kernels.h"

typedef enum roofline_rate {
    RATE_AVX2_F32,     /* vfmadd on 8 floats */
    RATE_AVX2_INT16,   /* vpmaddwd and an addition, or vpdpwssd (AVX-VNNI) */
    RATE_AVX512_F32,   /* vfmadd on 16 floats */
    RATE_AVX512_INT16, /* vpdpwssd (VNNI) */
    RATE_AVX512_BF16,  /* vdpbf16ps */
    RATE_AVX512_INT8,  /* vpdpbusd (VNNI) */
    RATE_AMX_BF16,     /* tdpbf16ps */
    RATE_AMX_INT8,     /* tdpbssd */
    RATE_COUNT,
} roofline_rate;

/* "amx_bf16" */
const char *roofline_rate_name(roofline_rate rate);
/* Whether the processor has it and the system allows it. */
bool roofline_has(roofline_rate rate);
/* The rate that bounds a linear at this level, whole_codes being that of its weights' format (quant.h); RATE_COUNT
 * where none is measured: of int8 activations without dot products of bytes, and at AVX2. */
roofline_rate roofline_rate_of(kern_level level, kern_activations activations, bool whole_codes);
/* Operations a second of all threads; 0 without the instruction. Takes about 0.1 s. */
double roofline_multiply(thread_pool *pool, roofline_rate rate);

/* Bytes a second over a buffer of so many bytes, at least 64 a thread, each of which lies near the
 * thread that reads it. Takes about 0.5 s. ESP_EXHAUSTED: no memory for the buffer. */
ESP_CHECKED esp_code roofline_read(thread_pool *pool, uint64_t bytes, double *bytes_per_s,
                                   esp_error *err);
/* The same for a copy out of one half of the buffer into the other, past the caches; what is read
 * and what is written both count. */
ESP_CHECKED esp_code roofline_copy(thread_pool *pool, uint64_t bytes, double *bytes_per_s,
                                   esp_error *err);

#endif
