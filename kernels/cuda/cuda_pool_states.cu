/* cuda_pool_states.cu - one vector for each sequence: mean, first or last of its tokens' states.
 *
 *   y[i,:] = mean over t of in[t,:], or in[first,:], or in[last,:]
 *   out = y, or y / max(|y|, 1e-12)
 *
 * In     in [T,H] f32; batch: row i names the last token of its sequence
 * Out    out [R,H] f32
 * Grid   R blocks x 256 threads; a thread has every 256th column, and walks the tokens
 * Cost   4*H bytes a token read once: bandwidth bound; few rows leave most of a device idle, as once a text is fine
 * Error  |gpu - ref| <= 1e-6 * max|ref|: sums token by token in double, the length in f32 */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cu.h"
#include "kernels/cuda/cuda_block_sum.h"
#include "kernels/cuda/cuda_launch.h"

namespace {

enum { POOL_THREADS = 256 };

/* Tokens [first, first + count) are pooled. */
struct Range {
    uint32_t first, count;
};

CU_DEV Range range_of(const cuda_pool_states_args &a, uint32_t row) {
    const uint32_t last = a.batch.rows[row];
    if (a.pooling == POOL_LAST) return {last, 1};
    const uint32_t seq = a.batch.token_seq[last], first = a.batch.seq_first[seq];
    return {first, a.pooling == POOL_FIRST ? 1 : a.batch.seq_tokens[seq]};
}

CU_DEV float mean_of(const cuda_pool_states_args &a, const Range &range, uint32_t k) {
    const float *in = a.in + static_cast<size_t>(range.first) * a.width + k;
    double sum = 0;
    for (uint32_t t = 0; t < range.count; t++)
        sum += static_cast<double>(in[static_cast<size_t>(t) * a.width]);
    return static_cast<float>(sum / range.count);
}

__global__ void __launch_bounds__(POOL_THREADS) pool_rows(cuda_pool_states_args a) {
    CU_SHARED(float, warps, [BLOCK_WARPS_MAX]);
    const Range range = range_of(a, blockIdx.x);
    float *out = a.out + static_cast<size_t>(blockIdx.x) * a.width;
    float squares = 0;
    for (uint32_t k = threadIdx.x; k < a.width; k += POOL_THREADS) {
        out[k] = mean_of(a, range, k);
        squares = fmaf(out[k], out[k], squares);
    }
    if (!a.normalise) return; /* all threads of all blocks */
    const float length = fmaxf(sqrtf(cu_block_sum(squares, warps)), 1e-12f);
    for (uint32_t k = threadIdx.x; k < a.width; k += POOL_THREADS)
        out[k] /= length;
}

} // namespace

int cuda_pool_states(const cuda_pool_states_args *args, void *stream) {
    return CU_LAUNCH(pool_rows, args->batch.row_count, POOL_THREADS, 0,
                     static_cast<cudaStream_t>(stream), *args);
}
