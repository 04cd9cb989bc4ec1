/* gpu_batch.h - step batches of equal sequences, for benches. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_GPU_BATCH_H
#define ESPALIER_GPU_BATCH_H

#include "engine/base/batch.h"

/* seqs sequences of `cached` tokens in pages and `tokens` more here, one page group; a row for the last token
 * of each. Frames are dealt as prefills would: one after another. */
step_batch gpu_batch_of(uint32_t seqs, uint32_t cached, uint32_t tokens);
void gpu_batch_free(step_batch *batch);
/* Frames that its tables name. */
uint32_t gpu_batch_frames(const step_batch *batch);

#endif
