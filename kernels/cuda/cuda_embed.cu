/* cuda_embed.cu - rows of an embedding table, and what a model adds to them.
 *
 *   out[t,:] = scale * table[ids[t],:] (+ positions[position[t],:]) (+ added[:])
 *
 * In     table [V,H], positions [P,H] in tiles of any format (cuda_matrix.h); ids [T], below 0: -1 - i is the
 *        id at sampled[i], or 0 where none could be picked; position [T]; added [H] f32
 * Out    out [T,H] f32
 * Grid   (T, H / 256) x 256 threads, one element each
 * Needs  ids below V, positions below P: the host has looked
 * Cost   a row's weights lie in H/64 tiles, of which 1/16 is read: 16 to 32 bytes for each that is used
 * Error  one rounding an addition, as ref: equal bits but for weights of float32 and float16 */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cu.h"
#include "kernels/cuda/cuda_launch.h"
#include "kernels/cuda/cuda_weight.h"

namespace {

enum { EMBED_THREADS = 256 };

/* What a launch takes from its args: the views lie on the host. */
struct Embed {
    cuda_embed_args args;
    cuda_matrix_view table, positions;
};

CU_DEV uint32_t row_of(const cuda_embed_args &a, uint32_t token) {
    const int32_t id = a.ids[token];
    return static_cast<uint32_t>(id >= 0 ? id : max(a.sampled[-1 - id], 0));
}

__global__ void __launch_bounds__(EMBED_THREADS) embed_tokens(Embed e) {
    const cuda_embed_args &a = e.args;
    const uint32_t token = blockIdx.x, column = blockIdx.y * EMBED_THREADS + threadIdx.x;
    if (column >= e.table.cols) return;
    const uint32_t k = e.table.order ? e.table.order[column] : column;
    float value = __fmul_rn(cu_weight(e.table, row_of(a, token), column), a.scale);
    if (a.positions) value = __fadd_rn(value, cu_weight(e.positions, a.position[token], k));
    if (a.added) value = __fadd_rn(value, a.added[k]);
    a.out[static_cast<size_t>(token) * e.table.cols + k] = value;
}

} // namespace

int cuda_embed(const cuda_embed_args *args, void *stream) {
    Embed e = {*args, *args->table, args->positions ? *args->positions : *args->table};
    const dim3 grid(args->token_count, (e.table.cols + EMBED_THREADS - 1) / EMBED_THREADS);
    return CU_LAUNCH(embed_tokens, grid, EMBED_THREADS, 0, static_cast<cudaStream_t>(stream), e);
}
