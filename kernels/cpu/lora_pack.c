/* lora_pack.c - an adapter's float32 arrays to the pieces of lora_plan.h. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/lora_plan.h"

/* Columns of a part's A, `count` of one block of a row, into rank r of a panel's unit of `ranks`. */
static void put_columns(bool pairs, const float *from, uint32_t count, uint32_t r, uint32_t ranks,
                        uint16_t *unit) {
    uint16_t values[TILE_COLS] = {0};
    if (count == TILE_COLS)
        for (uint32_t c = 0; c < TILE_COLS; c++)
            values[c] = lora_bf16(from[c]);
    else
        for (uint32_t c = 0; c < count; c++)
            values[c] = lora_bf16(from[c]);
    if (pairs)
        for (uint32_t c = 0; c < TILE_COLS; c += 2)
            memcpy(unit + (c / 2 * ranks + r) * 2, values + c, 2 * sizeof *values);
    else
        for (uint32_t c = 0; c < TILE_COLS; c++)
            unit[c * ranks + r] = values[c];
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
    lora_clear(run, pieces);
    for (uint32_t b = 0, together; b < run->units; b++) {
        uint16_t *unit = lora_unit(run, pieces, b, &together);
        uint32_t column = b * TILE_COLS, count = least(desc->cols - column, TILE_COLS);
        for (uint32_t r = 0; r < ranks; r++) {
            uint32_t rank = first + r;
            const kern_lora_part *part = part_of(desc, &rank);
            put_columns(dev->level->by_rows, part->a + (size_t)rank * desc->cols + column, count, r,
                        ranks, unit);
        }
    }
}

/* Rows of a part's B, `count` of one tile, `stride` apart, into a group's unit of `ranks`. */
static void put_rows(bool by_rows, const float *from, size_t stride, uint32_t count, uint32_t ranks,
                     uint16_t *unit) {
    const size_t row_step = by_rows ? ranks : 1, rank_step = by_rows ? 1 : TILE_ROWS;
    for (uint32_t row = 0; row < count; row++, from += stride, unit += row_step)
        for (uint32_t r = 0; r < ranks; r++)
            unit[r * rank_step] = lora_bf16(from[r]);
}

static void pack_group(const kern_device *dev, const kern_lora_part *part, uint32_t g,
                       const lora_run *run, void *const *pieces) {
    lora_clear(run, pieces);
    for (uint32_t tile = 0, together; tile < run->units; tile++) {
        uint32_t row = tile * TILE_ROWS;
        put_rows(dev->level->by_rows, part->b + (size_t)row * part->rank + g * LORA_GROUP,
                 part->rank, least(part->rows - row, TILE_ROWS), cpu_lora_group(part->rank, g),
                 lora_unit(run, pieces, tile, &together));
    }
}

static void pack_rows(const float *from, uint32_t rows, const lora_run *run, void *const *pieces) {
    lora_clear(run, pieces);
    for (uint32_t row = 0; from && row < rows; row += TILE_ROWS) {
        uint32_t together;
        memcpy(lora_unit(run, pieces, row / TILE_ROWS, &together), from + row,
               least(rows - row, TILE_ROWS) * sizeof *from);
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
