/* packed_gptq.c - GPTQ: codes along the inputs, packed in 32-bit words column by column.
 *
 *   qweight  I32 [inputs * bits / 32, outputs]   column o: the codes of output o, input after input
 *   qzeros   I32 [groups, outputs * bits / 32]   row g: zero points of group g, output after output
 *   scales   [groups, outputs]
 *   g_idx    I32 [inputs]                        the group of each input; may be left out
 *
 * w = scale * (code - (zero + zero_bias)): the bias is 1 in the layout "gptq", 0 in "gptq_v2". Codes
 * of 3 bits run on from word to word, 32 of them in three.
 * Source  arXiv:2210.17323; the packing as AutoGPTQ and GPTQModel write it */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/packed/packed_inner.h"

static esp_code gptq_check(packed_matrix *m, esp_error *err) {
    uint32_t words, bits = m->scheme.bits;
    esp_code code = packed_want_table(m, RAW_I32, &words, &m->rows, err);
    if (code) return code;
    if (bits == 0 || (uint64_t)words * WORD_BITS % bits)
        return packed_fail(m, err, "%u words cannot hold codes of %u bits", words, bits);
    m->cols = (uint32_t)((uint64_t)words * WORD_BITS / bits);
    if ((code = packed_set_groups(m, err))) return code;
    if ((code = packed_want_type(m, PART_ZEROS, RAW_I32, err))) return code;
    if ((code = packed_want_shape(m, PART_ZEROS, m->group_count, packed_words(m->rows, bits), err)))
        return code;
    if ((code = packed_want_floats(m, PART_SCALES, err))) return code;
    if ((code = packed_want_shape(m, PART_SCALES, m->group_count, m->rows, err))) return code;
    if (m->scheme.wants_groups && !m->part[PART_GROUPS])
        return packed_fail(m, err, "desc_act is true, but it has no .g_idx");
    if ((code = packed_want_type(m, PART_GROUPS, RAW_I32, err))) return code;
    if ((code = packed_want_shape(m, PART_GROUPS, m->cols, 0, err))) return code;
    return packed_check_order(m, err);
}

static void gptq_codes(const packed_matrix *m, uint32_t row, uint32_t b, const uint32_t *order,
                       uint8_t *out) {
    uint32_t bits = m->scheme.bits;
    if (!order) { /* the words of 32 codes, as they lie */
        for (uint32_t i = 0; i < bits; i++) {
            uint64_t at = ((uint64_t)b * bits + i) * m->rows + row;
            uint32_t word = packed_word(m->part[PART_CODES], at);
            memcpy(out + i * sizeof word, &word, sizeof word);
        }
        return;
    }
    memset(out, 0, (size_t)bits * sizeof(uint32_t));
    for (uint32_t i = 0; i < BLOCK_COLS; i++)
        packed_put(out, i, bits,
                   packed_code(m->part[PART_CODES], row, m->rows, order[b * BLOCK_COLS + i], bits));
}

static uint64_t gptq_scale_at(const packed_matrix *m, uint32_t row, uint32_t group) {
    return (uint64_t)group * m->rows + row;
}

static uint32_t gptq_zero(const packed_matrix *m, uint32_t row, uint32_t group) {
    uint64_t first = group * packed_words(m->rows, m->scheme.bits);
    return packed_code(m->part[PART_ZEROS], first, 1, row, m->scheme.bits) + m->scheme.zero_bias;
}

const packing_ops packing_gptq = {
    .parts = {"qweight", "scales", "qzeros", "g_idx"},
    .required = 1 << PART_CODES | 1 << PART_SCALES | 1 << PART_ZEROS,
    .check = gptq_check,
    .read_codes = gptq_codes,
    .scale_at = gptq_scale_at,
    .zero = gptq_zero,
};
