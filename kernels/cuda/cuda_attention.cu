/* cuda_attention.cu - attention over pages, for decodes and for prefill chunks.
 *
 *   out[t,h,:] = sum_j softmax_j(cap(scale * q[t,h] . k[j,h/G])) v[j,h/G],  j in (p - window, p]
 *   cap(s) = softcap * tanh(s / softcap), or s;  bidirectional: j in the whole sequence
 *
 * In     q in qkv [T, (heads + 2*kv_heads) * D] f32, after rope_store; pages as cuda_kv.h says, bf16 or
 *        int8; tables [S, stride] u32; plan: items as cuda_attention_plan.h says
 * Out    out [T, heads*D] bf16
 * Temp   partial sums of split tiles in `work`: [kv_heads][rows][D] f32, then [kv_heads][rows][2] f32
 * Grid   (kv_heads, items) x 32 threads a warp; a warp does 16 rows, a row is one query head of one token, so
 *        that the G = heads / kv_heads heads that share keys lie in one mma tile. Narrow tiles are of one
 *        warp; wide ones of 8 (D > 128: 4), which share the keys that they load
 * Units  scores and maxima base 2: q carries scale * log2(e) when it is rounded to bf16
 * Needs  D even, D <= 256; sm_80 up; at most 99 KiB of shared memory (sm_86)
 * Cost   4*keys*D bytes (int8: 2*keys*(D + 4)) read per sequence and kv head: decodes are bound by it. Rows cost 4*keys*D multiply-adds
 *        a head, twice that on the way of 16-row tiles that are half empty
 * Error  of the same pages |gpu - ref| <= u (|ref| + sum_j w_j |v_j|) + sum_j w_j |v_j - ref| (exp(d_j) - 1), where
 *        u = 2^-8 rounds outputs and weights w, and d_j = u scale |q| . |k_j| is what rounding q does to a score. With
 *        q, k, v in (-2, 2) it stays below 1e-2 * (|ref| + 1); of int8 ref
 *        rounds keys and values to the same codes
 * Source online softmax, arXiv:1805.02867; pages, arXiv:2309.06180; a split over keys as in Flash-Decoding, 2023
 *
 * Law 1. A row's sums run over blocks of 32 keys (D > 128: 16) from the first that it sees to the last, in
 * each chunk of 256 positions anew; a chunk's sums are folded into the row's, chunk by chunk (fold_of). What
 * a row does not see weighs exactly 0 and leaves maxima alone, so it does not matter who else is in the
 * tile, nor whether the fold happens here or in merge_rows. Products and sums that a compiler could contract
 * in one kernel and not in another are written as fmaf. The tiles are in cuda_attention_tile.h. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_attention_tile.h"

namespace {

using namespace attention;

constexpr float LOG2_E = 1.4426950408889634f;

/* Two dims of a row: its chunks folded in order. */
CU_DEV void merge_pair(const View &v, const attention_item &merge, size_t first, uint32_t column,
                       uint16_t *out) {
    float top = -INFINITY, weight = 0.0f, x = 0.0f, y = 0.0f;
#pragma unroll 8 /* what is loaded depends on nothing */
    for (uint32_t chunk = 0; chunk < merge.keys; chunk++) {
        size_t row = first + (size_t)chunk * merge.rows;
        float2 part = v.partial_tops[row];
        float2 sum = *reinterpret_cast<const float2 *>(v.partial_sums + row * v.dim + column);
        Fold fold = fold_of(top, part.x);
        top = fold.top;
        weight = folded(fold, weight, part.y);
        x = folded(fold, x, sum.x);
        y = folded(fold, y, sum.y);
    }
    float inverse = __fdividef(1.0f, weight);
    *reinterpret_cast<uint32_t *>(out + column) = cu_pack_bf16(x * inverse, y * inverse);
}

constexpr int MERGE_WARPS = 8, MERGE_DIMS = 64; /* of a row, by a warp at a time */

