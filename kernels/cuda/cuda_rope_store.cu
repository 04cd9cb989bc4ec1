/* cuda_rope_store.cu - norms and rotates q and k, and stores k and v into the pages.
 *
 *   x = x * weight / sqrt(mean(x^2) + eps)        of q and k, where weights are given
 *   (a, b) = (a cos - b sin, b cos + a sin)       of the first `rotary` dims of q and k
 *
 * In     qkv [T, (heads + 2*kv_heads) * D] f32; cos_sin [positions, rotary/2, 2] f32, a second table for
 *        sequences with seq_long; q_norm, k_norm [D] f32; batch
 * Out    q in place; k and v as bf16 or as codes with scales (kernels.h) in the pages (cuda_kv.h), rows
 *        filled up with zeros
 * Temp   int8: a head's dims in shared memory until their maximum is known
 * Grid   (T, (heads + 2*kv_heads) / 8) x 256 threads: a warp does one head of one token
 * Units  pairs are (2i, 2i+1) if interleaved, else (i, i + rotary/2)
 * Needs  rotary even, rotary <= D; int8: D <= 256; tokens of no sequence are left alone
 * Cost   per token reads 4*(heads + 2*kv_heads)*D bytes, writes 4*heads*D + 4*kv_heads*D (int8: 2*kv_heads*(D + 4)
 *        instead of the latter): bandwidth bound
 * Error  q: |gpu - ref| <= 2e-6 * (|ref| + 1); k and v: the same, then rounded
 * Source RoFormer, arXiv:2104.09864; half-split pairs as in GPT-NeoX; RMSNorm, arXiv:1910.07467 */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cu.h"
#include "kernels/cuda/cuda_kv.h"
#include "kernels/cuda/cuda_launch.h"

