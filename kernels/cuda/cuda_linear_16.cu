/* cuda_linear_16.cu - the kernels of a linear (cuda_linear.cu) for whole weights, bf16. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_linear_many.h"

int linear_launch_16(const linear_params &p, linear_shape shape, cudaStream_t stream) {
    switch (p.part[0].format) {
    case CUDA_BF16:
        return linear_launch<CUDA_BF16>(p, shape, stream);
    default:
        return cudaErrorInvalidValue;
    }
}
