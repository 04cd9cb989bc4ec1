/* lora_shape.c - what the backends ask of every update. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/kernels.h"

bool kern_lora_is_sane(const kern_lora_desc *desc, size_t piece_max) {
    if (piece_max < LORA_PIECE_MIN || desc->cols == 0) return false;
    if (desc->part_count > LINEAR_MATRICES_MAX) return false;
    for (uint32_t i = 0; i < desc->part_count; i++) {
        const kern_lora_part *part = &desc->part[i];
        bool touched = part->rank || part->bias || part->magnitude;
        if (part->rank > LORA_RANK_MAX || (touched && part->rows == 0)) return false;
    }
    return true;
}

bool kern_lora_fits(const kern_linear *op, const uint32_t *rows, uint32_t cols) {
    uint32_t end = 0;
    for (uint32_t s = 0; s < op->lora_count; s++) {
        const kern_lora_segment *segment = &op->lora[s];
        const kern_lora *lora = segment->lora;
        if (segment->first < end || segment->count > op->token_count ||
            segment->first > op->token_count - segment->count)
            return false;
        end = segment->first + segment->count;
        if (!lora) continue;
        if (lora->cols != cols || lora->part_count > op->matrix_count) return false;
        for (uint32_t i = 0; i < lora->part_count; i++)
            if (lora->part[i].rows && lora->part[i].rows != rows[i]) return false;
    }
    return true;
}
