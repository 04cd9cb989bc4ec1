/* ref_embed.c - out[t,:] = scale * table[ids[t],:]
 *
 * In   table [V,H] any dtype; ids [T], each below V
 * Out  out [T,H] f32 */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/ref/ref.h"

void ref_embed(kern_device *dev, const kern_embed *op) {
    const kern_matrix *table = op->table;
    for (uint32_t t = 0; t < op->token_count; t++) {
        ESP_ASSERT(op->ids[t] >= 0 && (uint32_t)op->ids[t] < table->rows);
        float *out = (float *)op->out + (size_t)t * table->cols;
        ref_read_row(table, (uint32_t)op->ids[t], dev->row_scratch, out);
        for (uint32_t i = 0; i < table->cols; i++)
            out[i] *= op->scale;
    }
}
