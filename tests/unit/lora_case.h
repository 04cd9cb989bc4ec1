/* lora_case.h - adapters of one linear that a seed decides, packed: for tests and benches of low-rank updates. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_LORA_CASE_H
#define ESPALIER_LORA_CASE_H

#include "tests/unit/linear_case.h"

typedef struct lora_shape {
    uint32_t rank[LINEAR_MATRICES_MAX]; /* of each part */
    bool bias, magnitude;
    bool skips_last; /* has no part for the last matrix */
} lora_shape;

typedef struct lora_adapter {
    kern_lora_desc desc;
    kern_lora lora;
    void **pieces;
    uint32_t piece_count;
} lora_adapter;

/* In [-size, size), as bf16 has it. */
static inline float *lora_values(uint64_t seed, size_t count, float size) {
    float *values = lab_random(seed, count);
    for (size_t i = 0; i < count; i++)
        values[i] = f32_of_bf16(bf16_of_f32(values[i] * size));
    return values;
}

static inline kern_lora_part lora_part_of(uint64_t seed, const lora_shape *shape, uint32_t rank,
                                          uint32_t rows, uint32_t cols) {
    kern_lora_part part = {.rank = rank, .rows = rows, .scale = 0.5f + (float)(seed % 7) / 8};
    if (rank) {
        part.a = lora_values(seed + 1, (size_t)rank * cols, 0.5f);
        part.b = lora_values(seed + 2, (size_t)rows * rank, 0.5f);
    }
    if (shape->bias) part.bias = lora_values(seed + 3, rows, 2);
    if (shape->magnitude) part.magnitude = lora_values(seed + 4, rows, 1);
    return part;
}

/* Packs the desc into pieces that held other bytes before. */
static inline void lora_take_pieces(const lab *l, size_t piece_max, lora_adapter *adapter) {
    uint32_t count = l->ops->lora_pieces(l->dev, &adapter->desc, piece_max, NULL);
    size_t *bytes = calloc(count + 1, sizeof *bytes);
    uint32_t again = l->ops->lora_pieces(l->dev, &adapter->desc, piece_max, bytes);
    ESP_ASSERT(again == count);
    adapter->piece_count = count;
    adapter->pieces = calloc(count + 1, sizeof *adapter->pieces);
    for (uint32_t i = 0; i < count; i++) {
        ESP_ASSERT(bytes[i] > 0 && bytes[i] <= piece_max);
        adapter->pieces[i] = aligned_alloc(64, (bytes[i] + 63) / 64 * 64);
        memset(adapter->pieces[i], 0xff, bytes[i]);
    }
    l->ops->lora_pack(l->dev, &adapter->desc, piece_max, adapter->pieces);
    adapter->lora = kern_lora_of(&adapter->desc, piece_max, adapter->pieces);
    free(bytes);
}

static inline lora_adapter lora_adapter_of(const lab *l, const linear_case *c, uint64_t seed,
                                           const lora_shape *shape, size_t piece_max) {
    lora_adapter adapter = {.desc = {.cols = c->cols}};
    adapter.desc.part_count = c->matrices - shape->skips_last;
    for (uint32_t i = 0; i < adapter.desc.part_count; i++)
        adapter.desc.part[i] =
            lora_part_of(seed * 100 + i * 10, shape, shape->rank[i], c->rows[i], c->cols);
    lora_take_pieces(l, piece_max, &adapter);
    return adapter;
}

static inline void lora_adapter_free(lora_adapter *adapter) {
    for (uint32_t i = 0; i < adapter->desc.part_count; i++) {
        const kern_lora_part *part = &adapter->desc.part[i];
        free((void *)part->a);
        free((void *)part->b);
        free((void *)part->bias);
        free((void *)part->magnitude);
    }
    for (uint32_t i = 0; i < adapter->piece_count; i++)
        free(adapter->pieces[i]);
    free(adapter->pieces);
}

#endif
