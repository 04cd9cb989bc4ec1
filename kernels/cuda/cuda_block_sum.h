/* cuda_block_sum.h - the sum of a value over all threads of a block, in a fixed order. */
// SPDX-License-Identifier: Apache-2.0
#ifndef CUDA_BLOCK_SUM_H
#define CUDA_BLOCK_SUM_H

#include "kernels/cuda/cu.h"

enum { BLOCK_WARPS_MAX = 32 };

/* In every thread. warps: shared memory, [BLOCK_WARPS_MAX]; it may be used again at once. */
CU_DEV float cu_block_sum(float value, float *warps) {
    const float mine = cu_warp_sum(value);
    const int warp = cu_warp_id();
    __syncthreads();
    if (cu_lane() == 0) warps[warp] = mine;
    __syncthreads();
    float sum = 0;
    for (int w = 0; w < static_cast<int>(blockDim.x / 32); w++)
        sum += warps[w];
    return sum;
}

#endif
