/* cuda_sample_math.h - the numbers of sampling on the device, bit for bit those of engine/sample.c.
 *
 * Every operation is a single IEEE one, spelled so that the compiler fuses none: the weight of a token and the
 * sums of blocks of weights are engine/sample_math.h's, noise is engine/philox.c's.
 *
 * A candidate is a word of 64 bits: its score, so that a larger word is a better one, then its id, the lower the
 * better. So candidates are never equal, and any way of ordering them gives one order. 0 is none: scores that
 * are not finite are no candidates. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CUDA_SAMPLE_MATH_H
#define ESPALIER_CUDA_SAMPLE_MATH_H

#include "cu.h"

CU_DEV bool sample_is_finite(float x) { return __fsub_rn(x, x) == 0.0f; }

/* exp(x) for -87 <= x <= 0, 0 elsewhere and for NaN; the host's says why it is right. */
CU_DEV float sample_exp(float x) {
    const bool inside = x >= -87.0f && x <= 0.0f;
    x = inside ? x : 0.0f;
    const int n = __float2int_rz(__fsub_rn(__fmul_rn(x, 1.44269504f), 0.5f));
    const float whole = __int2float_rn(n);
    const float r =
        __fadd_rn(__fsub_rn(x, __fmul_rn(whole, 0.693359375f)), __fmul_rn(whole, 2.12194440e-4f));
    float y = __fadd_rn(__fmul_rn(r, 1.0f / 5040), 1.0f / 720);
    y = __fadd_rn(__fmul_rn(y, r), 1.0f / 120);
    y = __fadd_rn(__fmul_rn(y, r), 1.0f / 24);
    y = __fadd_rn(__fmul_rn(y, r), 1.0f / 6);
    y = __fadd_rn(__fmul_rn(y, r), 0.5f);
    y = __fadd_rn(__fmul_rn(y, r), 1.0f);
    y = __fadd_rn(__fmul_rn(y, r), 1.0f);
    return inside ? __uint_as_float(__float_as_uint(y) + ((uint32_t)n << 23)) : 0.0f;
}

/* top: the largest finite score. */
CU_DEV float sample_weight(float score, float top, float temperature) {
    const float x = __fsub_rn(score, top);
    return sample_exp(temperature != 1.0f ? __fdiv_rn(x, temperature) : x);
}

/* ---- candidates ---- */

/* Larger for larger scores; -0 is 0. */
CU_DEV uint32_t sample_key(float score) {
    const uint32_t bits = score == 0.0f ? 0u : __float_as_uint(score);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
CU_DEV float sample_score(uint32_t key) {
    return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

/* id_bits: of the largest id. */
CU_DEV uint64_t sample_candidate(float score, uint32_t id, uint32_t id_bits) {
    if (!sample_is_finite(score)) return 0;
    return (uint64_t)sample_key(score) << id_bits | (((uint64_t)1 << id_bits) - 1 - id);
}
CU_DEV float sample_candidate_score(uint64_t candidate, uint32_t id_bits) {
    return sample_score((uint32_t)(candidate >> id_bits));
}
CU_DEV uint32_t sample_candidate_id(uint64_t candidate, uint32_t id_bits) {
    const uint64_t most = ((uint64_t)1 << id_bits) - 1;
    return (uint32_t)(most - (candidate & most));
}

/* ---- noise ---- */

/* Uniform in [0, 1): 53 bits of the block of Philox-4x32-10 that belongs to (seed, position) alone. */
CU_DEV double sample_uniform(uint64_t seed, uint32_t position) {
    uint32_t a = position, b = 0, c = 0, d = 0;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t left = 0xD2511F53ull * a, right = 0xCD9E8D57ull * c;
        a = (uint32_t)(right >> 32) ^ b ^ k0;
        b = (uint32_t)right;
        c = (uint32_t)(left >> 32) ^ d ^ k1;
        d = (uint32_t)left;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return __dmul_rn((double)(((uint64_t)a << 32 | b) >> 11), 0x1p-53);
}

#endif
