/* embed.c - out[t,:] = scale * table[ids[t],:], read out of the packed tiles.
 *
 * In     table [V,H] packed; ids [T], each below V
 * Out    out [T,H] f32, exactly what the format defines when scale is 1
 * Cost   one row a token: plain code, on the caller. A tied output matrix needs no second copy */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "kernels/cpu/cpu.h"

static uint16_t half_at(const uint8_t *bytes, uint32_t index) {
    uint16_t half;
    memcpy(&half, bytes + index * sizeof half, sizeof half);
    return half;
}

static uint32_t dword_at(const uint8_t *bytes, uint32_t index) {
    uint32_t dword;
    memcpy(&dword, bytes + index * sizeof dword, sizeof dword);
    return dword;
}

/* Code of column k and row `lane` of a tile's block, as a float. */
static float code_at(esp_dtype dtype, const uint8_t *codes, uint32_t k, uint32_t lane) {
    uint32_t at = k * TILE_ROWS + lane;
    switch (dtype) {
    case DT_Q4_0:
    case DT_Q4_1: {
        uint32_t code = dword_at(codes, k / 8 * TILE_ROWS + lane) >> (k % 8 * 4) & 15u;
        return (float)code - (dtype == DT_Q4_0 ? 8.0f : 0.0f);
    }
    case DT_Q8_0:
        return (float)(int8_t)codes[at];
    case DT_F16:
        return f32_of_f16(half_at(codes, at));
    case DT_BF16:
        return f32_of_bf16(half_at(codes, at));
    case DT_F32:
    default:
        return f32_of_bits(dword_at(codes, at));
    }
}

static void read_row(const kern_matrix *table, uint32_t row, float scale, float *out) {
    const cpu_format *format = &cpu_formats[table->dtype];
    uint32_t lane = row % TILE_ROWS;
    const uint8_t *codes = table->codes + row / TILE_ROWS * table->code_bytes;
    const uint8_t *scales = table->scales + row / TILE_ROWS * table->scale_bytes;
    for (uint32_t i = 0; i < table->cols; i++) {
        uint32_t b = i / TILE_COLS;
        const uint8_t *block_scales = scales + (size_t)b * format->scale_bytes;
        float w =
            code_at(table->dtype, codes + (size_t)b * format->code_bytes, i % TILE_COLS, lane);
        if (format->scale_bytes) w *= f32_of_f16(half_at(block_scales, lane));
        if (table->dtype == DT_Q4_1) w += f32_of_f16(half_at(block_scales, TILE_ROWS + lane));
        out[i] = scale * w;
    }
}

void cpu_embed(kern_device *dev, const kern_embed *op) {
    (void)dev;
    for (uint32_t t = 0; t < op->token_count; t++) {
        ESP_ASSERT(op->ids[t] >= 0 && (uint32_t)op->ids[t] < op->table->rows);
        read_row(op->table, (uint32_t)op->ids[t], op->scale,
                 (float *)op->out + (size_t)t * op->table->cols);
    }
}
