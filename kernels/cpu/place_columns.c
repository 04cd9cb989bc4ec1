/* place_columns.c - columns that one rank computed, put among those of all.
 *
 *   out[t, first + i] = in[t, i]
 *
 * In      in [rows, cols] f32
 * Out     out [rows, out_cols] f32
 * Cost    one pass over the columns, on the caller */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "kernels/cpu/cpu.h"

void cpu_place_columns(kern_device *dev, const kern_place_columns *op) {
    (void)dev;
    ESP_ASSERT((uint64_t)op->first + op->cols <= op->out_cols);
    for (uint32_t t = 0; t < op->rows; t++)
        memcpy((float *)op->out + (size_t)t * op->out_cols + op->first,
               (const float *)op->in + (size_t)t * op->cols, op->cols * sizeof(float));
}
