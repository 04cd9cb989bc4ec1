/* source_amx.c - see source_amx.h. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/amx/source_amx.h"

#define FORMAT_OF(dtype)                                                                           \
    static void scales_##dtype(const uint8_t *scales, uint32_t b, uint32_t count,                  \
                               amx_scales *out) {                                                  \
        for (uint32_t i = 0; i < count; i++)                                                       \
            amx_scales_of(dtype, scales, b + i, out + i * STRIP_TILES);                            \
    }                                                                                              \
    static void unpack_##dtype(const uint8_t *codes, const amx_scales *scales, uint16_t *out) {    \
        amx_unpack(dtype, codes, scales, out);                                                     \
    }
FOR_EACH_UNPACKED_FORMAT(FORMAT_OF)

#define SCALES_ROW(dtype) [dtype] = scales_##dtype,
#define UNPACK_ROW(dtype) [dtype] = unpack_##dtype,
static scales_fn *const scales_of[DT_COUNT] = {FOR_EACH_UNPACKED_FORMAT(SCALES_ROW)};
static unpack_fn *const unpack_of[DT_COUNT] = {
    FOR_EACH_UNPACKED_FORMAT(UNPACK_ROW)}; /* BF16: NULL */

source amx_source(const kern_matrix *matrix, uint32_t tile) {
    const cpu_format *format = &cpu_formats[matrix->dtype];
    return (source){.dtype = matrix->dtype,
                    .codes = cpu_tile_codes(matrix, tile),
                    .scales = matrix->scales + tile * matrix->scale_bytes,
                    .code_step = cpu_block_step(matrix),
                    .code_bytes = format->code_bytes,
                    .scale_bytes = format->scale_bytes,
                    .tile_scale_bytes = matrix->scale_bytes,
                    .read_scales = format->scaling == SCALE_NONE ? NULL : scales_of[matrix->dtype],
                    .unpack = unpack_of[matrix->dtype]};
}

strip amx_strip_at(const linear_job *job, uint32_t unit, uint32_t end, uint32_t most) {
    const kern_linear *op = job->op;
    uint32_t m = 0, tile = unit;
    while (!kern_is_gated(op->epilogue) && tile >= op->matrix[m]->tiles)
        tile -= op->matrix[m++]->tiles;
    uint32_t room = STRIP_TILES - tile % STRIP_TILES, left = op->matrix[m]->tiles - tile;
    uint32_t count = end - unit;
    if (count > left) count = left;
    if (count > room) count = room;
    if (count > most) count = most;
    strip s = {.count = count * job->unit_tiles};
    for (uint32_t i = 0; i < s.count; i++) {
        s.matrix[i] = m + i / count;
        s.tile[i] = tile + i % count;
    }
    return s;
}
