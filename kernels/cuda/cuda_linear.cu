/* cuda_linear.cu - y[t,n] = sum_k W[n,k] x[t,k], with what comes after it (kern_linear).
 *
 * In     x [T,K] bf16; up to three matrices [N,K] in tiles (cuda_matrix.h)
 * Out    [T, sum of N] f32, or bf16 where the epilogue gives the input of a linear; gated: [T,N] bf16
 * Temp   inputs in the order of a matrix's columns, where it has an order of its own or K is odd
 * Grid   few tokens: a block has a pair of tiles of 16 rows and 8, 16 or 32 tokens, its eight warps a segment of
 *        the columns each (cuda_linear_few.h). Many: 128 rows by 128 or 192 tokens (cuda_linear_many.h). One launch
 *        for neighbouring matrices of one format
 * Needs  sm_80 up; up to 99 KiB of shared memory a block; blocks of 192 tokens 136, sums of a tree 160 on sm_80 and 224 on
 *        sm_90, where there are
 * Cost   N*K weights read once for up to 32 tokens, in multiples of that beyond; 2*T*N*K operations. Codes are
 *        multiplied as whole numbers; how many instructions that takes tests/gpu/kernel_limits.txt says
 * Error  codes: |gpu - ref| <= 2^-18 * sum |w x|, the rounding of the sums alone. F32 and F16 are rounded to bf16:
 *        2^-8 * sum |w x|; tests/cuda/test_cuda_linear.c
 *
 * Law 1  The columns are cut into at most eight segments, a function of K alone; a segment is summed as
 *        cuda_fragments.h says, from 0, the segments' sums are added in order. Neither shape nor grid has a
 *        part in it, so the shape may follow the token count. An output of mma depends on its own row and
 *        column only.
 * Ranks  Of a matrix that ranks may share (kern_parts) the whole one always has eight segments, equally many in
 *        each part, and their sums are added two by two. So a rank has a subtree, and its bits are its node's */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_linear_many.h"

enum {
    GATHER_THREADS = 256,
    ALIGNMENT = 256,    /* of each order's inputs in the workspace */
    BLOCKS_ENOUGH = 64, /* of 128 rows and tokens: below, smaller ones fill a device better */
    TOKENS_MANY = 256,
};

/* out[t,c] = in[t, order[c]], zeros beyond; order NULL: in its own. */
static __global__ void __launch_bounds__(GATHER_THREADS)
    linear_gather(const uint16_t *in, const uint32_t *order, uint32_t cols, uint32_t stride,
                  uint16_t *out) {
    in += static_cast<size_t>(blockIdx.x) * cols;
    out += static_cast<size_t>(blockIdx.x) * stride;
    for (uint32_t c = threadIdx.x; c < stride; c += GATHER_THREADS)
        out[c] = c < cols ? in[order ? order[c] : c] : static_cast<uint16_t>(0);
}

int cuda_linear_code(cuda_code *out) {
    cudaFuncAttributes attributes;
    const cudaError_t code = cudaFuncGetAttributes(&attributes, linear_gather);
    if (code == cudaSuccess) *out = cuda_code{attributes.binaryVersion, attributes.ptxVersion};
    return code;
}

/* ---- inputs */

static uint32_t padded_cols(const cuda_matrix_view &matrix) {
    return matrix.chunks * CUDA_TILE_COLS;
}

static bool needs_gather(const cuda_matrix_view &matrix) { return matrix.order || matrix.cols % 8; }

