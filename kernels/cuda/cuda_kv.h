/* cuda_kv.h - what lies where in a frame of the CUDA backend; for C and for kernels.
 *
 *   frame    [layers][K, V][kv_heads] blocks, then nothing up to a multiple of 64 bytes
 *   block    [KV_PAGE_TOKENS] rows, a token's key or value of one head each; of int8 their scales behind
 *            them, [KV_PAGE_TOKENS] f32
 *   row      head_dim elements, bf16 or int8, then zeros up to a multiple of 16 bytes, which is what
 *            cp.async moves
 *
 * Rows lie as they are: ldmatrix takes keys as the second operand of q k as they lie, values transposed
 * on the way. What a row and its scale are depends on that token alone (kern_rope_store). */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CUDA_KV_H
#define ESPALIER_CUDA_KV_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

/* Bytes of a row. */
#define CUDA_KV_ROW(head_dim, int8) (((head_dim) * ((int8) ? 1u : 2u) + 15u) / 16u * 16u)

static inline size_t cuda_kv_block_bytes(uint32_t head_dim, bool int8) {
    size_t scale = int8 ? sizeof(float) : 0;
    return KV_PAGE_TOKENS * (CUDA_KV_ROW(head_dim, int8) + scale);
}

/* Where the blocks of a layer's keys (is_v 0) or values (1) begin, in bytes from the frame's start. */
static inline size_t cuda_kv_offset(const kern_kv_shape *shape, bool int8, uint32_t layer,
                                    uint32_t is_v) {
    return ((size_t)layer * 2 + is_v) * shape->kv_heads *
           cuda_kv_block_bytes(shape->head_dim, int8);
}

static inline size_t cuda_kv_frame_bytes(const kern_kv_shape *shape, bool int8) {
    return (cuda_kv_offset(shape, int8, shape->layers, 0) + 63) / 64 * 64;
}

#endif
