/* cuda_attention_plan.h - a step's attention cut into items of work, for all layers of one kind.
 *
 * The rows of a sequence are its tokens in this batch times the G = heads / kv_heads query heads that
 * share a kv head: row = token * G + head. They are cut into tiles, narrow ones for few rows (decodes),
 * wide ones for many (prefill chunks). An item is one tile with all keys that it sees or, where a
 * sequence is long, with those of one chunk of CUDA_CHUNK_TOKENS positions; then a merge puts its
 * chunks together. A kernel does each item for every kv head.
 *
 *   plan    cuda_attention_plan | narrow items | wide items | merges
 *
 * Cutting decides who computes and when, never what: a row's sums go chunk by chunk in any case. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CUDA_ATTENTION_PLAN_H
#define ESPALIER_CUDA_ATTENTION_PLAN_H

#include "kernels/cuda/cuda_launch.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    ATTENTION_TILE_ROWS = 16,  /* of a warp, and of a narrow tile */
    ATTENTION_NARROW_MAX = 32, /* rows of a sequence up to which its tiles are narrow */
};

/* Rows of a wide tile, by head_dim: what fits the shared memory of sm_86. */
static inline uint32_t attention_wide_rows(uint32_t head_dim) {
    return head_dim > 128 ? 4 * ATTENTION_TILE_ROWS : 8 * ATTENTION_TILE_ROWS;
}

#define ATTENTION_NO_PARTIAL 0xffffffffu

typedef struct attention_item {
    uint32_t seq;       /* row of the block tables */
    uint32_t token;     /* first token of the sequence in the batch */
    uint32_t position;  /* of that token */
    uint32_t length;    /* of the sequence with the tokens of this batch: keys that are there */
    uint32_t row, rows; /* the tile, among the sequence's rows */
    uint32_t key, keys; /* that some row sees: first and count. Of a merge: 0, and chunks */
    /* Where its rows go among the partial sums, or ATTENTION_NO_PARTIAL. Of a merge: its first chunk's; the others
     * follow, `rows` apart. */
    uint32_t partial;
} attention_item;

typedef struct cuda_attention_plan {
    uint32_t narrow_count, wide_count, merge_count;
    uint32_t partial_rows; /* used, of each kv head */
} cuda_attention_plan;

static inline const attention_item *attention_items(const void *plan) {
    return (const attention_item *)((const cuda_attention_plan *)plan + 1);
}

/* Rows of partial sums that `work` has room for, for each kv head: head_dim floats of a row's sums, then
 * its maximum and its weights' sum. */
uint32_t attention_partial_rows(const cuda_attention_kind *kind);

#ifdef __cplusplus
}
#endif

#endif
