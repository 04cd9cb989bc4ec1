/* peak_amx.c - the limits of tile multiplication, operands out of L1. See peak.h.
 *
 * Two tiles A times two tiles B into four accumulators: a load for each multiplication, and no
 * multiplication waits for the one before it. */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "kernels/cpu/amx/amx.h"
#include "kernels/cpu/peak.h"

enum { ROW = 64, ROWS = 16, TILE = ROW * ROWS, ACCUMULATORS = 4, TILES = 8 };

typedef struct operands {
    _Alignas(64) uint8_t at[ACCUMULATORS * TILE];
} operands;

static void begin(operands *o, uint8_t low, uint8_t high) {
    amx_config config = {.palette = 1};
    for (uint32_t t = 0; t < TILES; t++) {
        config.row_bytes[t] = ROW;
        config.rows[t] = ROWS;
    }
    for (uint32_t i = 0; i < sizeof o->at; i += 2) {
        o->at[i] = low;
        o->at[i + 1] = high;
    }
    amx_configure(&config);
    AMX_ZERO(0);
    AMX_ZERO(1);
    AMX_ZERO(2);
    AMX_ZERO(3);
}

static inline void load(const operands *o) {
    AMX_LOAD(4, o->at, ROW);
    AMX_LOAD(5, o->at + TILE, ROW);
    AMX_LOAD(6, o->at + 2 * TILE, ROW);
    AMX_LOAD(7, o->at + 3 * TILE, ROW);
}

static void end(operands *o) {
    AMX_STORE(0, o->at, ROW);
    AMX_STORE(1, o->at + TILE, ROW);
    AMX_STORE(2, o->at + 2 * TILE, ROW);
    AMX_STORE(3, o->at + 3 * TILE, ROW);
    amx_release();
}

#define RUN(multiply)                                                                              \
    do {                                                                                           \
        for (uint32_t r = 0; r < rounds; r++) {                                                    \
            load(&o);                                                                              \
            multiply(0, 4, 6);                                                                     \
            multiply(1, 4, 7);                                                                     \
            multiply(2, 5, 6);                                                                     \
            multiply(3, 5, 7);                                                                     \
        }                                                                                          \
        end(&o);                                                                                   \
    } while (0)

double peak_bf16_amx(uint32_t rounds) {
    operands o;
    begin(&o, 0x80, 0x3f);
    RUN(AMX_MULTIPLY);
    double total = 0;
    for (uint32_t i = 0; i < sizeof o.at; i += 4) {
        float sum;
        memcpy(&sum, o.at + i, sizeof sum);
        total += (double)sum;
    }
    return total;
}

double peak_int8_amx(uint32_t rounds) {
    operands o;
    begin(&o, 1, 1);
    RUN(AMX_MULTIPLY_BYTES);
    double total = 0;
    for (uint32_t i = 0; i < sizeof o.at; i += 4) {
        int32_t sum;
        memcpy(&sum, o.at + i, sizeof sum);
        total += sum;
    }
    return total;
}
