/* cuda_attention_16.cu - the kernels of attention (cuda_attention.cu) over pages of bf16. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_attention_tile.h"

cudaError_t attention::launch_16(const View &view, const Grid &grid, cudaStream_t stream) {
    return launch_tiles<false>(view, grid, stream);
}
