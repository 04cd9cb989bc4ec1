/* cuda_lora_pack.c - an adapter's float32 arrays to the pieces of cuda_lora.h. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_lora_host.h"

#include <assert.h>

#include "engine/base/least.h"

static_assert((int)CUDA_LORA_PARTS == (int)LINEAR_MATRICES_MAX, "a part for each matrix");
static_assert((int)CUDA_LORA_RANKS == (int)LINEAR_MATRICES_MAX * LORA_RANK_MAX, "ranks");
static_assert(sizeof(cuda_lora_head) == 224 && sizeof(cuda_lora_part) == 64, "as the device reads");
static_assert(sizeof(cuda_lora_head) <= LORA_PIECE_MIN, "a unit");

/* ---- layout ---- */

static uint32_t ceil_div(uint32_t a, uint32_t b) { return a / b + (a % b != 0); }

/* Values of rows: in one unit if a piece can hold them. */
static lora_run place_rows(lora_walk *walk, uint32_t rows) {
    uint32_t tiles = ceil_div(rows, CUDA_LORA_ROWS);
    uint64_t bytes = (uint64_t)tiles * CUDA_LORA_ROWS_UNIT;
    if (bytes > walk->piece_max / 64 * 64) return lora_place(walk, tiles, CUDA_LORA_ROWS_UNIT, 0);
    return lora_place(walk, 1, (uint32_t)bytes, 0);
}

static bool is_touched(const kern_lora *lora, uint32_t i) {
    return lora->part[i].rank || lora->part[i].bias || lora->part[i].magnitude;
}

cuda_lora_layout cuda_lora_lay_out(const kern_lora *lora, size_t *bytes) {
    cuda_lora_layout out = {0};
    lora_walk walk = {.piece_max = lora->piece_max, .bytes = bytes};
    bool touched = false;
    for (uint32_t i = 0; i < lora->part_count; i++) {
        touched |= is_touched(lora, i);
        out.ranks += lora->part[i].rank;
    }
    if (!touched) return out;
    out.head = lora_place(&walk, 1, sizeof(cuda_lora_head), 0);
    out.a = lora_place(&walk,
                       ceil_div(out.ranks, CUDA_LORA_PANEL) * ceil_div(lora->cols, CUDA_LORA_BLOCK),
                       CUDA_LORA_A_UNIT, 0);
    for (uint32_t i = 0; i < lora->part_count; i++) {
        uint32_t tiles = ceil_div(lora->part[i].rows, CUDA_LORA_ROWS);
        uint32_t steps = ceil_div(lora->part[i].rank, CUDA_LORA_PANEL);
        out.part[i].b = lora_place(&walk, tiles * steps, CUDA_LORA_B_UNIT, 0);
        if (lora->part[i].bias) out.part[i].bias = place_rows(&walk, lora->part[i].rows);
        if (lora->part[i].magnitude) out.part[i].magnitude = place_rows(&walk, lora->part[i].rows);
    }
    out.pieces = lora_pieces_taken(&walk);
    return out;
}

uint32_t cuda_lora_pieces(const kern_device *dev, const kern_lora_desc *desc, size_t piece_max,
                          size_t *bytes) {
    (void)dev;
    ESP_ASSERT(kern_lora_is_sane(desc, piece_max));
    kern_lora lora = kern_lora_of(desc, piece_max, NULL);
    return cuda_lora_lay_out(&lora, bytes).pieces;
}

/* ---- packing ---- */

static cuda_lora_run run_of(const lora_run *run) {
    ESP_ASSERT(run->offset <= UINT32_MAX);
    return (cuda_lora_run){.piece = run->piece,
                           .first_units = run->first_units,
                           .next_units = run->next_units,
                           .offset = (uint32_t)run->offset};
}

/* As a run of units of 16 rows, which it is also where it was placed as one. */
static cuda_lora_run rows_run_of(const lora_run *run, uint32_t rows) {
    cuda_lora_run out = run_of(run);
    if (run->units == 1) out.first_units = ceil_div(rows, CUDA_LORA_ROWS);
    return out;
}

