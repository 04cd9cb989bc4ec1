/* packed_compressed.c - the whole-number formats of compressed-tensors, row by row.
 *
 *   pack-quantized   weight_packed      I32 [outputs, inputs * bits / 32], codes one after another
 *                    weight_zero_point  I32 [outputs * bits / 32, groups], packed down the outputs
 *                    weight_shape       I64 or I32 [2]: outputs, inputs
 *                    weight_g_idx       I32 [inputs]; may be left out
 *   int-quantized    weight             I8 [outputs, inputs]
 *                    weight_zero_point  I8 [outputs, groups]
 *   both             weight_scale       [outputs, groups], or one for all
 *
 * Codes are signed, w = scale * (code - zero); packed ones, and packed zero points, are stored with
 * 2^(bits-1) added, as DT_G2 to DT_G8 keep them. A symmetric scheme has no zero points: 0. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/packed/packed_inner.h"

static uint32_t half_range(const packed_matrix *m) { return 1u << (m->scheme.bits - 1); }

/* One scale for all, [] or [1] or [1,1], counts as a group a row. */
static bool has_one_scale(const packed_matrix *m) {
    return !m->scheme.group_cols && tensor_element_count(m->part[PART_SCALES]) == 1;
}

static esp_code check_scales(packed_matrix *m, esp_error *err) {
    esp_code code = packed_want_floats(m, PART_SCALES, err);
    if (code || has_one_scale(m)) return code;
    if (m->group_count == 1 && m->part[PART_SCALES]->dim_count == 1)
        return packed_want_shape(m, PART_SCALES, m->rows, 0, err);
    return packed_want_shape(m, PART_SCALES, m->rows, m->group_count, err);
}

static esp_code check_zero_part(const packed_matrix *m, esp_error *err) {
    if (m->scheme.symmetric || m->part[PART_ZEROS]) return ESP_OK;
    return packed_fail(m, err, "its scheme is not symmetric, but it has no .weight_zero_point");
}

static uint64_t compressed_scale_at(const packed_matrix *m, uint32_t row, uint32_t group) {
    return has_one_scale(m) ? 0 : (uint64_t)row * m->group_count + group;
}

/* An int8 zero point, of either format. */
static uint32_t byte_zero(const packed_matrix *m, uint32_t row, uint32_t group) {
    const int8_t *zeros = m->part[PART_ZEROS]->data;
    return (uint32_t)(zeros[compressed_scale_at(m, row, group)] + (int32_t)half_range(m));
}

/* --- pack-quantized -------------------------------------------------------------------------- */

static uint64_t shape_entry(const model_tensor *shape, uint32_t i) {
    uint64_t wide;
    if (shape->raw == RAW_I32) return packed_word(shape, i);
    memcpy(&wide, (const uint8_t *)shape->data + i * sizeof wide, sizeof wide);
    return wide;
}

static esp_code check_named_shape(const packed_matrix *m, esp_error *err) {
    const model_tensor *shape = m->part[PART_SHAPE];
    if (shape->raw != RAW_I32 && shape->raw != RAW_I64)
        return packed_want_type(m, PART_SHAPE, RAW_I64, err);
    esp_code code = packed_want_shape(m, PART_SHAPE, 2, 0, err);
    if (code) return code;
    uint64_t rows = shape_entry(shape, 0), cols = shape_entry(shape, 1);
    if (rows == m->rows && cols == m->cols) return ESP_OK;
    return packed_fail(m, err, ".weight_shape is %llu x %llu; .weight_packed holds %u x %u",
                       (unsigned long long)rows, (unsigned long long)cols, m->rows, m->cols);
}

static esp_code check_word_zeros(const packed_matrix *m, esp_error *err) {
    if (m->scheme.symmetric || !m->part[PART_ZEROS]) return check_zero_part(m, err);
    esp_code code = packed_want_type(m, PART_ZEROS, RAW_I32, err);
    if (code) return code;
    return packed_want_shape(m, PART_ZEROS, packed_words(m->rows, m->scheme.bits), m->group_count,
                             err);
}

