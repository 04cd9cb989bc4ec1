/* cuda_kv.h - what lies where in a frame of the CUDA backend; for C and for kernels.
 *
 *   frame    [layers][K, V][kv_heads] blocks, then nothing up to a multiple of 64 bytes
 *   block    [KV_PAGE_TOKENS][row] bf16: a token's key or value of one head
 *   row      head_dim elements, then zeros up to a multiple of 16 bytes, which is what cp.async moves
 *
 * Rows lie as they are: ldmatrix takes keys as the second operand of q k as they lie, values
 * transposed on the way. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CUDA_KV_H
#define ESPALIER_CUDA_KV_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

enum { CUDA_KV_ROW_ELEMENTS = 8 }; /* a row is a multiple of it */

/* Elements of a row. */
#define CUDA_KV_ROW(head_dim)                                                                      \
    (((head_dim) + CUDA_KV_ROW_ELEMENTS - 1u) / CUDA_KV_ROW_ELEMENTS * CUDA_KV_ROW_ELEMENTS)

static inline size_t cuda_kv_block_bytes(uint32_t head_dim) {
    return (size_t)KV_PAGE_TOKENS * CUDA_KV_ROW(head_dim) * sizeof(uint16_t);
}

/* Where the blocks of a layer's keys (is_v 0) or values (1) begin, in bytes from the frame's start. */
static inline size_t cuda_kv_offset(const kern_kv_shape *shape, uint32_t layer, uint32_t is_v) {
    return ((size_t)layer * 2 + is_v) * shape->kv_heads * cuda_kv_block_bytes(shape->head_dim);
}

static inline size_t cuda_kv_frame_bytes(const kern_kv_shape *shape) {
    return (cuda_kv_offset(shape, shape->layers, 0) + 63) / 64 * 64;
}

#endif