namespace {

constexpr int HEADS = 8; /* of a block, a warp each */

/* A head of a token on its way. */
struct Head {
    const float *at;     /* [D] in qkv */
    float *to;           /* [D]: the same of q; of what becomes codes in shared memory */
    unsigned char *page; /* its row in a page; NULL: q, which stays where it is */
    float *scale;        /* of that row; int8 */
    const float *norm;   /* [D] or NULL */
    const float *angles; /* [rotary/2][2]; NULL: nothing turns */
    float factor;        /* 1 / sqrt(mean(x^2) + eps); with norm */
};

CU_DEV float read(const Head &head, uint32_t i) {
    return head.norm ? head.at[i] * head.factor * head.norm[i] : head.at[i];
}

template <bool INT8> CU_DEV void write(const Head &head, uint32_t i, float value) {
    if (INT8 || !head.page)
        head.to[i] = value;
    else
        reinterpret_cast<uint16_t *>(head.page)[i] = cu_to_bf16(value);
}

CU_DEV float norm_factor(const cuda_rope_store_args &a, const float *at) {
    float sum = 0.0f;
    for (uint32_t i = (uint32_t)cu_lane(); i < a.kv.head_dim; i += 32)
        sum = fmaf(at[i], at[i], sum);
    __syncwarp(); /* all has been read; from here on lanes write */
    return rsqrtf(cu_warp_sum(sum) / (float)a.kv.head_dim + a.norm_eps);
}

template <bool INT8> CU_DEV void turn_pairs(const cuda_rope_store_args &a, const Head &head) {
    const uint32_t half = a.rotary / 2;
    for (uint32_t i = (uint32_t)cu_lane(); i < half; i += 32) {
        const uint32_t first = a.interleaved ? 2 * i : i;
        const uint32_t second = a.interleaved ? first + 1 : i + half;
        const float2 angle = *reinterpret_cast<const float2 *>(head.angles + 2 * i);
        const float x = read(head, first), y = read(head, second);
        write<INT8>(head, first, x * angle.x - y * angle.y);
        write<INT8>(head, second, y * angle.x + x * angle.y);
    }
}

/* Where a token's key or value goes. */
template <bool INT8>
CU_DEV void point_at_page(const cuda_rope_store_args &a, uint32_t seq, uint32_t position,
                          uint32_t kv_head, bool is_v, Head &head) {
    const cuda_batch &b = a.batch;
    const uint32_t *table = b.tables + ((size_t)a.kv.group * b.seq_count + seq) * b.table_stride;
    unsigned char *frame = static_cast<unsigned char *>(a.kv.arena) +
                           table[position / KV_PAGE_TOKENS] * a.kv.frame_bytes;
    const uint32_t row = CUDA_KV_ROW(a.kv.head_dim, INT8), slot = position % KV_PAGE_TOKENS;
    const uint32_t block_bytes = KV_PAGE_TOKENS * (row + (INT8 ? 4 : 0));
    unsigned char *block =
        frame + (is_v ? a.kv.v_offset : a.kv.k_offset) + (size_t)kv_head * block_bytes;
    head.page = block + slot * row;
    if (INT8) head.scale = reinterpret_cast<float *>(block + KV_PAGE_TOKENS * row) + slot;
}

CU_DEV const float *angles_of(const cuda_rope_store_args &a, uint32_t seq, uint32_t position) {
    if (a.rotary == 0) return nullptr;
    const float *table = a.long_cos_sin && a.batch.seq_long[seq] ? a.long_cos_sin : a.cos_sin;
    return table + (size_t)position * a.rotary;
}

/* Heads of a token: those of q, then those of k, then those of v. */
template <bool INT8>
CU_DEV Head head_of(const cuda_rope_store_args &a, uint32_t token, uint32_t index, float *room) {
    const uint32_t seq = a.batch.token_seq[token], position = a.batch.positions[token];
    const uint32_t k = a.heads, v = a.heads + a.kv.kv_heads, all = v + a.kv.kv_heads;
    Head head = {};
    float *own = a.qkv + ((size_t)token * all + index) * a.kv.head_dim;
    head.at = own;
    head.to = index >= k ? room : own;
    if (index >= v) {
        point_at_page<INT8>(a, seq, position, index - v, true, head);
        return head;
    }
    if (index >= k) point_at_page<INT8>(a, seq, position, index - k, false, head);
    head.norm = index >= k ? a.k_norm : a.q_norm;
    head.angles = angles_of(a, seq, position);
    return head;
}

/* The largest size of any element; NaN is above infinity, and that above all numbers. */
CU_DEV float largest(const float *row, uint32_t dim) {
    uint32_t top = 0;
    for (uint32_t i = (uint32_t)cu_lane(); i < dim; i += 32)
        top = max(top, __float_as_uint(row[i]) & 0x7fffffffu);
    return __uint_as_float(__reduce_max_sync(CU_FULL, top));
}

/* What is no number becomes 0. */
CU_DEV uint32_t code_of(float x, float inverse) {
    return (uint32_t)__float2int_rn(x * inverse) & 0xff;
}

CU_DEV void store_codes(const Head &head, uint32_t dim) {
    const float most = largest(head.to, dim);
    const bool finite = most < INFINITY, coded = finite && most >= KV_INT8_LEAST;
    const float inverse = coded ? __fdiv_rn(127.0f, most) : 0.0f;
    if (cu_lane() == 0) *head.scale = coded || !finite ? __fdiv_rn(most, 127.0f) : 0.0f;
    for (uint32_t i = 4 * (uint32_t)cu_lane(); i < CUDA_KV_ROW(dim, true); i += 128) {
        uint32_t codes = 0;
        for (uint32_t j = 0; j < 4 && i + j < dim; j++)
            codes |= code_of(head.to[i + j], inverse) << 8 * j;
        *reinterpret_cast<uint32_t *>(head.page + i) = codes;
    }
}

CU_DEV void fill_row(const Head &head, uint32_t dim) {
    for (uint32_t i = dim + (uint32_t)cu_lane(); i < CUDA_KV_ROW(dim, false) / 2; i += 32)
        reinterpret_cast<uint16_t *>(head.page)[i] = 0;
}

/* Memory of a warp for a head on its way to codes. */
template <bool INT8> CU_DEV float *room_of_warp() {
    if constexpr (INT8) {
        CU_SHARED(float, rows, [HEADS][CUDA_HEAD_DIM_MAX]);
        return rows[cu_warp_id()];
    } else {
        return nullptr;
    }
}

template <bool INT8>
__global__ void __launch_bounds__(32 * HEADS) rope_store(const cuda_rope_store_args a) {
    const uint32_t token = blockIdx.x, index = blockIdx.y * HEADS + (uint32_t)cu_warp_id();
    if (a.batch.token_seq[token] == CUDA_NO_SEQUENCE) return;
    if (index >= a.heads + 2 * a.kv.kv_heads) return;
    Head head = head_of<INT8>(a, token, index, room_of_warp<INT8>());
    if (head.norm) head.factor = norm_factor(a, head.at);
    const uint32_t turned = head.angles ? a.rotary : 0, dim = a.kv.head_dim;
    if (head.angles) turn_pairs<INT8>(a, head);
    if (!head.page && !head.norm) return; /* the rest of q is as it should be */
    for (uint32_t i = turned + (uint32_t)cu_lane(); i < dim; i += 32)
        write<INT8>(head, i, read(head, i));
    if (!head.page) return;
    if constexpr (INT8) {
        __syncwarp();
        store_codes(head, dim);
    } else {
        fill_row(head, dim);
    }
}

} // namespace

extern "C" int cuda_rope_store(const cuda_rope_store_args *args, void *stream) {
    const uint32_t heads = args->heads + 2 * args->kv.kv_heads;
    if (args->rotary % 2 || args->rotary > args->kv.head_dim || !args->q_norm != !args->k_norm)
        return cudaErrorInvalidValue;
    if (args->kv.int8 && args->kv.head_dim > CUDA_HEAD_DIM_MAX) return cudaErrorInvalidValue;
    if (args->batch.token_count == 0) return cudaSuccess;
    const dim3 grid(args->batch.token_count, (heads + HEADS - 1) / HEADS), block(32 * HEADS);
    const cudaStream_t at = static_cast<cudaStream_t>(stream);
    if (args->kv.int8) return CU_LAUNCH((rope_store<true>), grid, block, 0, at, *args);
    return CU_LAUNCH((rope_store<false>), grid, block, 0, at, *args);
}
