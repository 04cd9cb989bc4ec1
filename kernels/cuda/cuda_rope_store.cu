/* cuda_rope_store.cu - norms and rotates q and k, and stores k and v into the pages.
 *
 *   x = x * weight / sqrt(mean(x^2) + eps)        of q and k, where weights are given
 *   (a, b) = (a cos - b sin, b cos + a sin)       of the first `rotary` dims of q and k
 *
 * In     qkv [T, (heads + 2*kv_heads) * D] f32; cos_sin [positions, rotary/2, 2] f32, a second table for
 *        sequences with seq_long; q_norm, k_norm [D] f32; batch
 * Out    q in place; k and v as bf16 in the pages (cuda_kv.h), rows filled up with zeros
 * Grid   (T, (heads + 2*kv_heads) / 8) x 256 threads: a warp does one head of one token
 * Units  pairs are (2i, 2i+1) if interleaved, else (i, i + rotary/2)
 * Needs  rotary even, rotary <= D; tokens of no sequence are left alone
 * Cost   per token reads 4*(heads + 2*kv_heads)*D bytes, writes 4*heads*D + 4*kv_heads*D: bandwidth bound
 * Error  q: |gpu - ref| <= 2e-6 * (|ref| + 1); k and v: the same, rounded to bf16
 * Source RoFormer, arXiv:2104.09864; half-split pairs as in GPT-NeoX; RMSNorm, arXiv:1910.07467 */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cu.h"
#include "kernels/cuda/cuda_kv.h"
#include "kernels/cuda/cuda_launch.h"

namespace {

constexpr int HEADS = 8; /* of a block, a warp each */

/* A head of a token on its way. */
struct Head {
    float *at;           /* [D] in qkv */
    uint16_t *page;      /* its row in a page; NULL: q, which stays where it is */
    const float *norm;   /* [D] or NULL */
    const float *angles; /* [rotary/2][2]; NULL: nothing turns */
    float factor;        /* 1 / sqrt(mean(x^2) + eps); with norm */
};

CU_DEV float read(const Head &head, uint32_t i) {
    return head.norm ? head.at[i] * head.factor * head.norm[i] : head.at[i];
}

CU_DEV void write(const Head &head, uint32_t i, float value) {
    if (head.page)
        head.page[i] = cu_to_bf16(value);
    else
        head.at[i] = value;
}

CU_DEV float norm_factor(const cuda_rope_store_args &a, const float *at) {
    float sum = 0.0f;
    for (uint32_t i = (uint32_t)cu_lane(); i < a.kv.head_dim; i += 32)
        sum = fmaf(at[i], at[i], sum);
    __syncwarp(); /* all has been read; from here on lanes write */
    return rsqrtf(cu_warp_sum(sum) / (float)a.kv.head_dim + a.norm_eps);
}

CU_DEV void turn_pairs(const cuda_rope_store_args &a, const Head &head) {
    const uint32_t half = a.rotary / 2;
    for (uint32_t i = (uint32_t)cu_lane(); i < half; i += 32) {
        const uint32_t first = a.interleaved ? 2 * i : i;
        const uint32_t second = a.interleaved ? first + 1 : i + half;
        const float2 angle = *reinterpret_cast<const float2 *>(head.angles + 2 * i);
        const float x = read(head, first), y = read(head, second);
        write(head, first, x * angle.x - y * angle.y);
        write(head, second, y * angle.x + x * angle.y);
    }
}

CU_DEV uint16_t *page_row(const cuda_rope_store_args &a, uint32_t seq, uint32_t position,
                          uint32_t kv_head, bool is_v) {
    const cuda_batch &b = a.batch;
    const uint32_t *table = b.tables + ((size_t)a.kv.group * b.seq_count + seq) * b.table_stride;
    unsigned char *frame = static_cast<unsigned char *>(a.kv.arena) +
                           table[position / KV_PAGE_TOKENS] * a.kv.frame_bytes;
    uint16_t *blocks = reinterpret_cast<uint16_t *>(frame + (is_v ? a.kv.v_offset : a.kv.k_offset));
    return blocks + (size_t)(kv_head * KV_PAGE_TOKENS + position % KV_PAGE_TOKENS) *
                        CUDA_KV_ROW(a.kv.head_dim);
}

CU_DEV const float *angles_of(const cuda_rope_store_args &a, uint32_t seq, uint32_t position) {
    if (a.rotary == 0) return nullptr;
    const float *table = a.long_cos_sin && a.batch.seq_long[seq] ? a.long_cos_sin : a.cos_sin;
    return table + (size_t)position * a.rotary;
}

/* Heads of a token: those of q, then those of k, then those of v. */
CU_DEV Head head_of(const cuda_rope_store_args &a, uint32_t token, uint32_t index) {
    const uint32_t seq = a.batch.token_seq[token], position = a.batch.positions[token];
    const uint32_t k = a.heads, v = a.heads + a.kv.kv_heads, all = v + a.kv.kv_heads;
    Head head = {};
    head.at = a.qkv + ((size_t)token * all + index) * a.kv.head_dim;
    if (index >= v) {
        head.page = page_row(a, seq, position, index - v, true);
        return head;
    }
    if (index >= k) head.page = page_row(a, seq, position, index - k, false);
    head.norm = index >= k ? a.k_norm : a.q_norm;
    head.angles = angles_of(a, seq, position);
    return head;
}

__global__ void __launch_bounds__(32 * HEADS) rope_store(const cuda_rope_store_args a) {
    const uint32_t token = blockIdx.x, index = blockIdx.y * HEADS + (uint32_t)cu_warp_id();
    if (a.batch.token_seq[token] == CUDA_NO_SEQUENCE) return;
    if (index >= a.heads + 2 * a.kv.kv_heads) return;
    Head head = head_of(a, token, index);
    if (head.norm) head.factor = norm_factor(a, head.at);
    const uint32_t turned = head.angles ? a.rotary : 0, dim = a.kv.head_dim;
    if (head.angles) turn_pairs(a, head);
    if (!head.page && !head.norm) return; /* the rest of q is as it should be */
    for (uint32_t i = turned + (uint32_t)cu_lane(); i < dim; i += 32)
        write(head, i, read(head, i));
    if (!head.page) return;
    for (uint32_t i = dim + (uint32_t)cu_lane(); i < CUDA_KV_ROW(dim); i += 32)
        head.page[i] = 0;
}

} // namespace

extern "C" int cuda_rope_store(const cuda_rope_store_args *args, void *stream) {
    const uint32_t heads = args->heads + 2 * args->kv.kv_heads;
    if (args->rotary % 2 || args->rotary > args->kv.head_dim || !args->q_norm != !args->k_norm)
        return cudaErrorInvalidValue;
    if (args->batch.token_count == 0) return cudaSuccess;
    return CU_LAUNCH(rope_store, dim3(args->batch.token_count, (heads + HEADS - 1) / HEADS),
                     dim3(32 * HEADS), 0, static_cast<cudaStream_t>(stream), *args);
}
