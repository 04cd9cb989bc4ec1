/* cuda_place_columns.cu - columns that one rank computed, put among those of all.
 *
 *   out[t, first + i] = in[t, i]
 *
 * In     in [rows, cols] f32
 * Out    out [rows, out_cols] f32
 * Grid   rows blocks x 256 threads; a thread has every 256th column
 * Cost   8 bytes an element: bandwidth bound */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cu.h"
#include "kernels/cuda/cuda_launch.h"

namespace {

enum { PLACE_THREADS = 256 };

__global__ void __launch_bounds__(PLACE_THREADS) place(cuda_place_columns_args a) {
    const float *in = a.in + static_cast<size_t>(blockIdx.x) * a.cols;
    float *out = a.out + static_cast<size_t>(blockIdx.x) * a.out_cols + a.first;
    for (uint32_t i = threadIdx.x; i < a.cols; i += PLACE_THREADS)
        out[i] = in[i];
}

} // namespace

int cuda_place_columns(const cuda_place_columns_args *args, void *stream) {
    return CU_LAUNCH(place, args->rows, PLACE_THREADS, 0, static_cast<cudaStream_t>(stream), *args);
}
