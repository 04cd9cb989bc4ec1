/* philox.c - Philox-4x32-10: random words as a pure function of (counter, key).
 *
 * Source  Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011,
 *         section 3.3 and table 2; known answers of Random123 in tests/unit/test_philox.c. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/sample.h"

enum { PHILOX_ROUNDS = 10 };

void philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t a = counter[0], b = counter[1], c = counter[2], d = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        uint64_t left = 0xD2511F53ull * a, right = 0xCD9E8D57ull * c;
        a = (uint32_t)(right >> 32) ^ b ^ k0;
        b = (uint32_t)right;
        c = (uint32_t)(left >> 32) ^ d ^ k1;
        d = (uint32_t)left;
        k0 += 0x9E3779B9u; /* golden ratio */
        k1 += 0xBB67AE85u; /* sqrt(3) - 1 */
    }
    out[0] = a, out[1] = b, out[2] = c, out[3] = d;
}
