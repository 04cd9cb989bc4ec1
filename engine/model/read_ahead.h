/* read_ahead.h - a walk through the weights while they are packed: a thread that brings them in
 * from the disk ahead of the packer, looks at every one of them, and sees that their pages are
 * given back.
 *
 * So the disk reads while weights are packed, a weight that is no finite number is found for
 * nothing where a core is free, and what the process holds of its files is about a window and a
 * tensor, not all that it has ever looked at.
 *
 *   order   tensors without a layer, then layer by layer: about weights.c's own; what differs costs
 *           time only
 *   ahead   no more than a window before the packer, but never held up where it is behind
 *
 * Thread  one packer. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_READ_AHEAD_H
#define ESPALIER_MODEL_READ_AHEAD_H

#include <stdbool.h>

#include "engine/model/format/tensors.h"

typedef struct read_ahead read_ahead;

/* The tensors outlive it; `mapped`: they lie in mapped files, whose pages can be given back. */
read_ahead *read_ahead_open(const tensor_set *tensors, bool mapped);
/* These bytes of a tensor of the set are packed. ESP_INVALID, naming tensor and row, when a weight
 * that is NaN or infinite has been seen by now. */
ESP_CHECKED esp_code read_ahead_done(read_ahead *r, const model_tensor *tensor, const void *at,
                                     uint64_t bytes, esp_error *err);
/* Waits until every weight has been looked at; ESP_INVALID as above. */
ESP_CHECKED esp_code read_ahead_finish(read_ahead *r, esp_error *err);
/* Takes NULL, and one that has not finished. */
void read_ahead_close(read_ahead *r);

/* "blk.12.attn_q.weight" -> 13: 1 plus the first part of the name that is a number; 0: there is
 * none. */
uint32_t read_ahead_layer(model_text name);

#endif
