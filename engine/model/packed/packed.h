/* packed.h - matrices that Hugging Face folders keep quantised, as blocks of engine/base/quant.h.
 *
 * Such a matrix is several tensors, its parts: codes, scales, zero points, groups. A packing says
 * how they lie; each is one file, packed_*.c, which checks the parts and reads a block of them:
 *
 *   packing          parts of a module "...q_proj"                 blocks
 *   PACKING_GPTQ     qweight scales qzeros g_idx                   DT_G2, G3, G4, G8
 *   PACKING_AWQ      qweight scales qzeros                         DT_G4
 *   PACKING_WORDS    weight_packed weight_scale weight_zero_point  DT_G2, G4, G8
 *                    weight_g_idx weight_shape
 *   PACKING_INT8     weight weight_scale weight_zero_point         DT_G8
 *   PACKING_FP8      weight, weight_scale or weight_scale_inv      DT_F8_E4M3
 *
 * Codes are moved, never rounded: the blocks mean exactly what the parts mean in float32.
 *
 * Thread  nothing here changes the tensors: any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_PACKED_H
#define ESPALIER_MODEL_PACKED_H

#include <stdbool.h>

#include "engine/model/format/tensors.h"

typedef enum packing_kind {
    PACKING_NONE, /* plain weights */
    PACKING_GPTQ,
    PACKING_AWQ,
    PACKING_WORDS,
    PACKING_INT8,
    PACKING_FP8,
    PACKING_COUNT
} packing_kind;

/* How the matrices of a group of modules are packed (quant_config.h). All-zero: they are not. */
typedef struct packed_scheme {
    packing_kind packing;
    uint32_t bits;       /* of a code: 2, 3, 4, 8 */
    uint32_t group_cols; /* columns that share a scale; 0: the whole row */
    bool symmetric;      /* compressed-tensors: no zero points are stored */
    uint32_t zero_bias;  /* GPTQ: added to stored zero points, 1 in its first layout */
    bool wants_groups;   /* GPTQ: the groups of inputs must be listed (act-order) */
    /* FP8: rows that share a scale with group_cols columns; 0: a scale a row, or one for all, as
     * the shape of the scales says. */
    uint32_t block_rows;
} packed_scheme;

enum { PACKED_PARTS = 5 };

typedef struct packed_matrix {
    packed_scheme scheme;
    model_text module; /* "model.layers.0.self_attn.q_proj", of a part's name */
    const model_tensor *part[PACKED_PARTS]; /* NULL: absent */
    uint32_t rows, cols;                    /* outputs, inputs; a whole number of blocks in a row */
    uint32_t group_cols, group_count;       /* columns of a scale; scales of a row */
    esp_dtype dtype;                        /* of the blocks */
    bool ordered;                           /* columns come sorted by group: ask for their order */
} packed_matrix;

/* The matrix of a module, its parts checked for presence, type and shape. ESP_INVALID names the
 * part at fault. scheme->packing is not PACKING_NONE. */
ESP_CHECKED esp_code packed_find(packed_matrix *out, const tensor_set *tensors, model_text module,
                                 const packed_scheme *scheme, esp_error *err);

/* Bytes of a row of blocks. */
size_t packed_row_bytes(const packed_matrix *matrix);

/* Rows [first, first + count) as blocks. ESP_INVALID when a scale is no finite number, or a weight
 * none. */
ESP_CHECKED esp_code packed_read_rows(const packed_matrix *matrix, uint32_t first, uint32_t count,
                                      void *blocks, esp_error *err);

/* Of an ordered matrix: column c of its blocks meets input order[c], [cols]. */
void packed_read_order(const packed_matrix *matrix, uint32_t *order);

#endif
