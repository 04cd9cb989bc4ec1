/* ref_embed.c - out[t,:] = scale * table[ids[t],:] (+ positions[position[t],:]) (+ added[:])
 *
 * In   table [V,H], positions [P,H] any dtype; ids [T], each below V; position [T], each below P
 * Out  out [T,H] f32 */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/ref/ref.h"

/* The row of a second table and what every token gets. */
static void add_rest(kern_device *dev, const kern_embed *op, uint32_t t, float *out) {
    const kern_matrix *positions = op->positions;
    if (positions) {
        float *row = dev->row_scratch;
        ESP_ASSERT(op->position[t] < positions->rows && positions->cols == op->table->cols);
        dtype_info(positions->dtype)
            ->dequantise(ref_row_blocks(positions, op->position[t]), row, positions->cols);
        for (uint32_t i = 0; i < positions->cols; i++)
            out[i] += row[i];
    }
    const float *added = op->added;
    for (uint32_t i = 0; added && i < op->table->cols; i++)
        out[i] += added[i];
}

void ref_embed(kern_device *dev, const kern_embed *op) {
    const kern_matrix *table = op->table;
    for (uint32_t t = 0; t < op->token_count; t++) {
        ESP_ASSERT(op->ids[t] >= 0 && (uint32_t)op->ids[t] < table->rows);
        float *out = (float *)op->out + (size_t)t * table->cols;
        ref_read_row(table, (uint32_t)op->ids[t], dev->row_scratch, out);
        for (uint32_t i = 0; i < table->cols; i++)
            out[i] *= op->scale;
        add_rest(dev, op, t, out);
    }
}
