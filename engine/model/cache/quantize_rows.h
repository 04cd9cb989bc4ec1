/* quantize_rows.h - 16- and 32-bit matrices of a checkpoint as blocks of fewer bits (--quantize). */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_QUANTIZE_ROWS_H
#define ESPALIER_MODEL_QUANTIZE_ROWS_H

#include "kernels/kernels.h"

struct thread_pool;

/* What a matrix of this type and width becomes when `wanted` (DT_Q8_0, DT_Q4_K) is asked for: blocks
 * of 256 fall back to Q8_0 where they do not fit, and what fits neither stays, as does what has
 * fewer bits already. */
esp_dtype quantize_dtype(esp_dtype wanted, esp_dtype dtype, uint32_t cols);

/* Replaces desc's rows by blocks of dtype in *scratch, which grows (free() it). Uses the pool.
 * ESP_INVALID when a weight is no finite number. */
ESP_CHECKED esp_code quantize_rows(kern_matrix_desc *desc, esp_dtype dtype,
                                   struct thread_pool *pool, void **scratch, esp_error *err);

#endif
