/* lora_run.h - how the backends cut a packed update into pieces (kern_ops.lora_pieces).
 *
 * An update is some runs, one behind the other: arrays of units that are never cut, with `pad` bytes behind the
 * last unit of each piece that kernels may read. A run begins at a multiple of 64 bytes in the piece where the run
 * before ended, if one unit of it fits there still; so all pieces but the last are nearly full. Backends that keep
 * values as bf16 round them alike (lora_bf16). */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_LORA_RUN_H
#define ESPALIER_LORA_RUN_H

#include <string.h>

#include "engine/base/quant.h"
#include "kernels/kernels.h"

/* To the nearest bf16 that is finite, ties to even; of finite values, and without a branch. */
static inline uint16_t lora_bf16(float value) {
    const uint32_t largest = 0x7f7f;
    uint32_t bits = bits_of_f32(value), size = bits & 0x7fffffff;
    size = (size + 0x7fff + ((size >> 16) & 1)) >> 16;
    size = size < largest ? size : largest;
    return (uint16_t)((bits >> 16 & 0x8000) | size);
}

typedef struct lora_run {
    uint32_t units, unit_bytes, pad;
    uint32_t piece;       /* where the first unit lies, .. */
    uint32_t first_units; /* .. and as many with it; */
    uint32_t next_units;  /* in each piece behind it as many */
    size_t offset;        /* of the first unit in its piece */
} lora_run;

/* How far pieces are taken. */
typedef struct lora_walk {
    size_t piece_max;
    size_t *bytes; /* of each piece; or NULL */
    uint32_t piece;
    size_t offset; /* in it */
} lora_walk;

/* Bytes of some units that lie together and what is behind them. */
static inline uint64_t lora_bytes_of(const lora_run *run, uint32_t units) {
    return ((uint64_t)units * run->unit_bytes + run->pad + 63) / 64 * 64;
}

static inline uint32_t lora_units_in(const lora_walk *walk, const lora_run *run, size_t offset) {
    size_t room = walk->piece_max / 64 * 64 - offset, all = lora_bytes_of(run, run->units);
    if (all <= room) return run->units; /* nearly always, and without a division */
    return room < run->pad ? 0 : (uint32_t)((room - run->pad) / run->unit_bytes);
}

/* Units of a run go into the walk's piece. */
static inline void lora_take(lora_walk *walk, uint32_t units, const lora_run *run) {
    walk->offset += lora_bytes_of(run, units);
    if (walk->bytes) walk->bytes[walk->piece] = walk->offset;
}

static inline lora_run lora_place(lora_walk *walk, uint32_t units, uint32_t unit_bytes,
                                  uint32_t pad) {
    lora_run run = {.units = units, .unit_bytes = unit_bytes, .pad = pad};
    if (units == 0) return run;
    run.first_units = lora_units_in(walk, &run, walk->offset);
    if (run.first_units < units) run.next_units = lora_units_in(walk, &run, 0);
    if (run.first_units == 0) {
        walk->piece++;
        walk->offset = 0;
        run.first_units = run.next_units;
    }
    ESP_ASSERT(run.first_units > 0);
    run.piece = walk->piece;
    run.offset = walk->offset;
    lora_take(walk, run.first_units, &run);
    for (uint32_t left = units - run.first_units, count; left > 0; left -= count) {
        count = left < run.next_units ? left : run.next_units;
        walk->piece++;
        walk->offset = 0;
        lora_take(walk, count, &run);
    }
    return run;
}

static inline uint32_t lora_pieces_taken(const lora_walk *walk) {
    return walk->piece + (walk->offset > 0);
}

/* Unit `unit` of a run; *together: as many units lie side by side from there on. */
static inline void *lora_unit(const lora_run *run, void *const *pieces, uint32_t unit,
                              uint32_t *together) {
    uint32_t piece = run->piece, count = run->first_units, at = unit;
    size_t offset = run->offset;
    if (unit >= run->first_units) {
        uint32_t behind = unit - run->first_units;
        piece += 1 + behind / run->next_units;
        at = behind % run->next_units;
        count = at + run->units - unit;
        if (count > run->next_units) count = run->next_units;
        offset = 0;
    }
    *together = count - at;
    return (char *)pieces[piece] + offset + (size_t)at * run->unit_bytes;
}

/* Zeros in all of the run, padding too. */
static inline void lora_clear(const lora_run *run, void *const *pieces) {
    for (uint32_t unit = 0, together; unit < run->units; unit += together) {
        void *at = lora_unit(run, pieces, unit, &together);
        memset(at, 0, lora_bytes_of(run, together));
    }
}

#endif
