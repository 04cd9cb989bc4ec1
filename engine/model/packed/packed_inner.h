/* packed_inner.h - what packed.c and the packings share; nobody else includes it. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_PACKED_INNER_H
#define ESPALIER_MODEL_PACKED_INNER_H

#include <string.h>

#include "engine/base/quant_blocks.h"
#include "engine/model/packed/packed.h"

enum { PART_CODES, PART_SCALES, PART_ZEROS, PART_GROUPS, PART_SHAPE };
enum { WORD_BITS = 32, BLOCK_COLS = QUANT_PIECE };

/* One packing. */
typedef struct packing_ops {
    /* Suffixes of the parts' names, and of a part's other name; NULL where there is none. */
    const char *parts[PACKED_PARTS];
    const char *other_scales;
    uint32_t required; /* a bit for each part that must be there */
    /* Fills the rest of the matrix from the parts, whose shapes and types it checks. */
    esp_code (*check)(packed_matrix *m, esp_error *err);
    /* The codes of block b of a row, as a block of m->dtype holds them. order: of the columns, or
     * NULL. */
    void (*read_codes)(const packed_matrix *m, uint32_t row, uint32_t b, const uint32_t *order,
                       uint8_t *out);
    /* Which element of the scales a row uses in a group. */
    uint64_t (*scale_at)(const packed_matrix *m, uint32_t row, uint32_t group);
    /* The zero point, as it is taken from a code; NULL: the blocks have none. */
    uint32_t (*zero)(const packed_matrix *m, uint32_t row, uint32_t group);
} packing_ops;

extern const packing_ops packing_gptq, packing_awq, packing_words, packing_int8, packing_fp8;

static inline uint32_t packed_word(const model_tensor *tensor, uint64_t index) {
    uint32_t word;
    memcpy(&word, (const uint8_t *)tensor->data + index * sizeof word, sizeof word);
    return word;
}

/* Code i of those that lie one after another, the first lowest, in the words first, first + stride,
 * first + 2 * stride.. */
static inline uint32_t packed_code(const model_tensor *tensor, uint64_t first, uint64_t stride,
                                   uint64_t i, uint32_t bits) {
    uint64_t bit = i * bits, at = first + bit / WORD_BITS * stride;
    uint32_t shift = (uint32_t)(bit % WORD_BITS);
    uint64_t window = packed_word(tensor, at);
    if (shift + bits > WORD_BITS) window |= (uint64_t)packed_word(tensor, at + stride) << WORD_BITS;
    return (uint32_t)(window >> shift) & ((1u << bits) - 1);
}

/* Words that `count` such codes take. */
static inline uint64_t packed_words(uint64_t count, uint32_t bits) {
    return (count * bits + WORD_BITS - 1) / WORD_BITS;
}

/* Code i of a block; out is zeroed before the first. */
static inline void packed_put(uint8_t *out, uint32_t i, uint32_t bits, uint32_t code) {
    uint32_t bit = i * bits, shift = bit % 8;
    out[bit / 8] = (uint8_t)(out[bit / 8] | code << shift);
    if (shift + bits > 8) out[bit / 8 + 1] = (uint8_t)(out[bit / 8 + 1] | code >> (8 - shift));
}

/* "FILE: MODULE ..." */
esp_code packed_fail(const packed_matrix *m, esp_error *err, const char *format, ...)
    ESP_PRINTF(3, 4);

/* The part, if it is there, has this shape, outermost first; cols 0: one dimension. */
ESP_CHECKED esp_code packed_want_shape(const packed_matrix *m, uint32_t part, uint64_t rows,
                                       uint64_t cols, esp_error *err);
ESP_CHECKED esp_code packed_want_type(const packed_matrix *m, uint32_t part, tensor_raw raw,
                                      esp_error *err);
/* F32, F16 or BF16. */
ESP_CHECKED esp_code packed_want_floats(const packed_matrix *m, uint32_t part, esp_error *err);
/* The codes are a table of words; *rows, *cols as it lies, neither 0 and both below 2^31. */
ESP_CHECKED esp_code packed_want_table(const packed_matrix *m, tensor_raw raw, uint32_t *rows,
                                       uint32_t *cols, esp_error *err);
/* rows and cols are set: takes them, the groups of the scheme and the dtype of its bits. */
ESP_CHECKED esp_code packed_set_groups(packed_matrix *m, esp_error *err);
/* Where PART_GROUPS says which group a column belongs to: each in range; sets `ordered` unless
 * groups lie one after another anyhow. */
ESP_CHECKED esp_code packed_check_order(packed_matrix *m, esp_error *err);

#endif
