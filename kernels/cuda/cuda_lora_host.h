/* cuda_lora_host.h - low-rank updates of the CUDA backend, the host's part: packing, and a linear's table. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CUDA_LORA_HOST_H
#define ESPALIER_CUDA_LORA_HOST_H

#include "kernels/cuda/cuda_lora.h"
#include "kernels/lora_run.h"

/* Where everything of an update lies. */
typedef struct cuda_lora_layout {
    lora_run head, a;
    struct {
        lora_run b, bias, magnitude;
    } part[LINEAR_MATRICES_MAX];
    uint32_t ranks, pieces;
} cuda_lora_layout;

/* bytes: of each piece, or NULL. */
cuda_lora_layout cuda_lora_lay_out(const kern_lora *lora, size_t *bytes);

/* kern_ops.lora_pieces and lora_pack: the pieces that are filled are host memory; they are copied to the device
 * as they are. */
uint32_t cuda_lora_pieces(const kern_device *dev, const kern_lora_desc *desc, size_t piece_max,
                          size_t *bytes);
void cuda_lora_pack(const kern_device *dev, const kern_lora_desc *desc, size_t piece_max,
                    void *const *pieces);

#endif