static void pack_head(const kern_lora_desc *desc, const cuda_lora_layout *layout,
                      void *const *pieces) {
    cuda_lora_head head = {
        .ranks = layout->ranks, .part_count = desc->part_count, .a = run_of(&layout->a)};
    for (uint32_t i = 0, first = 0; i < desc->part_count; first += desc->part[i++].rank) {
        const kern_lora_part *part = &desc->part[i];
        head.part[i] =
            (cuda_lora_part){.rank = part->rank,
                             .first = first,
                             .scale = part->scale,
                             .flags = (part->bias ? CUDA_LORA_BIAS : 0u) |
                                      (part->magnitude ? CUDA_LORA_MAGNITUDE : 0u),
                             .b = run_of(&layout->part[i].b),
                             .bias = rows_run_of(&layout->part[i].bias, part->rows),
                             .magnitude = rows_run_of(&layout->part[i].magnitude, part->rows)};
    }
    uint32_t together;
    lora_clear(&layout->head, pieces);
    memcpy(lora_unit(&layout->head, pieces, 0, &together), &head, sizeof head);
}

/* Four neighbouring values of a row into lane `lane` of 32; the upper eight rows of a unit are the second of
 * each pair. */
static void put_four(uint16_t *lanes, uint32_t lane, uint32_t row, const float *from,
                     uint32_t count) {
    uint16_t *at = lanes + lane * 8 + row / 8 * 2;
    for (uint32_t i = 0; i < count; i++)
        at[i / 2 * 4 + i % 2] = lora_bf16(from[i]);
}

/* One row of A into panel row `row` of its units. */
static void pack_a_row(const float *from, uint32_t cols, uint32_t row, const lora_run *run,
                       uint32_t first_unit, void *const *pieces) {
    for (uint32_t c = 0, together; c < cols; c += 4) {
        uint16_t *unit = lora_unit(run, pieces, first_unit + c / CUDA_LORA_BLOCK, &together);
        uint32_t step = c / 4 % 2, t = c % CUDA_LORA_BLOCK / 8;
        put_four(unit + step * 256, row % 8 * 4 + t, row, from + c, least(cols - c, 4));
    }
}

static void pack_a(const kern_lora_desc *desc, const lora_run *run, void *const *pieces) {
    uint32_t blocks = ceil_div(desc->cols, CUDA_LORA_BLOCK), rank = 0;
    lora_clear(run, pieces);
    for (uint32_t i = 0; i < desc->part_count; i++)
        for (uint32_t r = 0; r < desc->part[i].rank; r++, rank++)
            pack_a_row(desc->part[i].a + (size_t)r * desc->cols, desc->cols, rank % CUDA_LORA_PANEL,
                       run, rank / CUDA_LORA_PANEL * blocks, pieces);
}

static void pack_b(const kern_lora_part *part, const lora_run *run, void *const *pieces) {
    uint32_t steps = ceil_div(part->rank, CUDA_LORA_PANEL);
    lora_clear(run, pieces);
    for (uint32_t row = 0; part->rank && row < part->rows; row++)
        for (uint32_t r = 0, together; r < part->rank; r += 4) {
            uint32_t unit = row / CUDA_LORA_ROWS * steps + r / CUDA_LORA_PANEL;
            put_four(lora_unit(run, pieces, unit, &together), row % 8 * 4 + r % CUDA_LORA_PANEL / 4,
                     row % CUDA_LORA_ROWS, part->b + (size_t)row * part->rank + r,
                     least(part->rank - r, 4));
        }
}

static void pack_rows(const float *from, uint32_t rows, const lora_run *run, void *const *pieces) {
    uint32_t unit_rows = run->unit_bytes / (uint32_t)sizeof *from;
    lora_clear(run, pieces);
    for (uint32_t unit = 0, together; unit < run->units; unit++)
        memcpy(lora_unit(run, pieces, unit, &together), from + (size_t)unit * unit_rows,
               least(rows - unit * unit_rows, unit_rows) * sizeof *from);
}

void cuda_lora_pack(const kern_device *dev, const kern_lora_desc *desc, size_t piece_max,
                    void *const *pieces) {
    (void)dev;
    ESP_ASSERT(kern_lora_is_sane(desc, piece_max));
    kern_lora lora = kern_lora_of(desc, piece_max, pieces);
    cuda_lora_layout layout = cuda_lora_lay_out(&lora, NULL);
    if (layout.pieces == 0) return;
    pack_head(desc, &layout, pieces);
    pack_a(desc, &layout.a, pieces);
    for (uint32_t i = 0; i < desc->part_count; i++) {
        const kern_lora_part *part = &desc->part[i];
        pack_b(part, &layout.part[i].b, pieces);
        pack_rows(part->bias, part->rows, &layout.part[i].bias, pieces);
        pack_rows(part->magnitude, part->rows, &layout.part[i].magnitude, pieces);
    }
}
