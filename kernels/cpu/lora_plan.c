/* lora_plan.c - see lora_plan.h: layouts, and the updates of an op. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/lora_plan.h"

#include <stdlib.h>

#include "engine/base/mem.h"

/* What may be read behind the last unit: a vector, a row of a tile. */
static uint32_t a_pad(const kern_device *dev) {
    return dev->level->by_rows ? CACHE_LINE_BYTES : LORA_PANEL * (uint32_t)sizeof(uint16_t);
}
static uint32_t b_pad(const kern_device *dev) { return dev->level->by_rows ? CACHE_LINE_BYTES : 0; }

static void lay_out_part(const kern_device *dev, const kern_lora *lora, uint32_t i, lora_walk *walk,
                         cpu_lora_part *out) {
    uint32_t rank = lora->part[i].rank;
    uint32_t tiles = (lora->part[i].rows + TILE_ROWS - 1) / TILE_ROWS;
    for (uint32_t g = 0; g < cpu_lora_groups(rank); g++) {
        uint32_t bytes = cpu_lora_group(rank, g) * TILE_ROWS * (uint32_t)sizeof(uint16_t);
        out->b[g] = lora_place(walk, tiles, bytes, b_pad(dev));
    }
    if (lora->part[i].magnitude) out->magnitude = lora_place(walk, tiles, FLOAT_ROW_BYTES, 0);
    if (lora->part[i].bias) out->bias = lora_place(walk, tiles, FLOAT_ROW_BYTES, 0);
}

void cpu_lora_lay_out(const kern_device *dev, const kern_lora *lora, size_t *bytes,
                      cpu_lora_layout *out) {
    lora_walk walk = {.piece_max = lora->piece_max, .bytes = bytes};
    uint32_t blocks = (lora->cols + TILE_COLS - 1) / TILE_COLS;
    out->ranks = out->states = 0;
    for (uint32_t i = 0; i < lora->part_count; i++) {
        out->part[i].first = out->ranks;
        out->part[i].state_first = out->states;
        out->ranks += lora->part[i].rank;
        out->states += cpu_lora_states(lora->part[i].rank);
    }
    out->panels = (out->ranks + LORA_PANEL - 1) / LORA_PANEL;
    for (uint32_t p = 0; p < out->panels; p++) {
        uint32_t ranks = cpu_lora_panel(out, p);
        out->a[p] =
            lora_place(&walk, blocks, ranks * TILE_COLS * (uint32_t)sizeof(uint16_t), a_pad(dev));
    }
    for (uint32_t i = 0; i < lora->part_count; i++)
        lay_out_part(dev, lora, i, &walk, &out->part[i]);
    out->pieces = lora_pieces_taken(&walk);
}

/* --- the plan ----------------------------------------------------------------------------- */

static uint32_t plan_tokens(const kern_device *dev) { return least(dev->tokens_max, LORA_TOKENS); }

/* Each token may have an update of its own, and a tile one more of the tile before. */
static size_t states_room(const kern_device *dev) {
    size_t tokens = plan_tokens(dev), ranks = LORA_RANKS;
    if (!dev->level->by_rows) return tokens * ranks * sizeof(float);
    size_t tiles = tokens + tokens / LORA_TILE_TOKENS + 1;
    return tiles * (ranks / LORA_STATE_RANKS) * LORA_STATE_BYTES;
}

cpu_lora_plan *cpu_lora_plan_open(const kern_device *dev) {
    cpu_lora_plan *plan = mem_new(1, sizeof *plan);
    plan->uses_room = plan_tokens(dev) * sizeof *plan->uses;
    plan->states_room = states_room(dev);
    plan->uses = mem_map(plan->uses_room);
    plan->states = mem_map(plan->states_room);
    if (plan->uses && plan->states) return plan;
    cpu_lora_plan_close(plan);
    return NULL;
}

void cpu_lora_plan_close(cpu_lora_plan *plan) {
    if (!plan) return;
    if (plan->uses) mem_unmap(plan->uses, plan->uses_room);
    if (plan->states) mem_unmap(plan->states, plan->states_room);
    free(plan);
}

