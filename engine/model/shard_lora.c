/* shard_lora.c - the parts of an update. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/shard_lora.h"

#include <string.h>

#include "engine/base/mem.h"

/* The base's matrix of a part, and the bias that goes with it. */
typedef struct part_roles {
    tensor_role matrix, bias;
} part_roles;

/* Gate and up are cut alike. */
static part_roles roles_of(kern_role role, uint32_t part) {
    static const part_roles qkv[LINEAR_MATRICES_MAX] = {
        {TENSOR_Q, TENSOR_Q_BIAS}, {TENSOR_K, TENSOR_K_BIAS}, {TENSOR_V, TENSOR_V_BIAS}};
    switch (role) {
    case ROLE_QKV:
        return qkv[part];
    case ROLE_ATTENTION_OUT:
        return (part_roles){TENSOR_O, TENSOR_O_BIAS};
    case ROLE_GATE_UP:
        return (part_roles){TENSOR_UP, TENSOR_UP_BIAS};
    case ROLE_DOWN:
        return (part_roles){TENSOR_DOWN, TENSOR_DOWN_BIAS};
    case ROLE_HEAD:
        return (part_roles){TENSOR_OUTPUT, TENSOR_OUTPUT};
    case ROLE_NONE:
        break;
    }
    ESP_ASSERT(false);
    return (part_roles){TENSOR_OUTPUT, TENSOR_OUTPUT};
}

static kern_lora_part cut_rows(const kern_lora_part *whole, shard_range rows) {
    kern_lora_part part = *whole;
    part.rows = rows.count;
    if (part.b) part.b += (size_t)rows.first * part.rank;
    if (part.bias) part.bias += rows.first;
    if (part.magnitude) part.magnitude += rows.first;
    return part;
}

/* Columns of a matrix of rank rows, as one of their own. */
static void copy_columns(const float *a, uint32_t rank, uint32_t width, shard_range cols,
                         float *to) {
    for (uint32_t i = 0; i < rank; i++)
        memcpy(to + (size_t)i * cols.count, a + (size_t)i * width + cols.first,
               cols.count * sizeof *to);
}

static float *take_room(shard_lora_room *room, size_t count) {
    if (room->count < count) {
        room->at = mem_resize(room->at, count, sizeof *room->at);
        room->count = count;
    }
    return room->at;
}

kern_lora_desc shard_lora(const model_shard *shard, kern_role role, const kern_lora_desc *whole,
                          shard_lora_room *room) {
    kern_lora_desc cut = *whole;
    for (uint32_t i = 0; i < whole->part_count; i++) {
        kern_lora_part *part = &cut.part[i];
        if (part->rows == 0) continue;
        part_roles roles = roles_of(role, i);
        shard_cut matrix = shard_cut_of(shard, roles.matrix, part->rows, whole->cols);
        *part = cut_rows(part, matrix.rows);
        if (shard_cut_of(shard, roles.bias, whole->part[i].rows, 1).absent) part->bias = NULL;
        if (matrix.cols.count == whole->cols) continue;
        ESP_ASSERT(whole->part_count == 1); /* else they would share the room */
        cut.cols = matrix.cols.count;
        if (!part->rank) continue;
        float *a = take_room(room, (size_t)part->rank * cut.cols);
        copy_columns(part->a, part->rank, whole->cols, matrix.cols, a);
        part->a = a;
    }
    return cut;
}
