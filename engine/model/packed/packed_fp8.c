/* packed_fp8.c - floats of 8 bits (E4M3) with scales.
 *
 *   weight                            F8_E4M3 [outputs, inputs]
 *   weight_scale or weight_scale_inv  one for all: [] or [1]; one a row: [outputs] or [outputs, 1];
 *                                     or one for each tile of block_rows x group_cols weights:
 *                                     [outputs / block_rows, inputs / group_cols], rounded up
 *
 * w = scale * float, under either name of the scale. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/packed/packed_inner.h"

static uint64_t tiles_down(const packed_matrix *m) {
    return (m->rows - 1) / m->scheme.block_rows + 1;
}

static esp_code check_fp8_scales(packed_matrix *m, esp_error *err) {
    const model_tensor *scales = m->part[PART_SCALES];
    esp_code code = packed_want_floats(m, PART_SCALES, err);
    if (code) return code;
    if (m->scheme.block_rows)
        return packed_want_shape(m, PART_SCALES, tiles_down(m), m->group_count, err);
    if (tensor_element_count(scales) == 1) return ESP_OK;
    return packed_want_shape(m, PART_SCALES, m->rows, scales->dim_count == 1 ? 0 : 1, err);
}

static esp_code fp8_check(packed_matrix *m, esp_error *err) {
    esp_code code = packed_want_table(m, RAW_F8_E4M3, &m->rows, &m->cols, err);
    if (code) return code;
    if ((code = packed_set_groups(m, err))) return code;
    m->dtype = DT_F8_E4M3;
    return check_fp8_scales(m, err);
}

static void fp8_codes(const packed_matrix *m, uint32_t row, uint32_t b, const uint32_t *order,
                      uint8_t *out) {
    (void)order;
    const uint8_t *codes = m->part[PART_CODES]->data;
    memcpy(out, codes + (uint64_t)row * m->cols + (uint64_t)b * BLOCK_COLS, BLOCK_COLS);
}

static uint64_t fp8_scale_at(const packed_matrix *m, uint32_t row, uint32_t group) {
    if (m->scheme.block_rows)
        return (uint64_t)(row / m->scheme.block_rows) * m->group_count + group;
    return tensor_element_count(m->part[PART_SCALES]) == 1 ? 0 : row;
}

const packing_ops packing_fp8 = {
    /* The last three are of the rounding of activations, or 0; they are there and not read. */
    .parts = {"weight", "weight_scale", "weight_zero_point", "input_scale", "input_scale_ub"},
    .other_scales = "weight_scale_inv",
    .required = 1 << PART_CODES | 1 << PART_SCALES,
    .check = fp8_check,
    .read_codes = fp8_codes,
    .scale_at = fp8_scale_at,
};
