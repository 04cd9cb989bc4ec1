/* step_message.h - a step batch as it goes from rank 0 to the other ranks: a header of known size, then the batch's
 * arrays one after another. Between batches go messages about adapters (adapters/adapter_send.h), which a header
 * announces.
 *
 *   ids[T] positions[T] token_seq[T] seq_first[S] seq_tokens[S] seq_cached[S] seq_adapter[S] rows[R]
 *   tables[group_count][S][table_stride] adapters[A]   words of 32 bits
 *   seq_long[S]                            bytes
 *
 * adapters[seq_adapter[s]] is what the ranks call that sequence's adapter. table_stride is that of the longest
 * sequence of the batch, not that of the longest possible. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_STEP_MESSAGE_H
#define ESPALIER_STEP_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/batch.h"

typedef enum step_kind {
    STEP_STOP = 1, /* no more steps: go home */
    STEP_RUN,
    STEP_ADAPTER, /* a message about an adapter follows */
} step_kind;

typedef struct step_header {
    uint32_t kind;
    uint32_t token_count, seq_count, row_count, group_count, table_stride, adapter_count;
} step_header;

/* Bytes of the arrays. */
size_t step_message_bytes(const step_header *h);
step_header step_header_of(const step_batch *b, uint32_t adapter_count);
/* to: step_message_bytes, 4-byte aligned. */
void step_message_write(const step_batch *b, const uint32_t *adapters, const step_header *h,
                        void *to);

/* Whether the batch is no larger than any that the most allows. */
bool step_header_fits(const step_header *h, const step_header *most);
/* A batch whose arrays lie in the message, and its adapters. */
step_batch step_message_read(const step_header *h, void *message, const uint32_t **adapters);

#endif
