/* cuda_lora_table.c - the segments of a linear to the table that kernels read (cuda_lora.h). */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_launch.h"
#include "kernels/cuda/cuda_lora_host.h"

#include <assert.h>

static_assert(sizeof(cuda_lora_table_head) == 64 && sizeof(cuda_lora_tile) == 32,
              "as the device reads");

static uint32_t piece_count(const kern_lora *lora) { return cuda_lora_lay_out(lora, NULL).pieces; }

/* Whether tokens of the segment have something done to them. */
static bool is_live(const kern_lora_segment *segment) {
    return segment->lora && segment->count > 0 && piece_count(segment->lora) > 0;
}

static uint32_t tiles_of(const kern_lora_segment *segment) {
    return (segment->count + CUDA_LORA_TILE - 1) / CUDA_LORA_TILE;
}

static uint64_t tiles_at(uint32_t tokens) {
    return (sizeof(cuda_lora_table_head) + (uint64_t)tokens * sizeof(uint32_t) + 63) / 64 * 64;
}

static uint64_t pieces_at(const kern_lora_segment *segments, uint32_t count, uint32_t tokens) {
    uint64_t tiles = 0;
    for (uint32_t s = 0; s < count; s++)
        if (is_live(&segments[s])) tiles += tiles_of(&segments[s]);
    return tiles_at(tokens) + tiles * sizeof(cuda_lora_tile);
}

uint64_t cuda_lora_table_bytes(const kern_lora_segment *segments, uint32_t count, uint32_t tokens) {
    uint64_t bytes = pieces_at(segments, count, tokens);
    for (uint32_t s = 0; s < count; s++)
        if (is_live(&segments[s])) bytes += piece_count(segments[s].lora) * sizeof(uint64_t);
    return bytes;
}

typedef struct table_writer {
    cuda_lora_table_head *head;
    uint32_t *words;
    cuda_lora_tile *tiles;
    uint64_t *pieces;
    uint32_t piece; /* the next one */
} table_writer;

static void write_tiles(table_writer *w, const kern_lora_segment *segment, uint32_t ranks) {
    for (uint32_t done = 0; done < segment->count; done += CUDA_LORA_TILE) {
        uint32_t left = segment->count - done;
        w->tiles[w->head->tile_count++] =
            (cuda_lora_tile){.update = (uint64_t)(uintptr_t)segment->lora->pieces[0],
                             .first = segment->first + done,
                             .count = left < CUDA_LORA_TILE ? left : CUDA_LORA_TILE,
                             .piece = w->piece,
                             .ranks = ranks};
    }
}

static void write_segment(table_writer *w, const kern_lora_segment *segment) {
    cuda_lora_layout layout = cuda_lora_lay_out(segment->lora, NULL);
    uint32_t panels = (layout.ranks + CUDA_LORA_PANEL - 1) / CUDA_LORA_PANEL;
    if (panels > w->head->panels) w->head->panels = panels;
    for (uint32_t i = 0; i < segment->count; i++)
        w->words[segment->first + i] = w->piece + 1;
    write_tiles(w, segment, layout.ranks);
    for (uint32_t i = 0; i < layout.pieces; i++)
        w->pieces[w->piece++] = (uint64_t)(uintptr_t)segment->lora->pieces[i];
}

void cuda_lora_table(const kern_lora_segment *segments, uint32_t count, uint32_t tokens,
                     void *table) {
    char *bytes = table;
    uint64_t tiles = tiles_at(tokens), pieces = pieces_at(segments, count, tokens);
    ESP_ASSERT(pieces <= UINT32_MAX);
    table_writer w = {.head = table,
                      .words = (void *)(bytes + sizeof(cuda_lora_table_head)),
                      .tiles = (void *)(bytes + tiles),
                      .pieces = (void *)(bytes + pieces)};
    memset(bytes, 0, tiles);
    w.head->tiles = (uint32_t)tiles;
    w.head->pieces = (uint32_t)pieces;
    w.head->token_count = tokens;
    for (uint32_t s = 0; s < count; s++) {
        ESP_ASSERT(segments[s].first <= tokens && segments[s].count <= tokens - segments[s].first);
        if (is_live(&segments[s])) write_segment(&w, &segments[s]);
    }
}

bool cuda_lora_has_magnitude(const kern_lora_segment *segments, uint32_t count) {
    for (uint32_t s = 0; s < count; s++)
        for (uint32_t i = 0; segments[s].lora && i < segments[s].lora->part_count; i++)
            if (segments[s].lora->part[i].magnitude) return true;
    return false;
}

/* ---- workspace ---- */

uint64_t cuda_lora_workspace(uint32_t tokens_max, uint32_t cols_max) {
    const uint32_t slice = CUDA_LORA_SLICE * CUDA_LORA_BLOCK;
    uint64_t apart = tokens_max < CUDA_LORA_APART ? tokens_max : CUDA_LORA_APART;
    uint64_t rows = apart * ((cols_max + slice - 1) / slice);
    if (rows < tokens_max) rows = tokens_max;
    return rows * CUDA_LORA_RANKS * sizeof(float);
}

uint64_t cuda_lora_whole_bytes(uint32_t tokens, uint32_t rows_of_all, uint32_t rows_largest,
                               uint64_t piece_max) {
    uint64_t largest = ((uint64_t)rows_largest + CUDA_LORA_ROWS - 1) / CUDA_LORA_ROWS;
    if (largest * CUDA_LORA_ROWS_UNIT <= piece_max / 64 * 64) return 0;
    return (uint64_t)tokens * rows_of_all * 2 * sizeof(float);
}