static esp_code words_check(packed_matrix *m, esp_error *err) {
    uint32_t words, bits = m->scheme.bits;
    if (bits != 2 && bits != 4 && bits != 8)
        return packed_fail(m, err, "num_bits is %u; wanted 2, 4 or 8", bits);
    esp_code code = packed_want_table(m, RAW_I32, &m->rows, &words, err);
    if (code) return code;
    m->cols = words * (WORD_BITS / bits);
    if ((code = packed_set_groups(m, err))) return code;
    if ((code = check_named_shape(m, err))) return code;
    if ((code = check_scales(m, err))) return code;
    if ((code = check_word_zeros(m, err))) return code;
    if ((code = packed_want_type(m, PART_GROUPS, RAW_I32, err))) return code;
    if ((code = packed_want_shape(m, PART_GROUPS, m->cols, 0, err))) return code;
    return packed_check_order(m, err);
}

static void words_codes(const packed_matrix *m, uint32_t row, uint32_t b, const uint32_t *order,
                        uint8_t *out) {
    const model_tensor *codes = m->part[PART_CODES];
    uint32_t bits = m->scheme.bits;
    uint64_t first = (uint64_t)row * (m->cols / (WORD_BITS / bits));
    if (!order) { /* the words of 32 codes, as they lie */
        memcpy(out, (const uint8_t *)codes->data + (first + (uint64_t)b * bits) * sizeof(uint32_t),
               bits * sizeof(uint32_t));
        return;
    }
    memset(out, 0, bits * sizeof(uint32_t));
    for (uint32_t i = 0; i < BLOCK_COLS; i++)
        packed_put(out, i, bits, packed_code(codes, first, 1, order[b * BLOCK_COLS + i], bits));
}

/* Word w of a group's zero points is one line of the table below. */
static uint32_t words_zero(const packed_matrix *m, uint32_t row, uint32_t group) {
    if (m->scheme.symmetric) return half_range(m);
    return packed_code(m->part[PART_ZEROS], group, m->group_count, row, m->scheme.bits);
}

const packing_ops packing_words = {
    .parts = {"weight_packed", "weight_scale", "weight_zero_point", "weight_g_idx", "weight_shape"},
    .required = 1 << PART_CODES | 1 << PART_SCALES | 1 << PART_SHAPE,
    .check = words_check,
    .read_codes = words_codes,
    .scale_at = compressed_scale_at,
    .zero = words_zero,
};

/* --- int-quantized --------------------------------------------------------------------------- */

static esp_code int8_check(packed_matrix *m, esp_error *err) {
    if (m->scheme.bits != 8)
        return packed_fail(m, err, "num_bits is %u; whole bytes hold 8", m->scheme.bits);
    esp_code code = packed_want_table(m, RAW_I8, &m->rows, &m->cols, err);
    if (code) return code;
    if ((code = packed_set_groups(m, err))) return code;
    if ((code = check_scales(m, err))) return code;
    if (m->scheme.symmetric || !m->part[PART_ZEROS]) return check_zero_part(m, err);
    if ((code = packed_want_type(m, PART_ZEROS, RAW_I8, err))) return code;
    if (tensor_element_count(m->part[PART_ZEROS]) == tensor_element_count(m->part[PART_SCALES]))
        return ESP_OK;
    return packed_want_shape(m, PART_ZEROS, m->rows, m->group_count, err);
}

static void int8_codes(const packed_matrix *m, uint32_t row, uint32_t b, const uint32_t *order,
                       uint8_t *out) {
    (void)order;
    const uint8_t *codes = m->part[PART_CODES]->data;
    codes += (uint64_t)row * m->cols + (uint64_t)b * BLOCK_COLS;
    for (uint32_t i = 0; i < BLOCK_COLS; i++)
        out[i] = codes[i] ^ 0x80; /* int8 + 128 */
}

static uint32_t int8_zero(const packed_matrix *m, uint32_t row, uint32_t group) {
    return m->scheme.symmetric ? half_range(m) : byte_zero(m, row, group);
}

const packing_ops packing_int8 = {
    .parts = {"weight", "weight_scale", "weight_zero_point"},
    .required = 1 << PART_CODES | 1 << PART_SCALES,
    .check = int8_check,
    .read_codes = int8_codes,
    .scale_at = compressed_scale_at,
    .zero = int8_zero,
};
