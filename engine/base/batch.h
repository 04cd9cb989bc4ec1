/* batch.h - the step batch: what one forward pass computes. Plain data, flat.
 *
 * T tokens of S sequences, ragged. A prefill chunk and a decode are the same thing with different
 * counts; nothing below the scheduler asks which. Built by engine.c from the scheduler's plan, read
 * by forward.c and the kernels; flat so that rank 0 can send it to the other ranks unchanged.
 *
 * All arrays belong to the batch and are taken at start for the configured maxima. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_BASE_BATCH_H
#define ESPALIER_BASE_BATCH_H

#include <stdint.h>

enum {
    KV_PAGE_TOKENS = 16, /* token slots of a page */
    KV_GROUPS_MAX = 8,   /* page groups: layers of one attention kind */
    BATCH_NO_ADAPTER = -1,
};

typedef struct step_batch {
    uint32_t token_count;  /* T */
    uint32_t seq_count;    /* S */
    uint32_t row_count;    /* R */
    uint32_t group_count;  /* page groups of the model */
    uint32_t table_stride; /* entries of one block table */

    int32_t *ids; /* [T] token id; -1-r: what the device picked for row r of the step before */
    uint32_t *positions; /* [T] absolute position in its sequence */
    uint32_t *token_seq; /* [T] index of its sequence */

    uint32_t *seq_first;   /* [S] first token of the sequence in this batch */
    uint32_t *seq_tokens;  /* [S] how many tokens it has here, >= 1 */
    uint32_t *seq_cached;  /* [S] tokens already in pages; = positions[seq_first] */
    int32_t *seq_adapter;  /* [S] adapter slot or BATCH_NO_ADAPTER */
    uint8_t *seq_long;     /* [S] 1: rotated by the model's long rope table; NULL: none is */
    uint32_t *tables;      /* [group_count][S][table_stride] frame numbers, in position order; S is this
                          * batch's seq_count. Behind a group's window they are not to be read */

    uint32_t *rows; /* [R] token indices whose logits are wanted, ascending */
} step_batch;

#endif
