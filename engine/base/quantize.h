/* quantize.h - float32 weights -> blocks of a GGUF format (quant.h), for --quantize.
 *
 * Deterministic: the same weights give the same bytes. Thread: any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_BASE_QUANTIZE_H
#define ESPALIER_BASE_QUANTIZE_H

#include "engine/base/quant.h"

/* count finite weights, a multiple of the format's block_elements. dtype: DT_Q8_0 or DT_Q4_K.
 *
 * Q8_0  the largest weight of a block becomes 127 or -127, the rest are rounded, halves away from
 *       zero: the bytes that the format's reference implementation writes.
 * Q4_K  a search for the scale and minimum of each 32 weights under which the squared error,
 *       weighted towards large weights, is least. */
void quantize_weights(esp_dtype dtype, const float *weights, void *blocks, size_t count);

#endif
