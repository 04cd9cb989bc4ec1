/* cuda_linear_4.cu - the kernels of a linear (cuda_linear.cu) for codes of 4 bits. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_linear_many.h"

int linear_launch_4(const linear_params &p, linear_shape shape, cudaStream_t stream) {
    switch (p.part[0].format) {
    case CUDA_C4_HALF:
        return linear_launch<CUDA_C4_HALF>(p, shape, stream);
    case CUDA_C4_HALF_64:
        return linear_launch<CUDA_C4_HALF_64>(p, shape, stream);
    case CUDA_C4_OFFSET:
        return linear_launch<CUDA_C4_OFFSET>(p, shape, stream);
    case CUDA_C4_LESS:
        return linear_launch<CUDA_C4_LESS>(p, shape, stream);
    case CUDA_C4_LESS_16:
        return linear_launch<CUDA_C4_LESS_16>(p, shape, stream);
    case CUDA_C4_STEPS_16:
        return linear_launch<CUDA_C4_STEPS_16>(p, shape, stream);
    case CUDA_C4_ZERO:
        return linear_launch<CUDA_C4_ZERO>(p, shape, stream);
    case CUDA_C4_ZERO_64:
        return linear_launch<CUDA_C4_ZERO_64>(p, shape, stream);
    case CUDA_C4_FLOAT_ZERO:
        return linear_launch<CUDA_C4_FLOAT_ZERO>(p, shape, stream);
    default:
        return cudaErrorInvalidValue;
    }
}
