/* cuda_rank_sum.cu - partial sums of the ranks, added in the order of the ranks or as a tree.
 *
 *   s = in[0] + in[1] + ... + in[ranks - 1], or ((in[0] + in[1]) + (in[2] + in[3])) + ..
 *   out = s, or out + s
 *
 * In     in [ranks, count] f32
 * Out    out [count] f32
 * Grid   count / 256 blocks x 256 threads, at most 65,535 blocks; a thread has one element of each round
 * Cost   4*(ranks + 1) bytes an element: bandwidth bound
 * Error  none: each addition is a float32's, the bits of ref */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cu.h"
#include "kernels/cuda/cuda_launch.h"

namespace {

enum { SUM_THREADS = 256, SUM_BLOCKS_MAX = 65535 };

CU_DEV float in_order(const cuda_rank_sum_args &a, uint64_t i) {
    float sum = a.in[i];
    for (uint32_t rank = 1; rank < a.ranks; rank++)
        sum += a.in[rank * a.count + i];
    return sum;
}

/* Ranks that are not there are 0. */
CU_DEV float two_by_two(const cuda_rank_sum_args &a, uint64_t i) {
    float part[KERN_PARTS_MAX];
#pragma unroll
    for (uint32_t rank = 0; rank < KERN_PARTS_MAX; rank++)
        part[rank] = rank < a.ranks ? a.in[rank * a.count + i] : 0.0f;
    return ((part[0] + part[1]) + (part[2] + part[3])) +
           ((part[4] + part[5]) + (part[6] + part[7]));
}

__global__ void __launch_bounds__(SUM_THREADS) sum_ranks(cuda_rank_sum_args a) {
    const uint64_t stride = static_cast<uint64_t>(gridDim.x) * SUM_THREADS;
    for (uint64_t i = static_cast<uint64_t>(blockIdx.x) * SUM_THREADS + threadIdx.x; i < a.count;
         i += stride) {
        const float sum = a.tree ? two_by_two(a, i) : in_order(a, i);
        a.out[i] = a.residual ? a.out[i] + sum : sum;
    }
}

} // namespace

int cuda_rank_sum(const cuda_rank_sum_args *args, void *stream) {
    const uint64_t wanted = (args->count + SUM_THREADS - 1) / SUM_THREADS, most = SUM_BLOCKS_MAX;
    const unsigned blocks = static_cast<unsigned>(wanted < most ? wanted : most);
    return CU_LAUNCH(sum_ranks, blocks, SUM_THREADS, 0, static_cast<cudaStream_t>(stream), *args);
}
