/* shard_lora.h - what one rank computes of an adapter's update: its part of the low-rank matrices, cut as the
 * base's matrix beside them is (shard.h; S-LoRA, arXiv:2311.03285, section 6).
 *
 *   a rank has rows of W      A whole; those rows of B, of magnitudes and of biases
 *   a rank has columns of W   those columns of A; B and magnitudes whole; the bias on rank 0 alone
 *
 * In the second case each rank computes (W_r x_r + scale * B (A_r x_r)) * magnitude, and the sums over the ranks
 * add that up with what the base computes: an adapter costs no exchange of its own. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_SHARD_LORA_H
#define ESPALIER_MODEL_SHARD_LORA_H

#include "engine/model/shard.h"

/* Columns of A that lie side by side; all-zero at first, used from call to call, freed by free(at). */
typedef struct shard_lora_room {
    float *at;
    size_t count; /* floats */
} shard_lora_room;

/* Of the update of a layer's linear, ROLE_QKV to ROLE_DOWN, or of ROLE_HEAD. What it points to lies in *whole,
 * or in the room until that is used again. */
kern_lora_desc shard_lora(const model_shard *shard, kern_role role, const kern_lora_desc *whole,
                          shard_lora_room *room);

#endif
