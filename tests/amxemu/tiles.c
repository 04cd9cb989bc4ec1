/* tiles.c - what tile instructions do. */
// SPDX-License-Identifier: Apache-2.0
#include "tests/amxemu/tiles.h"

#include <math.h>
#include <string.h>

#include "engine/base/quant.h"
#include "tests/amxemu/amxemu.h"

enum { TILES = 8, ROWS = 16, ROW_BYTES = 64, WORDS = ROW_BYTES / 4 };

typedef struct tile {
    uint32_t rows, row_bytes; /* 0: not configured */
    _Alignas(64) uint8_t at[ROWS][ROW_BYTES];
} tile;

/* The operand of ldtilecfg: the manual's, not the product's amx_config, which is what is tested. */
typedef struct config {
    uint8_t palette, start_row;
    uint8_t reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} config;
_Static_assert(sizeof(config) == 64, "as the instruction reads it");

static _Thread_local struct {
    bool configured;
    tile tiles[TILES];
} state;

static void clear(void) { memset(&state, 0, sizeof state); }

static void load_config(const void *from) {
    config c;
    memcpy(&c, from, sizeof c);
    clear();
    if (c.palette == 0) return; /* as tilerelease */
    if (c.palette != 1 || c.start_row != 0)
        amxemu_fail("ldtilecfg: palette %u from row %u, wanted 1 from 0", c.palette, c.start_row);
    for (uint32_t i = 0; i < sizeof c.reserved; i++)
        if (c.reserved[i] != 0) amxemu_fail("ldtilecfg: reserved byte %u is not 0", i);
    for (uint32_t t = 0; t < 16; t++) {
        bool used = c.rows[t] != 0;
        if (used != (c.row_bytes[t] != 0) || (t >= TILES && used) || c.rows[t] > ROWS ||
            c.row_bytes[t] > ROW_BYTES)
            amxemu_fail("ldtilecfg: tile %u of %u rows of %u bytes", t, c.rows[t], c.row_bytes[t]);
    }
    for (uint32_t t = 0; t < TILES; t++) {
        state.tiles[t].rows = c.rows[t];
        state.tiles[t].row_bytes = c.row_bytes[t];
    }
    state.configured = true;
}

static tile *get(uint32_t number) {
    if (!state.configured) amxemu_fail("a tile is used and none is configured");
    if (number >= TILES || state.tiles[number].rows == 0)
        amxemu_fail("tile %u is used and not configured", number);
    return &state.tiles[number];
}

static void zero(tile *t) { memset(t->at, 0, sizeof t->at); }

static void load(tile *t, const uint8_t *from, size_t stride_bytes) {
    zero(t);
    for (uint32_t r = 0; r < t->rows; r++)
        memcpy(t->at[r], from + r * stride_bytes, t->row_bytes);
}

static void store(const tile *t, uint8_t *to, size_t stride_bytes) {
    for (uint32_t r = 0; r < t->rows; r++)
        memcpy(to + r * stride_bytes, t->at[r], t->row_bytes);
}

typedef struct words {
    uint32_t at[WORDS];
} words;

static words row_of(const tile *t, uint32_t row) {
    words w;
    memcpy(&w, t->at[row], sizeof w);
    return w;
}

/* One row of C. Even and odd products have sums of their own, which begin at 0 and join C at the end. */
static void row_bf16(uint8_t *c, words a, const tile *b, uint32_t steps, uint32_t columns) {
    float even[WORDS] = {0}, odd[WORDS] = {0}, sum[WORDS];
    for (uint32_t k = 0; k < steps; k++) {
        words factors = row_of(b, k);
        float a_even = f32_of_bits(a.at[k] << 16), a_odd = f32_of_bits(a.at[k] & 0xffff0000);
        for (uint32_t n = 0; n < WORDS; n++) {
            even[n] = fmaf(a_even, f32_of_bits(factors.at[n] << 16), even[n]);
            odd[n] = fmaf(a_odd, f32_of_bits(factors.at[n] & 0xffff0000), odd[n]);
        }
    }
    memcpy(sum, c, sizeof sum);
    for (uint32_t n = 0; n < WORDS; n++)
        sum[n] += even[n] + odd[n];
    memcpy(c, sum, 4 * columns);
}

static void row_int8(uint8_t *c, words a, const tile *b, uint32_t steps, uint32_t columns) {
    uint32_t sum[WORDS]; /* wraps around */
    memcpy(sum, c, sizeof sum);
    for (uint32_t k = 0; k < steps; k++) {
        words factors = row_of(b, k);
        for (uint32_t shift = 0; shift < 32; shift += 8) {
            int8_t factor = (int8_t)(a.at[k] >> shift);
            for (uint32_t n = 0; n < WORDS; n++)
                sum[n] += (uint32_t)(factor * (int8_t)(factors.at[n] >> shift));
        }
    }
    memcpy(c, sum, 4 * columns);
}

static void multiply(const instruction *i) {
    tile *c = get(i->c);
    const tile *a = get(i->a), *b = get(i->b);
    if (i->c == i->a || i->c == i->b || i->a == i->b)
        amxemu_fail("a product of tiles %u and %u into %u: they must differ", i->a, i->b, i->c);
    if (a->row_bytes % 4 != 0 || c->rows != a->rows || a->row_bytes / 4 != b->rows ||
        c->row_bytes != b->row_bytes || c->row_bytes % 4 != 0)
        amxemu_fail("a product of %u x %u and %u x %u bytes into %u x %u", a->rows, a->row_bytes,
                    b->rows, b->row_bytes, c->rows, c->row_bytes);
    uint32_t steps = a->row_bytes / 4, columns = c->row_bytes / 4;
    for (uint32_t m = 0; m < c->rows; m++) {
        if (i->kind == MULTIPLY_BF16)
            row_bf16(c->at[m], row_of(a, m), b, steps, columns);
        else
            row_int8(c->at[m], row_of(a, m), b, steps, columns);
    }
}

void tiles_do(const instruction *i) {
    uint8_t *memory = (uint8_t *)(uintptr_t)i->address;
    switch (i->kind) {
    case LOAD_CONFIG:
        return load_config(memory);
    case RELEASE:
        return clear();
    case TILE_ZERO:
        return zero(get(i->c));
    case TILE_LOAD:
        return load(get(i->c), memory, i->stride_bytes);
    case TILE_STORE:
        return store(get(i->c), memory, i->stride_bytes);
    default:
        return multiply(i);
    }
}