__global__ void __launch_bounds__(32 * MERGE_WARPS, 4) merge_rows(const View v) {
    const attention_item *merges = reinterpret_cast<const attention_item *>(v.plan + 1) +
                                   v.plan->narrow_count + v.plan->wide_count;
    const uint32_t kv_head = blockIdx.x, parts = (v.dim + MERGE_DIMS - 1) / MERGE_DIMS;
    for (uint32_t i = blockIdx.y; i < v.plan->merge_count; i += gridDim.y) {
        const attention_item merge = merges[i];
        for (uint32_t at = threadIdx.x / 32; at < merge.rows * parts; at += MERGE_WARPS) {
            const uint32_t row = at / parts;
            const uint32_t column = at % parts * MERGE_DIMS + 2 * (uint32_t)cu_lane();
            if (column < v.dim)
                merge_pair(v, merge, (size_t)kv_head * v.partial_rows + merge.partial + row, column,
                           v.out + row_offset(v, merge, kv_head, row, v.heads));
        }
    }
}

View view_of(const cuda_attention_args &a) {
    const cuda_attention_kind &kind = a.kind;
    const uint32_t rows = attention_partial_rows(&kind);
    View view = {};
    view.qkv = a.qkv;
    view.out = a.out;
    view.keys = static_cast<const unsigned char *>(a.kv.arena) + a.kv.k_offset;
    view.frame_bytes = a.kv.frame_bytes;
    view.to_values = a.kv.v_offset - a.kv.k_offset;
    view.tables = a.batch.tables + (size_t)a.kv.group * a.batch.seq_count * a.batch.table_stride;
    view.plan = static_cast<const cuda_attention_plan *>(a.plan);
    view.partial_sums = static_cast<float *>(a.work);
    view.partial_tops = reinterpret_cast<float2 *>(view.partial_sums +
                                                   (size_t)kind.kv_heads * rows * kind.head_dim);
    view.partial_rows = rows;
    view.table_stride = a.batch.table_stride;
    view.heads = kind.heads;
    view.kv_heads = kind.kv_heads;
    view.group = kind.heads / kind.kv_heads;
    view.dim = kind.head_dim;
    view.window = (int)min(kind.window, 0x7fffffffu);
    view.bidirectional = kind.bidirectional;
    view.q_scale = a.softcap > 0 ? 2 * LOG2_E * a.scale / a.softcap : LOG2_E * a.scale;
    view.cap = a.softcap * LOG2_E;
    return view;
}

constexpr uint32_t GRID_Y_MAX = 65535, CAPTURED_MAX = 256;

Grid grid_of(const cuda_attention_plan &plan) {
    return Grid{min(plan.narrow_count, GRID_Y_MAX), min(plan.wide_count, GRID_Y_MAX),
                min(plan.merge_count, GRID_Y_MAX)};
}

/* They share the items of whatever plan they find; more of them than items are little work. */
Grid captured_grid(uint32_t group, uint32_t seq_count) {
    const uint32_t items = min(48 + 16 * seq_count, CAPTURED_MAX);
    const bool narrow = group <= ATTENTION_NARROW_MAX;
    return Grid{narrow ? items : 0, narrow ? 0 : items, min(2 * seq_count, CAPTURED_MAX)};
}

} // namespace

extern "C" int cuda_attention(const cuda_attention_args *args, void *stream) {
    const cuda_attention_kind &kind = args->kind;
    if (kind.kv_heads == 0 || kind.heads % kind.kv_heads || kind.head_dim % 2 ||
        kind.head_dim > CUDA_HEAD_DIM_MAX || (kind.bidirectional && kind.window))
        return cudaErrorInvalidValue;
    const View view = view_of(*args);
    const cudaStream_t at = static_cast<cudaStream_t>(stream);
    const auto *plan = static_cast<const cuda_attention_plan *>(args->host_plan);
    const Grid grid = plan ? grid_of(*plan) : captured_grid(view.group, args->batch.seq_count);
    cudaError_t error = args->kv.int8 ? launch_8(view, grid, at) : launch_16(view, grid, at);
    if (error != cudaSuccess || grid.merges == 0) return error;
    return CU_LAUNCH(merge_rows, dim3(kind.kv_heads, grid.merges), dim3(32 * MERGE_WARPS), 0, at,
                     view);
}
