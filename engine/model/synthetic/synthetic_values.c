/* synthetic_values.c - normal values by counter: four of each 64-bit word, each the middle of one of 4,096
 * equally likely parts of the distribution.
 *
 * Source  SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA
 *         2014, figure 16 */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>

#include "engine/base/quant.h"
#include "engine/model/synthetic/synthetic_inner.h"

enum { OF_A_WORD = 4, BISECTIONS = 48 };

/* The x that a standard normal value stays below with probability p. */
static double normal_quantile(double p) {
    double low = -8, high = 8;
    for (int i = 0; i < BISECTIONS; i++) {
        double middle = (low + high) / 2;
        if (erfc(-middle / sqrt(2)) / 2 < p)
            low = middle;
        else
            high = middle;
    }
    return low;
}

void synthetic_table_fill(synthetic_table *table, float mean, float deviation) {
    for (int i = 0; i < SYNTHETIC_STEPS; i++) {
        double x = normal_quantile((i + 0.5) / SYNTHETIC_STEPS);
        table->bf16[i] = bf16_of_f32((float)(mean + deviation * x));
    }
}

static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void synthetic_values(const synthetic_table *table, uint64_t key, uint64_t first, uint16_t *out,
                      size_t count) {
    uint64_t counter = mix(key) + first / OF_A_WORD * 0x9e3779b97f4a7c15u;
    for (size_t i = 0; i < count; i += OF_A_WORD) {
        uint64_t word = mix(counter += 0x9e3779b97f4a7c15u);
        size_t left = count - i < OF_A_WORD ? count - i : OF_A_WORD;
        for (size_t j = 0; j < left; j++, word >>= 16)
            out[i + j] = table->bf16[word % SYNTHETIC_STEPS];
    }
}
