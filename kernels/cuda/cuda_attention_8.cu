/* cuda_attention_8.cu - the kernels of attention (cuda_attention.cu) over pages of int8. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_attention_tile.h"

cudaError_t attention::launch_8(const View &view, const Grid &grid, cudaStream_t stream) {
    return launch_tiles<true>(view, grid, stream);
}