static size_t use_bytes(const kern_device *dev, const cpu_lora_use *use) {
    size_t ranks = use->layout.ranks, tiles;
    if (!dev->level->by_rows) return use->count * ranks * sizeof(float);
    tiles = (use->first + use->count - 1) / LORA_TILE_TOKENS - use->first / LORA_TILE_TOKENS + 1;
    return tiles * use->layout.states * LORA_STATE_BYTES;
}

static void note_tiles(cpu_lora_plan *plan, const cpu_lora_use *use) {
    uint32_t number = (uint32_t)(use - plan->uses);
    uint32_t last = (use->first + use->count - 1) / LORA_TILE_TOKENS;
    for (uint32_t tile = use->first / LORA_TILE_TOKENS; tile <= last; tile++) {
        if (plan->tile_first[tile] == plan->tile_end[tile]) plan->tile_first[tile] = number;
        plan->tile_end[tile] = number + 1;
    }
}

static void plan_use(const kern_device *dev, cpu_lora_plan *plan, const kern_lora *lora,
                     uint32_t first, uint32_t count) {
    cpu_lora_use *use = &plan->uses[plan->count++];
    use->lora = lora;
    use->first = first;
    use->count = count;
    use->states = plan->state_bytes;
    cpu_lora_lay_out(dev, lora, NULL, &use->layout);
    size_t bytes = use_bytes(dev, use);
    plan->state_bytes += (bytes + CACHE_LINE_BYTES - 1) / CACHE_LINE_BYTES * CACHE_LINE_BYTES;
    ESP_ASSERT(plan->state_bytes <= plan->states_room);
    note_tiles(plan, use);
    for (uint32_t i = 0; i < lora->part_count; i++)
        if (lora->part[i].bias || lora->part[i].magnitude) plan->any_after = plan->after[i] = true;
}

static void clear_plan(cpu_lora_plan *plan) {
    plan->count = 0;
    plan->state_bytes = 0;
    plan->any_after = false;
    memset(plan->after, 0, sizeof plan->after);
    memset(plan->tile_first, 0, sizeof plan->tile_first);
    memset(plan->tile_end, 0, sizeof plan->tile_end);
}

/* The part of a segment within tokens base .. base + count; false: none, or no update. */
static bool clip(const kern_lora_segment *segment, uint32_t base, uint32_t count, uint32_t *first,
                 uint32_t *tokens) {
    uint32_t begin = segment->first, end = begin + segment->count;
    if (begin < base) begin = base;
    if (end > base + count) end = base + count;
    *first = begin - base;
    *tokens = end - begin;
    return segment->lora && begin < end;
}

static void plan_segments(const kern_device *dev, const kern_lora_segment *segments,
                          uint32_t segment_count, uint32_t base, uint32_t count,
                          cpu_lora_plan *plan) {
    clear_plan(plan);
    for (uint32_t s = 0; s < segment_count; s++) /* each is somewhere else in memory */
        __builtin_prefetch(segments[s].lora);
    for (uint32_t s = 0, first, tokens; s < segment_count; s++)
        if (clip(&segments[s], base, count, &first, &tokens))
            plan_use(dev, plan, segments[s].lora, first, tokens);
}

/* Whether the plan's uses are those of the segments. */
static bool is_of(const cpu_lora_plan *plan, const kern_linear *op, uint32_t base, uint32_t count) {
    uint32_t u = 0;
    for (uint32_t s = 0, first, tokens; s < op->lora_count; s++) {
        if (!clip(&op->lora[s], base, count, &first, &tokens)) continue;
        const cpu_lora_use *use = &plan->uses[u];
        if (u++ >= plan->count || use->lora != op->lora[s].lora || use->first != first ||
            use->count != tokens)
            return false;
    }
    return u > 0 && u == plan->count;
}

void cpu_lora_plan_op(kern_device *dev, const kern_linear *op, uint32_t base, uint32_t count) {
    cpu_lora_plan *planned = dev->lora_next;
    if (planned->count > 0 && is_of(planned, op, base, count)) {
        dev->lora_next = dev->lora;
        dev->lora = planned;
    } else {
        plan_segments(dev, op->lora, op->lora_count, base, count, dev->lora);
    }
    dev->lora_next->count = 0;
}

void cpu_lora_plan_next(kern_device *dev, const kern_linear *op) {
    plan_segments(dev, op->lora_next, op->lora_next_count, 0, op->token_count, dev->lora_next);
}
