/* shard.h - what one rank of a tensor parallel replica holds of a model (arXiv:1909.08053).
 *
 *   heads of attention   rows of Q, K, V and columns of O; a rank's pages hold its own K/V heads. Where
 *                        there are fewer of these than ranks, several ranks hold the same one
 *   the MLP's middle     rows of gate and up, columns of down, in whole blocks of down's format
 *   the vocabulary       rows of the output matrix
 *   all else             whole on each rank: embedding, norms; biases of O and down on rank 0 alone, which
 *                        is where they are added once
 *
 * Attention, or the MLP, that cannot be split so is computed whole on each rank: its answer is the same, it
 * only takes no less time. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_SHARD_H
#define ESPALIER_MODEL_SHARD_H

#include "engine/model/checkpoint.h"

typedef struct shard_range {
    uint32_t first, count;
} shard_range;

/* A rank's share of count things, in whole units but for the last; shares differ by a unit at most. */
shard_range shard_split(uint32_t count, uint32_t unit, uint32_t rank, uint32_t ranks);

/* ranks 0: one, which holds everything. */
typedef struct model_shard {
    uint32_t rank, ranks;
    bool attention, mlp; /* split over the ranks; else whole on each */
    uint32_t head_dim;
    shard_range heads, kv_heads, middle, vocab; /* of this rank */
    /* How the sums over O's and down's columns are added, so that they have the same bits at any number of ranks
     * that parts can be dealt to: those that 8 ranks would have, or as many of 4 and 2 as could share the model,
     * each a multiple of KERN_PART_COLUMNS. whole 0: an order of this number of ranks. */
    kern_parts o_parts, down_parts;
} model_shard;

enum {
    VOCAB_UNIT = 64
}; /* rows of the vocabulary that are kept together, where there are enough */
/* The vocabulary of another rank. */
shard_range shard_vocab(const model_shard *shard, uint32_t vocab, uint32_t rank);

/* Plans a rank's part. ESP_INVALID (--tp) where neither attention nor the MLP can be split, or a rank would
 * have no part of the vocabulary. ranks 1: nothing but parts of sums. */
ESP_CHECKED esp_code shard_plan(model_shard *out, const checkpoint *c, uint32_t rank,
                                uint32_t ranks, esp_error *err);

/* The rank's own widths in place of the model's: heads, kv_heads, intermediate, vocab. */
void shard_narrow(const model_shard *shard, model_spec *spec);

/* What a rank takes of a role's matrix of rows x cols, or of a vector: rows of it. */
typedef struct shard_cut {
    shard_range rows, cols;
    bool absent; /* nothing: a bias that another rank adds */
} shard_cut;
shard_cut shard_cut_of(const model_shard *shard, tensor_role role, uint32_t rows, uint32_t cols);

/* Columns of a matrix as one of their own, out of its rows: desc->data and ->cols are exchanged; the blocks lie in
 * *room, which is the caller's: NULL at first, freed by free(). The columns are whole blocks, desc has no
 * order. */
void shard_columns(kern_matrix_desc *desc, shard_range cols, void **room);

#endif
