/* source_amx.h - where the weight tiles of a strip come from, and how they become A tiles. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_SOURCE_AMX_H
#define ESPALIER_SOURCE_AMX_H

#include "kernels/cpu/amx/scratch_amx.h"
#include "kernels/cpu/level/linear_job.h"

/* Scales of blocks b .. b + count of a tile. */
typedef void scales_fn(const uint8_t *scales, uint32_t b, uint32_t count, amx_scales *out);
/* One block to an A tile. */
typedef void unpack_fn(const uint8_t *codes, const amx_scales *scales, uint16_t *out);

typedef struct source {
    esp_dtype dtype;
    const uint8_t *codes, *scales;
    size_t code_step;               /* from one block's codes to the next one's */
    size_t code_bytes, scale_bytes; /* of a block */
    size_t tile_scale_bytes;        /* scales of a tile */
    scales_fn *read_scales;         /* NULL: no scales */
    unpack_fn *unpack;              /* NULL: blocks are A tiles as they are */
} source;

source amx_source(const kern_matrix *matrix, uint32_t tile);

/* The strip of at most `most` tiles (gated: of each matrix) that begins at a unit: of one matrix, and of
 * one strip of its packed tiles. */
strip amx_strip_at(const linear_job *job, uint32_t unit, uint32_t end, uint32_t most);
/* Units of work in a strip. */
static inline uint32_t amx_strip_units(const linear_job *job, const strip *s) {
    return s->count / job->unit_tiles;
}

/* Block `block` of a tile as an A tile: where it lies, or unpacked to `room`. */
ALWAYS_INLINE const uint16_t *amx_a_tile(const source *from, uint32_t block,
                                         const amx_scales *scales, uint16_t *room) {
    const uint8_t *codes = from->codes + block * from->code_step;
    if (!from->unpack) return (const uint16_t *)(const void *)codes;
    from->unpack(codes, scales, room);
    return room;
}

#endif