static uint64_t gathered_bytes(const cuda_matrix_view &matrix, uint32_t tokens) {
    const uint64_t bytes = static_cast<uint64_t>(tokens) * padded_cols(matrix) * sizeof(uint16_t);
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

uint64_t cuda_linear_workspace(const cuda_matrix_view *matrix, uint32_t tokens_max) {
    if (!needs_gather(*matrix)) return 0;
    return LINEAR_MATRICES_MAX * gathered_bytes(*matrix, tokens_max);
}

/* Of the matrices before i, one that has the same inputs; else i. */
static uint32_t same_inputs(const cuda_linear_args *args, uint32_t i) {
    uint32_t j = 0;
    while (j < i && args->matrix[j]->order != args->matrix[i]->order)
        j++;
    return j;
}

static cudaError_t set_inputs(const cuda_linear_args *args,
                              linear_part (&parts)[LINEAR_MATRICES_MAX], cudaStream_t stream) {
    cudaError_t code = cudaSuccess;
    for (uint32_t i = 0; i < args->matrix_count && code == cudaSuccess; i++) {
        const cuda_matrix_view &matrix = *args->matrix[i];
        const uint32_t same = same_inputs(args, i), stride = padded_cols(matrix);
        if (!needs_gather(matrix)) {
            parts[i].in = args->in;
            parts[i].in_stride = parts[i].in_cols = matrix.cols;
            continue;
        }
        uint16_t *out = reinterpret_cast<uint16_t *>(
            static_cast<uint8_t *>(args->work) + same * gathered_bytes(matrix, args->token_count));
        parts[i].in = out;
        parts[i].in_stride = parts[i].in_cols = stride;
        if (same == i)
            code = CU_LAUNCH(linear_gather, dim3(args->token_count), dim3(GATHER_THREADS), 0,
                             stream, args->in, matrix.order, matrix.cols, stride, out);
    }
    return code;
}

/* Of the current device; 0 where it does not say. */
static int device_fact(cudaDeviceAttr which) {
    int device = 0, fact = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&fact, which, device) != cudaSuccess)
        return 0;
    return fact;
}

/* ---- sums of ranks */

/* Totals that wait at once in a tree of so many segments. */
static uint32_t levels_of(uint32_t segments) { return segments > 4 ? 2 : segments > 2 ? 1 : 0; }

