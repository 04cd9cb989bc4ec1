/* packed_awq.c - AWQ for its GEMM kernels: codes of 4 bits, packed along the outputs.
 *
 *   qweight  I32 [inputs, outputs / 8]   nibble n of a word is output 8 * word + (0 2 4 6 1 3 5 7)[n]
 *   qzeros   I32 [groups, outputs / 8]   likewise
 *   scales   [groups, outputs]
 *
 * w = scale * (code - zero).
 * Source  arXiv:2306.00978; the packing as AutoAWQ writes it */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/packed/packed_inner.h"

enum { AWQ_BITS = 4, NIBBLES = WORD_BITS / AWQ_BITS };

static esp_code awq_check(packed_matrix *m, esp_error *err) {
    uint32_t words;
    if (m->scheme.bits != AWQ_BITS)
        return packed_fail(m, err, "bits is %u; AWQ is packed with 4", m->scheme.bits);
    esp_code code = packed_want_table(m, RAW_I32, &m->cols, &words, err);
    if (code) return code;
    m->rows = words * NIBBLES;
    if ((code = packed_set_groups(m, err))) return code;
    if ((code = packed_want_type(m, PART_ZEROS, RAW_I32, err))) return code;
    if ((code = packed_want_shape(m, PART_ZEROS, m->group_count, words, err))) return code;
    if ((code = packed_want_floats(m, PART_SCALES, err))) return code;
    return packed_want_shape(m, PART_SCALES, m->group_count, m->rows, err);
}

/* Line `line` of qweight or qzeros, one output of it. */
static uint32_t awq_code(const packed_matrix *m, uint32_t part, uint64_t line, uint32_t row) {
    static const uint8_t nibble_of[NIBBLES] = {0, 4, 1, 5, 2, 6, 3, 7};
    uint32_t word = packed_word(m->part[part], line * (m->rows / NIBBLES) + row / NIBBLES);
    return word >> nibble_of[row % NIBBLES] * AWQ_BITS & 15;
}

static void awq_codes(const packed_matrix *m, uint32_t row, uint32_t b, const uint32_t *order,
                      uint8_t *out) {
    (void)order;
    memset(out, 0, BLOCK_COLS * AWQ_BITS / 8);
    for (uint32_t i = 0; i < BLOCK_COLS; i++)
        packed_put(out, i, AWQ_BITS, awq_code(m, PART_CODES, (uint64_t)b * BLOCK_COLS + i, row));
}

static uint64_t awq_scale_at(const packed_matrix *m, uint32_t row, uint32_t group) {
    return (uint64_t)group * m->rows + row;
}

static uint32_t awq_zero(const packed_matrix *m, uint32_t row, uint32_t group) {
    return awq_code(m, PART_ZEROS, group, row);
}

const packing_ops packing_awq = {
    .parts = {"qweight", "scales", "qzeros"},
    .required = 1 << PART_CODES | 1 << PART_SCALES | 1 << PART_ZEROS,
    .check = awq_check,
    .read_codes = awq_codes,
    .scale_at = awq_scale_at,
    .zero = awq_zero,
};
