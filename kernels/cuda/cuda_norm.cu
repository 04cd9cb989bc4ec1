/* cuda_norm.cu - RMSNorm and LayerNorm of rows, into a linear's input or onto the residual stream.
 *
 *   y[i,:] = x * rsqrt(mean(x^2) + eps) * weight,  x = in[rows ? rows[i] : i,:]
 *   with a bias, LayerNorm: the same of x - mean(x), plus bias
 *   out = y; residual: residual + y; kept = y
 *
 * In     in [T,H] f32; rows [count] or none; weight, bias [H] f32
 * Out    out [count,H] bf16, or residual [count,H] f32; kept [count,H] f32, which may be `in`
 * Grid   count blocks; a row's threads are as many as its groups of 4 elements, 32 to 1024: fixed by H
 * Needs  any H; rows are read 16 bytes at a time where H is a multiple of 4
 * Cost   8*H bytes read, 2*H written a row: bandwidth bound, and for few rows bound by latency
 * Error  |gpu - ref| <= 2^-8 * |ref| + 1e-6: y is rounded to bf16, sums are f32
 * Source arXiv:1910.07467, arXiv:1607.06450
 *
 * Law 1: a thread sums its own elements from the first on, then cu_block_sum; H alone decides the order. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cu.h"
#include "kernels/cuda/cuda_block_sum.h"
#include "kernels/cuda/cuda_launch.h"

namespace {

/* STEP elements at a time: 4, or 1 for widths that are no multiple of 4. */
template <int STEP> struct Group { float at[STEP]; };

template <int STEP> CU_DEV Group<STEP> read(const float *from) {
    Group<STEP> g;
    if constexpr (STEP == 4) {
        const float4 v = *reinterpret_cast<const float4 *>(from);
        g.at[0] = v.x, g.at[1] = v.y, g.at[2] = v.z, g.at[3] = v.w;
    } else {
        g.at[0] = from[0];
    }
    return g;
}

template <int STEP> CU_DEV void write(float *to, const Group<STEP> &g) {
    if constexpr (STEP == 4)
        *reinterpret_cast<float4 *>(to) = make_float4(g.at[0], g.at[1], g.at[2], g.at[3]);
    else
        to[0] = g.at[0];
}

template <int STEP> CU_DEV void write_half(uint16_t *to, const Group<STEP> &g) {
    if constexpr (STEP == 4)
        *reinterpret_cast<uint2 *>(to) =
            make_uint2(cu_pack_bf16(g.at[0], g.at[1]), cu_pack_bf16(g.at[2], g.at[3]));
    else
        to[0] = cu_to_bf16(g.at[0]);
}

template <int STEP> CU_DEV float sum_of(const float *x, uint32_t width, float *warps) {
    float sum = 0;
    for (uint32_t k = threadIdx.x * STEP; k < width; k += blockDim.x * STEP) {
        const Group<STEP> g = read<STEP>(x + k);
        for (int i = 0; i < STEP; i++)
            sum += g.at[i];
    }
    return cu_block_sum(sum, warps);
}

template <int STEP>
CU_DEV float sum_of_squares(const float *x, uint32_t width, float mean, float *warps) {
    float sum = 0;
    for (uint32_t k = threadIdx.x * STEP; k < width; k += blockDim.x * STEP) {
        const Group<STEP> g = read<STEP>(x + k);
        for (int i = 0; i < STEP; i++)
            sum = fmaf(g.at[i] - mean, g.at[i] - mean, sum);
    }
    return cu_block_sum(sum, warps);
}

/* A row's y, in place of x. */
template <int STEP>
CU_DEV Group<STEP> norm_group(const cuda_norm_args &a, const float *x, uint32_t k, float mean,
                              float factor) {
    Group<STEP> y = read<STEP>(x + k);
    const Group<STEP> weight = read<STEP>(a.weight + k);
    for (int i = 0; i < STEP; i++)
        y.at[i] = __fmul_rn(__fmul_rn(y.at[i] - mean, factor), weight.at[i]);
    if (!a.bias) return y;
    const Group<STEP> bias = read<STEP>(a.bias + k);
    for (int i = 0; i < STEP; i++)
        y.at[i] = __fadd_rn(y.at[i], bias.at[i]);
    return y;
}

template <int STEP>
CU_DEV void put(const cuda_norm_args &a, size_t row, uint32_t k, const Group<STEP> &y) {
    const size_t at = row * a.width + k;
    if (a.kept) write<STEP>(a.kept + at, y);
    if (!a.residual) {
        write_half<STEP>(a.out + at, y);
        return;
    }
    Group<STEP> sum = read<STEP>(a.residual + at);
    for (int i = 0; i < STEP; i++)
        sum.at[i] = __fadd_rn(sum.at[i], y.at[i]);
    write<STEP>(a.residual + at, sum);
}

constexpr uint32_t NORM_THREADS_MAX = 1024;

template <int STEP>
__global__ void __launch_bounds__(NORM_THREADS_MAX) norm_rows(cuda_norm_args a) {
    CU_SHARED(float, warps, [BLOCK_WARPS_MAX]);
    const size_t row = blockIdx.x;
    const float *x = a.in + (a.rows ? a.rows[row] : row) * a.width;
    const float count = static_cast<float>(a.width);
    const float mean = a.bias ? sum_of<STEP>(x, a.width, warps) / count : 0.0f;
    const float squares = sum_of_squares<STEP>(x, a.width, mean, warps);
    const float factor = 1.0f / sqrtf(squares / count + a.eps);
    for (uint32_t k = threadIdx.x * STEP; k < a.width; k += blockDim.x * STEP)
        put<STEP>(a, row, k, norm_group<STEP>(a, x, k, mean, factor));
}

uint32_t threads_for(uint32_t groups) {
    const uint32_t threads = (groups + 31) / 32 * 32;
    return threads > NORM_THREADS_MAX ? NORM_THREADS_MAX : threads;
}

} // namespace

int cuda_norm(const cuda_norm_args *args, void *stream) {
    cudaStream_t on = static_cast<cudaStream_t>(stream);
    if (args->width % 4 == 0)
        return CU_LAUNCH((norm_rows<4>), args->count, threads_for(args->width / 4), 0, on, *args);
    return CU_LAUNCH((norm_rows<1>), args->count, threads_for(args->width), 0, on, *args);
}
