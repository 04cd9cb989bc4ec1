/* ref_lora.h - low-rank updates of the reference backend: float32 as the adapter has them. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_REF_LORA_H
#define ESPALIER_REF_LORA_H

#include "kernels/lora_run.h"
#include "kernels/ref/ref.h"

/* Where an update's values lie; units are values of 4 bytes, or as said. */
typedef struct ref_lora_layout {
    struct {
        lora_run a; /* units of REF_LORA_UNIT columns of a row, the last filled up with zeros */
        lora_run b; /* units of a row */
        lora_run bias, magnitude;
        uint32_t first; /* of its ranks among those of all parts */
    } part[LINEAR_MATRICES_MAX];
    uint32_t pieces;
} ref_lora_layout;

enum { REF_LORA_UNIT = 16, REF_LORA_RANKS = LINEAR_MATRICES_MAX * LORA_RANK_MAX };

uint32_t ref_lora_pieces(const kern_device *dev, const kern_lora_desc *desc, size_t piece_max,
                         size_t *bytes);
void ref_lora_pack(const kern_device *dev, const kern_lora_desc *desc, size_t piece_max,
                   void *const *pieces);

/* scale * A x of all tokens with an update, into dev->lora_states; on the pool. */
void ref_lora_shrink(kern_device *dev, const kern_linear *op);

/* Goes through the tokens of an op in ascending order. All zero but for these two at the first. */
typedef struct ref_lora_walk {
    const kern_device *dev;
    const kern_linear *op;
    uint32_t segment;      /* the next one */
    const kern_lora *lora; /* of the token; NULL: none */
    uint32_t end;          /* of the segment */
    ref_lora_layout layout;
} ref_lora_walk;

/* y, the sum of a row of matrix m for a token, with its update. */
float ref_lora_update(ref_lora_walk *walk, uint32_t token, uint32_t m, uint32_t row, float y);

#endif
