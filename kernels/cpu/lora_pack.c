/* lora_pack.c - an adapter's float32 arrays to the pieces of lora_plan.h. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/base/quant.h"
#include "kernels/cpu/lora_plan.h"

static const uint16_t LARGEST_BF16 = 0x7f7f;

/* To the nearest bf16 that is finite. */
static uint16_t rounded(float value) {
    uint16_t bits = bf16_of_f32(value);
    bool infinite = (bits & 0x7fff) > LARGEST_BF16;
    return infinite ? (uint16_t)((bits & 0x8000) | LARGEST_BF16) : bits;
}

/* A matrix's unit of `ranks` ranks and `others` columns or rows, rank by rank or the other way round. */
typedef struct unit_shape {
    bool ranks_first;
    uint32_t ranks, others;
} unit_shape;

static void put(const unit_shape *shape, uint16_t *unit, uint32_t rank, uint32_t other,
                float value) {
    size_t at = shape->ranks_first ? (size_t)rank * shape->others + other
                                   : (size_t)other * shape->ranks + rank;
    unit[at] = rounded(value);
}

/* The part that has a rank of all parts; the rank within it. */
static const kern_lora_part *part_of(const kern_lora_desc *desc, uint32_t *rank) {
    const kern_lora_part *part = desc->part;
    while (*rank >= part->rank)
        *rank -= part++->rank;
    return part;
}

static void pack_panel(const kern_device *dev, const kern_lora_desc *desc, uint32_t first,
                       uint32_t ranks, const lora_run *run, void *const *pieces) {
    unit_shape shape = {dev->level->by_rows, ranks, TILE_COLS};
    lora_clear(run, pieces);
    for (uint32_t r = 0; r < ranks; r++) {
        uint32_t rank = first + r, together;
        const kern_lora_part *part = part_of(desc, &rank);
        const float *row = part->a + (size_t)rank * desc->cols;
        for (uint32_t c = 0; c < desc->cols; c++)
            put(&shape, lora_unit(run, pieces, c / TILE_COLS, &together), r, c % TILE_COLS, row[c]);
    }
}

static void pack_group(const kern_device *dev, const kern_lora_part *part, uint32_t g,
                       const lora_run *run, void *const *pieces) {
    unit_shape shape = {!dev->level->by_rows, cpu_lora_group(part->rank, g), TILE_ROWS};
    lora_clear(run, pieces);
    for (uint32_t row = 0; row < part->rows; row++) {
        uint32_t together;
        uint16_t *unit = lora_unit(run, pieces, row / TILE_ROWS, &together);
        const float *from = part->b + (size_t)row * part->rank + g * LORA_GROUP;
        for (uint32_t r = 0; r < shape.ranks; r++)
            put(&shape, unit, r, row % TILE_ROWS, from[r]);
    }
}

static void pack_rows(const float *from, uint32_t rows, const lora_run *run, void *const *pieces) {
    lora_clear(run, pieces);
    for (uint32_t row = 0; from && row < rows; row += TILE_ROWS) {
        uint32_t together;
        memcpy(lora_unit(run, pieces, row / TILE_ROWS, &together), from + row,
               cpu_lora_least(rows - row, TILE_ROWS) * sizeof *from);
    }
}

void cpu_lora_pack(const kern_device *dev, const kern_lora_desc *desc, size_t piece_max,
                   void *const *pieces) {
    ESP_ASSERT(kern_lora_is_sane(desc, piece_max));
    kern_lora lora = kern_lora_of(desc, piece_max, pieces);
    cpu_lora_layout layout = {0};
    cpu_lora_lay_out(dev, &lora, NULL, &layout);
    for (uint32_t p = 0; p < layout.panels; p++)
        pack_panel(dev, desc, p * LORA_PANEL, cpu_lora_panel(&layout, p), &layout.a[p], pieces);
    for (uint32_t i = 0; i < desc->part_count; i++) {
        const kern_lora_part *part = &desc->part[i];
        const cpu_lora_part *at = &layout.part[i];
        for (uint32_t g = 0; g < cpu_lora_groups(part->rank); g++)
            pack_group(dev, part, g, &at->b[g], pieces);
        pack_rows(part->magnitude, part->rows, &at->magnitude, pieces);
        pack_rows(part->bias, part->rows, &at->bias, pieces);
    }
}

uint32_t cpu_lora_pieces(const kern_device *dev, const kern_lora_desc *desc, size_t piece_max,
                         size_t *bytes) {
    ESP_ASSERT(kern_lora_is_sane(desc, piece_max));
    kern_lora lora = kern_lora_of(desc, piece_max, NULL);
    cpu_lora_layout layout = {0};
    cpu_lora_lay_out(dev, &lora, bytes, &layout);
    return layout.pieces;
}
