/* cuda_linear_8.cu - the kernels of a linear (cuda_linear.cu) for codes and floats of 8 bits. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_linear_many.h"

int linear_launch_8(const linear_params &p, linear_shape shape, cudaStream_t stream) {
    switch (p.part[0].format) {
    case CUDA_C8_HALF:
        return linear_launch<CUDA_C8_HALF>(p, shape, stream);
    case CUDA_C8_OFFSET:
        return linear_launch<CUDA_C8_OFFSET>(p, shape, stream);
    case CUDA_C8_LESS:
        return linear_launch<CUDA_C8_LESS>(p, shape, stream);
    case CUDA_C8_STEPS_16:
        return linear_launch<CUDA_C8_STEPS_16>(p, shape, stream);
    case CUDA_C8_FLOAT_ZERO:
        return linear_launch<CUDA_C8_FLOAT_ZERO>(p, shape, stream);
    case CUDA_E4M3_FLOAT:
        return linear_launch<CUDA_E4M3_FLOAT>(p, shape, stream);
    default:
        return cudaErrorInvalidValue;
    }
}