static uint32_t levels_on_chip() {
    const int bytes = device_fact(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    return bytes > MANY_RING_MAX ? static_cast<uint32_t>(bytes - MANY_RING_MAX) / MANY_LEVEL_BYTES
                                 : 0;
}

uint64_t cuda_linear_stack(uint32_t rows, uint32_t tokens_max) {
    const uint32_t on_chip = levels_on_chip(), levels = MANY_LEVELS_MAX;
    if (on_chip >= levels) return 0;
    return static_cast<uint64_t>(levels - on_chip) * cu_ceil(rows, 32 * MANY_PAIRS) *
           cu_ceil(tokens_max, MANY_TOKENS) * MANY_LEVEL_BYTES;
}

static void set_tree(const cuda_linear_args *args, linear_params &p) {
    const kern_parts &parts = *args->parts;
    const uint32_t each = LINEAR_SEGMENTS / parts.whole;
    uint32_t first = 0, s = 0;
    for (uint32_t i = 0; i < parts.count; i++) {
        const uint32_t end = cu_ceil(parts.end[i], CUDA_TILE_COLS);
        const uint32_t step = cu_ceil(end - first, each);
        for (uint32_t j = 1; j <= each; j++)
            p.border[++s] = first + j * step < end ? first + j * step : end;
        first = end;
    }
    p.tree = true;
    p.segments = s;
    p.levels_on_chip = levels_on_chip();
    if (p.levels_on_chip > levels_of(s)) p.levels_on_chip = levels_of(s);
    p.stack = static_cast<uint8_t *>(args->stack);
}

/* ---- what to launch */

static void set_order(linear_params &p) {
    const uint32_t step = cu_ceil(p.chunks, LINEAR_SEGMENTS);
    p.segments = cu_ceil(p.chunks, step);
    for (uint32_t s = 1; s <= LINEAR_SEGMENTS; s++)
        p.border[s] = s * step < p.chunks ? s * step : p.chunks;
}

static void set_parts(const cuda_linear_args *args, linear_part (&parts)[LINEAR_MATRICES_MAX]) {
    uint32_t first = 0;
    for (uint32_t i = 0; i < args->matrix_count; i++) {
        const cuda_matrix_view &matrix = *args->matrix[i];
        parts[i].tiles = matrix.tiles;
        parts[i].bias = args->bias[i];
        parts[i].rows = matrix.rows;
        parts[i].tile_rows = cu_ceil(matrix.rows, CUDA_TILE_ROWS);
        parts[i].format = matrix.format;
        parts[i].index = i;
        parts[i].first = first;
        first += matrix.rows;
    }
}

static linear_params common_params(const cuda_linear_args *args) {
    linear_params p = {};
    uint32_t rows = 0;
    for (uint32_t i = 0; i < args->matrix_count; i++)
        rows += args->matrix[i]->rows;
    p.gated = kern_is_gated(args->epilogue);
    p.chunks = args->matrix[0]->chunks;
    p.token_count = args->token_count;
    p.out_cols = p.gated ? args->matrix[0]->rows : rows;
    p.epilogue = args->epilogue;
    p.softcap = args->softcap;
    p.delta = args->delta;
    p.delta_cols = rows;
    p.matrix_count = args->matrix_count;
    p.updated = args->updated;
    p.magnitude = args->magnitude;
    p.lora_bias = args->lora_bias;
    p.out = args->out;
    args->parts ? set_tree(args, p) : set_order(p);
    return p;
}

/* Parts [first, first + count) into p. */
static void take_parts(linear_params &p, const linear_part *parts, uint32_t count) {
    p.part_count = count;
    p.even = p.out_cols % 2 == 0 && reinterpret_cast<uintptr_t>(p.out) % sizeof(float2) == 0;
    for (uint32_t i = 0; i < count; i++) {
        p.part[i] = parts[i];
        p.pairs[i] = p.gated ? parts[i].tile_rows : cu_ceil(parts[i].tile_rows, 2);
        if (!p.gated && parts[i].first % 2) p.even = false;
    }
}

/* Whether blocks of 192 tokens are done before those of 128 would be. Both go through a device in waves, a block a
 * multiprocessor; of whole weights a token of the former costs 4/5 of the latter's (cuda_linear_many.h), but blocks are fewer, so
 * that more multiprocessors may be idle in the last wave. */
static bool wide_is_faster(const linear_params &p, uint32_t groups) {
    if (p.tree) return false;
    const int processors = device_fact(cudaDevAttrMultiProcessorCount);
    if (processors < 1 ||
        device_fact(cudaDevAttrMaxSharedMemoryPerBlockOptin) < many_ring<CUDA_BF16, true>::bytes)
        return false;
    const uint32_t waves = cu_ceil(groups * cu_ceil(p.token_count, MANY_TOKENS), processors);
    const uint32_t wide = cu_ceil(groups * cu_ceil(p.token_count, MANY_WIDE_TOKENS), processors);
    return wide * MANY_WIDE_TOKENS * 4 < waves * MANY_TOKENS * 5;
}

static linear_shape shape_of(const linear_params &p) {
    if (p.token_count <= 8) return LINEAR_8;
    if (p.token_count <= 16) return LINEAR_16;
    if (p.token_count <= 32) return LINEAR_32;
    const uint32_t groups = many_groups(p);
    const uint32_t blocks = groups * cu_ceil(p.token_count, MANY_TOKENS);
    if (p.token_count < TOKENS_MANY && blocks < BLOCKS_ENOUGH) return LINEAR_32;
    return p.part[0].format == CUDA_BF16 && wide_is_faster(p, groups) ? LINEAR_192 : LINEAR_128;
}

static int launch(const linear_params &p, cudaStream_t stream) {
    const linear_part *part = p.part;
    if (p.gated && (part[0].format != part[1].format || part[0].in != part[1].in))
        return linear_launch_mixed(p, stream);
    switch (cuda_code_bits(cuda_format_of(part[0].format).codes)) {
    case 16:
        return linear_launch_16(p, shape_of(p), stream);
    case 8:
        return linear_launch_8(p, shape_of(p), stream);
    default:
        return linear_launch_4(p, shape_of(p), stream);
    }
}

int cuda_linear(const cuda_linear_args *args, void *stream) {
    cudaStream_t on = static_cast<cudaStream_t>(stream);
    linear_part parts[LINEAR_MATRICES_MAX] = {};
    if (args->token_count == 0) return cudaSuccess;
    set_parts(args, parts);
    int code = set_inputs(args, parts, on);
    linear_params p = common_params(args);
    if (p.tree && levels_of(p.segments) > p.levels_on_chip && !p.stack)
        return cudaErrorInvalidValue;
    for (uint32_t i = 0, count; i < args->matrix_count && code == cudaSuccess; i += count) {
        count = 1;
        while (i + count < args->matrix_count &&
               (p.gated || parts[i + count].format == parts[i].format))
            count++;
        take_parts(p, parts + i, count);
        code = launch(p, on);
    }
    return code;
}
