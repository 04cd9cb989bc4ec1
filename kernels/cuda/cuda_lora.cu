/* cuda_lora.cu - what adapters add to a linear (LoRA): delta[t,n] = sum_r B[n,r] scale * (A x[t])[r] (+ bias[n]).
 *
 * In     in [T,K] bf16; the op's table and the packed updates (cuda_lora.h)
 * Out    delta [T,N of all matrices] f32, whole rows of the tokens that have an update; updated [T] u8; where
 *        updates have magnitudes: [T,matrices] pointers to magnitude and bias rows
 * Temp   states [slices][T][CUDA_LORA_RANKS] f32: A x; one slice where T > CUDA_LORA_APART
 * Grid   1. shrink: tiles of 32 tokens x panels of 16 ranks (x slices of 1,024 columns), 128 threads
 *        2. expand: tiles of 32 tokens x 128 rows, 128 threads. What is to be done stands in the table, so a grid
 *        fits any: blocks take items in turns, and those that find none end.
 * Units  A x is rounded to bf16 after scale; sums are f32. A slice: each of 4 warps every fourth block of 32
 *        columns, then ((w0 + w1) + w2) + w3; then slice by slice. B h: by ranks. So a token's bits depend on
 *        its update and on K alone, whether slices are summed apart or not.
 * Needs  sm_80 up; rank <= 512
 * Cost   bytes of the updates' A and B once per tile: bandwidth bound at decode
 * Error  |gpu - ref| <= 1e-2 of the largest, tests/cuda/test_cuda_lora
 * Source LoRA, arXiv:2106.09685; segmented products over many adapters, arXiv:2310.18547 */
// SPDX-License-Identifier: Apache-2.0
#include "cu.h"
#include "cuda_lora.h"
#include "kernels/cuda/cuda_launch.h"

namespace {

enum {
    THREADS = 128,
    WARPS = THREADS / 32,
    FRAGMENTS = CUDA_LORA_TILE / 8, /* of 8 tokens, an mma's */
    WARP_TILES = 2,                 /* of 16 rows, in expand */
    BLOCK_ROWS = WARPS * WARP_TILES * CUDA_LORA_ROWS,
    GROUP_STEPS = 4, /* of 16 ranks whose states lie in shared memory together */
    GROUP_RANKS = GROUP_STEPS * CUDA_LORA_PANEL,
    STATE_STRIDE = GROUP_RANKS + 16, /* lanes that read together fall into different banks */
    SUM_STRIDE = CUDA_LORA_PANEL + 1,
    TILE_SUMS = CUDA_LORA_TILE * CUDA_LORA_PANEL / THREADS, /* of a thread */
    BLOCKS_AT_LEAST =
        4, /* of a multiprocessor; without it ptxas stops at 80 registers and spills */
    CAPTURED_BLOCKS = 512,
    MARK_BLOCKS = 16,
};

struct lora_job {
    const uint16_t *in;
    const unsigned char *table;
    float *states, *delta, *whole;
    uint8_t *updated;
    const float **magnitude, **lora_bias;
    uint32_t token_count, cols, width, matrix_count, slices, apart;
    uint32_t rows[CUDA_LORA_PARTS];
};

/* ---- reading the table and the runs ---- */

/* A value that is the same in all lanes, in a form from which the compiler knows it: what decides where a warp
 * goes must be, or ptxas takes its products for divergent. */
CU_DEV uint32_t uniform(uint32_t value) { return __shfl_sync(CU_FULL, value, 0); }

CU_DEV const cuda_lora_table_head *head_of(const lora_job &job) {
    return reinterpret_cast<const cuda_lora_table_head *>(job.table);
}

CU_DEV cuda_lora_tile tile_at(const lora_job &job, uint32_t i) {
    cuda_lora_tile tile =
        reinterpret_cast<const cuda_lora_tile *>(job.table + head_of(job)->tiles)[i];
    tile.count = uniform(tile.count);
    tile.ranks = uniform(tile.ranks);
    return tile;
}

CU_DEV const cuda_lora_head *update_of(const cuda_lora_tile &tile) {
    return reinterpret_cast<const cuda_lora_head *>(tile.update);
}

/* The pieces of the update whose first is number `piece`. */
CU_DEV const uint64_t *pieces_of(const lora_job &job, uint32_t piece) {
    return reinterpret_cast<const uint64_t *>(job.table + head_of(job)->pieces) + piece;
}

CU_DEV cuda_lora_run uniform_run(cuda_lora_run run) {
    run.first_units = uniform(run.first_units);
    run.next_units = uniform(run.next_units);
    return run;
}

/* Unit `unit` of a run; together: as many units lie side by side from there on, or more than there are. */
CU_DEV const void *unit_of(const cuda_lora_run &run, const uint64_t *pieces, uint32_t bytes,
                           uint32_t unit, uint32_t &together) {
    uint32_t piece = run.piece, at = unit, count = run.first_units;
    uint64_t offset = run.offset;
    if (unit >= run.first_units) {
        piece += 1 + (unit - run.first_units) / run.next_units;
        at = (unit - run.first_units) % run.next_units;
        count = run.next_units;
        offset = 0;
    }
    together = count - at;
    return reinterpret_cast<const unsigned char *>(pieces[piece]) + offset + (uint64_t)at * bytes;
}

CU_DEV float row_value(const cuda_lora_run &run, const uint64_t *pieces, uint32_t row) {
    uint32_t together;
    const void *unit = unit_of(run, pieces, CUDA_LORA_ROWS_UNIT, row / CUDA_LORA_ROWS, together);
    return static_cast<const float *>(unit)[row % CUDA_LORA_ROWS];
}

/* Parts that an update has not are as good as parts that say nothing. */
CU_DEV uint32_t rank_of(const cuda_lora_head *update, uint32_t m) {
    return m < update->part_count ? update->part[m].rank : 0;
}
CU_DEV uint32_t flags_of(const cuda_lora_head *update, uint32_t m) {
    return m < update->part_count ? update->part[m].flags : 0;
}

/* ---- which tokens have what ---- */

/* The values of a run side by side: where they are, or, when they are cut, where gather puts them. */
CU_DEV const float *whole_rows(const cuda_lora_run &run, const uint64_t *pieces, uint32_t rows,
                               float *gathered) {
    if (cu_ceil((int)rows, CUDA_LORA_ROWS) > (int)run.first_units) return gathered;
    uint32_t together;
    return static_cast<const float *>(unit_of(run, pieces, CUDA_LORA_ROWS_UNIT, 0, together));
}

/* Where gather puts magnitude (0) and bias (1) of the matrix that begins at column `column`. */
CU_DEV float *gathered_rows(const lora_job &job, uint32_t token, uint32_t column, uint32_t which) {
    return job.whole + ((uint64_t)token * 2 + which) * job.width + column;
}

CU_DEV void point_at_rows(const lora_job &job, uint32_t token, uint32_t word) {
    for (uint32_t m = 0, column = 0; m < job.matrix_count; column += job.rows[m++]) {
        const float *magnitude = nullptr, *bias = nullptr;
        const uint64_t *pieces = pieces_of(job, word ? word - 1 : 0);
        const cuda_lora_head *update =
            word ? reinterpret_cast<const cuda_lora_head *>(pieces[0]) : nullptr;
        const uint32_t flags = word ? flags_of(update, m) : 0;
        if (flags & CUDA_LORA_MAGNITUDE)
            magnitude = whole_rows(update->part[m].magnitude, pieces, job.rows[m],
                                   gathered_rows(job, token, column, 0));
        if (flags == (CUDA_LORA_MAGNITUDE | CUDA_LORA_BIAS))
            bias = whole_rows(update->part[m].bias, pieces, job.rows[m],
                              gathered_rows(job, token, column, 1));
        job.magnitude[token * job.matrix_count + m] = magnitude;
        job.lora_bias[token * job.matrix_count + m] = bias;
    }
}

/* All blocks together. */
CU_DEV void mark_tokens(const lora_job &job) {
    const uint32_t *words = reinterpret_cast<const uint32_t *>(head_of(job) + 1);
    for (uint32_t t = blockIdx.x * THREADS + threadIdx.x; t < job.token_count;
         t += gridDim.x * THREADS) {
        job.updated[t] = words[t] != 0;
        if (job.magnitude) point_at_rows(job, t, words[t]);
    }
}

/* ---- shrink ---- */

/* Columns c .. c + 7 of a token's x, 0 behind its end. Rows begin at multiples of 16 bytes if K does. */
template <bool aligned>
CU_DEV uint4 load_x(const lora_job &job, const cuda_lora_tile &tile, uint32_t token, uint32_t c) {
    const uint16_t *x = job.in + (uint64_t)(tile.first + token) * job.cols + c;
    const bool there = token < tile.count;
    if (aligned) {
        const bool ok = there && c < job.cols;
        return ok ? __ldg(reinterpret_cast<const uint4 *>(x)) : cu_zero16();
    }
    uint32_t word[4] = {0, 0, 0, 0};
#pragma unroll
    for (uint32_t i = 0; i < 8; i++)
        word[i / 2] |= there && c + i < job.cols ? (uint32_t)x[i] << (i % 2 * 16) : 0u;
    return make_uint4(word[0], word[1], word[2], word[3]);
}

/* A block of 32 columns of a panel times the first 8 * fragments tokens of the tile. */
template <int fragments, bool aligned>
CU_DEV void shrink_block(const lora_job &job, const cuda_lora_tile &tile, const uint4 *unit,
                         uint32_t block, float (&sums)[FRAGMENTS][4]) {
    const uint32_t lane = (uint32_t)cu_lane(), g = lane / 4, t = lane % 4;
    const uint4 first = __ldg(unit + lane), second = __ldg(unit + 32 + lane);
    const uint32_t a[2][4] = {{first.x, first.y, first.z, first.w},
                              {second.x, second.y, second.z, second.w}};
#pragma unroll
    for (uint32_t f = 0; f < fragments; f++) {
        const uint4 x = load_x<aligned>(job, tile, f * 8 + g, block * CUDA_LORA_BLOCK + t * 8);
        const uint32_t b[2][2] = {{x.x, x.y}, {x.z, x.w}};
        cu_mma_bf16(sums[f], a[0], b[0], sums[f]);
        cu_mma_bf16(sums[f], a[1], b[1], sums[f]);
    }
}

/* Every fourth block of a slice, from the warp's first on. */
template <int fragments, bool aligned>
CU_DEV void shrink_blocks(const lora_job &job, const cuda_lora_tile &tile, uint32_t panel,
                          uint32_t begin, uint32_t end, float (&sums)[FRAGMENTS][4]) {
    const uint32_t blocks = (job.cols + CUDA_LORA_BLOCK - 1) / CUDA_LORA_BLOCK;
    const uint64_t *pieces = pieces_of(job, tile.piece);
    const cuda_lora_run run = uniform_run(update_of(tile)->a);
    uint32_t together;
    for (uint32_t block = begin; block < end;) {
        const uint4 *unit = static_cast<const uint4 *>(
            unit_of(run, pieces, CUDA_LORA_A_UNIT, panel * blocks + block, together));
        const uint32_t stop = min(end, block + min(together, (uint32_t)CUDA_LORA_SLICE));
#pragma unroll(aligned ? (fragments == 1 ? 4 : 2) : 1)
        for (; block < stop; block += WARPS, unit += WARPS * CUDA_LORA_A_UNIT / sizeof(uint4))
            shrink_block<fragments, aligned>(job, tile, unit, block, sums);
    }
}

/* A warp's share of a slice, into shared memory: [token][rank]. */
template <bool aligned>
CU_DEV void shrink_slice(const lora_job &job, const cuda_lora_tile &tile, uint32_t warp,
                         uint32_t panel, uint32_t slice, float (*sums)[SUM_STRIDE]) {
    const uint32_t lane = (uint32_t)cu_lane(), g = lane / 4, t = lane % 4;
    const uint32_t blocks = (job.cols + CUDA_LORA_BLOCK - 1) / CUDA_LORA_BLOCK;
    const uint32_t begin = slice * CUDA_LORA_SLICE + warp;
    const uint32_t end = min(blocks, (slice + 1) * CUDA_LORA_SLICE);
    float part[FRAGMENTS][4] = {};
    if (tile.count <= 8)
        shrink_blocks<1, aligned>(job, tile, panel, begin, end, part);
    else
        shrink_blocks<FRAGMENTS, aligned>(job, tile, panel, begin, end, part);
#pragma unroll
    for (uint32_t f = 0; f < FRAGMENTS; f++)
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            sums[f * 8 + t * 2 + i % 2][g + i / 2 * 8] = part[f][i];
}

/* Slices first .. end of a panel, into the states of slice `first`. */
template <bool aligned>
CU_DEV void shrink_panel(const lora_job &job, const cuda_lora_tile &tile, uint32_t warp,
                         uint32_t panel, uint32_t first, uint32_t end) {
    CU_SHARED(float, sums, [WARPS][CUDA_LORA_TILE][SUM_STRIDE]);
    float total[TILE_SUMS] = {};
    for (uint32_t slice = first; slice < end; slice++) {
        shrink_slice<aligned>(job, tile, warp, panel, slice, sums[warp]);
        __syncthreads();
#pragma unroll
        for (uint32_t i = 0; i < TILE_SUMS; i++) {
            const uint32_t at = threadIdx.x + i * THREADS, token = at / CUDA_LORA_PANEL;
            const uint32_t rank = at % CUDA_LORA_PANEL;
            total[i] += ((sums[0][token][rank] + sums[1][token][rank]) + sums[2][token][rank]) +
                        sums[3][token][rank];
        }
        __syncthreads();
    }
#pragma unroll
    for (uint32_t i = 0; i < TILE_SUMS; i++) {
        const uint32_t at = threadIdx.x + i * THREADS, token = at / CUDA_LORA_PANEL;
        const uint64_t row = (uint64_t)first * job.token_count + tile.first + token;
        const uint32_t rank = panel * CUDA_LORA_PANEL + at % CUDA_LORA_PANEL;
        if (token < tile.count && rank < tile.ranks)
            job.states[row * CUDA_LORA_RANKS + rank] = total[i];
    }
}

template <bool aligned>
__global__ void __launch_bounds__(THREADS, BLOCKS_AT_LEAST)
    lora_shrink(const __grid_constant__ lora_job job) {
    const uint32_t warp = (uint32_t)cu_warp_id();
    mark_tokens(job);
    const uint32_t panels = uniform(head_of(job)->panels), spans = job.apart ? job.slices : 1;
    const uint32_t items = uniform(head_of(job)->tile_count) * panels * spans;
    for (uint32_t item = blockIdx.x; item < items; item += gridDim.x) {
        const cuda_lora_tile tile = tile_at(job, item / (panels * spans));
        const uint32_t panel = item / spans % panels, span = item % spans;
        if (panel * CUDA_LORA_PANEL >= tile.ranks) continue;
        if (job.apart)
            shrink_panel<aligned>(job, tile, warp, panel, span, span + 1);
        else
            shrink_panel<aligned>(job, tile, warp, panel, 0, job.slices);
    }
}

/* ---- expand ---- */

/* The rows of one item that a warp has, WARP_TILES times 16 from `first` on: of matrix m, whose output begins
 * at column `column`. */
struct row_span {
    uint32_t m, first, rows, column;
};

CU_DEV row_span span_of(const lora_job &job, uint32_t warp, uint32_t index) {
    row_span span = {0, 0, job.rows[0], 0};
#pragma unroll
    for (uint32_t m = 0; m + 1 < CUDA_LORA_PARTS; m++) {
        const uint32_t blocks = (span.rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
        if (span.m != m || m + 1 >= job.matrix_count || index < blocks) continue;
        index -= blocks;
        span = {m + 1, 0, job.rows[m + 1], span.column + span.rows};
    }
    span.first = index * BLOCK_ROWS + warp * WARP_TILES * CUDA_LORA_ROWS;
    return span;
}

/* scale * A x of a token and a rank, the slices one after another. */
CU_DEV float state_at(const lora_job &job, const cuda_lora_part &part, uint32_t token,
                      uint32_t rank) {
    const float *at = job.states + (uint64_t)token * CUDA_LORA_RANKS + part.first + rank;
    const uint64_t step = (uint64_t)job.token_count * CUDA_LORA_RANKS;
    float total = 0;
    const uint32_t spans = job.apart ? job.slices : 1;
    for (uint32_t s = 0; s < spans; s++)
        total += at[s * step];
    return part.scale * total;
}

/* States of ranks first .. first + GROUP_RANKS as bf16; zeros for ranks and tokens that are not there. */
CU_DEV void load_states(const lora_job &job, const cuda_lora_tile &tile, const cuda_lora_part &part,
                        uint32_t first, uint16_t (*states)[STATE_STRIDE]) {
    const uint32_t ranks = min((uint32_t)GROUP_RANKS, (part.rank - first + 15) / 16 * 16);
    const uint32_t tokens = tile.count <= 8 ? 8 : CUDA_LORA_TILE;
    for (uint32_t i = threadIdx.x; i < tokens * ranks; i += THREADS) {
        const uint32_t token = i / ranks, rank = first + i % ranks;
        const bool there = token < tile.count && rank < part.rank;
        states[token][i % ranks] =
            there ? cu_to_bf16(state_at(job, part, tile.first + token, rank)) : (uint16_t)0;
    }
}

/* 16 ranks of B times the states of the first 8 * fragments tokens. */
template <int fragments>
CU_DEV void expand_step(const uint4 *unit, const uint16_t (*states)[STATE_STRIDE], uint32_t step,
                        float (&sums)[FRAGMENTS][4]) {
    const uint32_t lane = (uint32_t)cu_lane(), g = lane / 4, t = lane % 4;
    const uint4 rows = __ldg(unit + lane);
    const uint32_t a[4] = {rows.x, rows.y, rows.z, rows.w};
#pragma unroll
    for (uint32_t f = 0; f < fragments; f++) {
        const uint2 h =
            *reinterpret_cast<const uint2 *>(&states[f * 8 + g][step * CUDA_LORA_PANEL + t * 4]);
        const uint32_t b[2] = {h.x, h.y};
        cu_mma_bf16(sums[f], a, b, sums[f]);
    }
}

typedef float row_sums[WARP_TILES][FRAGMENTS][4];

/* A group of steps, `first` on, for the rows of a warp. */
template <int fragments>
CU_DEV void expand_group(const cuda_lora_run &b, const uint64_t *pieces, const row_span &span,
                         uint32_t steps, uint32_t first, uint32_t count,
                         const uint16_t (*states)[STATE_STRIDE], row_sums &sums) {
#pragma unroll
    for (uint32_t i = 0; i < WARP_TILES; i++) {
        const uint32_t row = span.first + i * CUDA_LORA_ROWS;
        if (row >= span.rows) continue; /* alike in the warp */
        for (uint32_t s = 0; s < count; s++) {
            uint32_t together;
            const void *unit = unit_of(b, pieces, CUDA_LORA_B_UNIT,
                                       row / CUDA_LORA_ROWS * steps + first + s, together);
            expand_step<fragments>(static_cast<const uint4 *>(unit), states, s, sums[i]);
        }
    }
}

CU_DEV void expand_rows(const lora_job &job, const cuda_lora_tile &tile, const cuda_lora_part &part,
                        uint32_t rank, const row_span &span, row_sums &sums) {
    CU_SHARED_A(16, uint16_t, states, [CUDA_LORA_TILE][STATE_STRIDE]);
    const uint64_t *pieces = pieces_of(job, tile.piece);
    const uint32_t steps = (rank + CUDA_LORA_PANEL - 1) / CUDA_LORA_PANEL;
    for (uint32_t first = 0; first < steps; first += GROUP_STEPS) {
        const uint32_t count = min(steps - first, (uint32_t)GROUP_STEPS);
        __syncthreads(); /* all have done with the group before */
        load_states(job, tile, part, first * CUDA_LORA_PANEL, states);
        __syncthreads();
        if (tile.count <= 8)
            expand_group<1>(part.b, pieces, span, steps, first, count, states, sums);
        else
            expand_group<FRAGMENTS>(part.b, pieces, span, steps, first, count, states, sums);
    }
}

/* Element i of a fragment of 16 rows x 8 tokens is row g + 8 (i / 2), token 2t + i % 2. */
CU_DEV void store_rows(const lora_job &job, const cuda_lora_tile &tile,
                       const cuda_lora_head *update, const row_span &span, const row_sums &sums) {
    const uint32_t lane = (uint32_t)cu_lane(), g = lane / 4, t = lane % 4;
    const uint64_t *pieces = pieces_of(job, tile.piece);
    const bool biased = flags_of(update, span.m) == CUDA_LORA_BIAS;
#pragma unroll
    for (uint32_t i = 0; i < WARP_TILES * 2; i++) {
        const uint32_t row = span.first + i * 8 + g;
        if (row >= span.rows) continue;
        const float bias = biased ? row_value(update->part[span.m].bias, pieces, row) : 0.0f;
#pragma unroll
        for (uint32_t f = 0; f < FRAGMENTS * 2; f++) {
            const uint32_t token = f / 2 * 8 + t * 2 + f % 2;
            if (token >= tile.count) continue;
            job.delta[(uint64_t)(tile.first + token) * job.width + span.column + row] =
                sums[i / 2][f / 2][i % 2 * 2 + f % 2] + bias;
        }
    }
}

__global__ void __launch_bounds__(THREADS, BLOCKS_AT_LEAST)
    lora_expand(const __grid_constant__ lora_job job, uint32_t spans) {
    const uint32_t items = uniform(head_of(job)->tile_count) * spans;
    const uint32_t warp = (uint32_t)cu_warp_id();
    for (uint32_t item = blockIdx.x; item < items; item += gridDim.x) {
        const cuda_lora_tile tile = tile_at(job, item / spans);
        const cuda_lora_head *update = update_of(tile);
        const row_span span = span_of(job, warp, item % spans);
        row_sums sums = {};
        const uint32_t rank = uniform(rank_of(update, span.m));
        if (rank > 0) expand_rows(job, tile, update->part[span.m], rank, span, sums);
        store_rows(job, tile, update, span, sums);
    }
}

/* ---- magnitudes and biases that are cut ---- */

CU_DEV void gather_rows(const cuda_lora_run &run, const uint64_t *pieces, uint32_t rows,
                        float *to) {
    for (uint32_t row = threadIdx.x; row < rows; row += THREADS)
        to[row] = row_value(run, pieces, row);
}

/* A block for each token. */
__global__ void __launch_bounds__(THREADS, BLOCKS_AT_LEAST)
    lora_gather(const __grid_constant__ lora_job job) {
    const uint32_t token = blockIdx.x;
    const uint32_t word = reinterpret_cast<const uint32_t *>(head_of(job) + 1)[token];
    if (word == 0) return;
    const uint64_t *pieces = pieces_of(job, word - 1);
    const cuda_lora_head *update = reinterpret_cast<const cuda_lora_head *>(pieces[0]);
    for (uint32_t m = 0, column = 0; m < job.matrix_count; column += job.rows[m++]) {
        const uint32_t flags = flags_of(update, m);
        if (!(flags & CUDA_LORA_MAGNITUDE)) continue;
        gather_rows(update->part[m].magnitude, pieces, job.rows[m],
                    gathered_rows(job, token, column, 0));
        if (flags & CUDA_LORA_BIAS)
            gather_rows(update->part[m].bias, pieces, job.rows[m],
                        gathered_rows(job, token, column, 1));
    }
}

/* ---- launching ---- */

lora_job job_of(const cuda_lora_args *args) {
    const uint32_t slice = CUDA_LORA_SLICE * CUDA_LORA_BLOCK;
    lora_job job = {};
    job.in = args->in;
    job.table = static_cast<const unsigned char *>(args->table);
    job.states = args->states;
    job.delta = args->delta;
    job.whole = args->whole;
    job.updated = args->updated;
    job.magnitude = args->magnitude;
    job.lora_bias = args->lora_bias;
    job.token_count = args->token_count;
    job.cols = args->cols;
    job.matrix_count = args->matrix_count;
    job.slices = (args->cols + slice - 1) / slice;
    job.apart = args->token_count <= CUDA_LORA_APART;
    for (uint32_t m = 0; m < args->matrix_count; m++) {
        job.rows[m] = args->rows[m];
        job.width += args->rows[m];
    }
    return job;
}

uint32_t row_spans(const cuda_lora_args *args) {
    uint32_t spans = 0;
    for (uint32_t m = 0; m < args->matrix_count; m++)
        spans += (args->rows[m] + BLOCK_ROWS - 1) / BLOCK_ROWS;
    return spans;
}

} // namespace

extern "C" int cuda_lora(const cuda_lora_args *args, void *stream) {
    cudaStream_t on = static_cast<cudaStream_t>(stream);
    const lora_job job = job_of(args);
    const uint32_t spans = row_spans(args);
    uint32_t shrink = CAPTURED_BLOCKS, expand = CAPTURED_BLOCKS;
    if (args->host_table) {
        const cuda_lora_table_head *head =
            static_cast<const cuda_lora_table_head *>(args->host_table);
        shrink = head->tile_count * head->panels * (job.apart ? job.slices : 1);
        expand = head->tile_count * spans;
        shrink = shrink > MARK_BLOCKS ? shrink : (uint32_t)MARK_BLOCKS;
    }
    int error = args->cols % 8 == 0
                    ? CU_LAUNCH((lora_shrink<true>), dim3(shrink), dim3(THREADS), 0, on, job)
                    : CU_LAUNCH((lora_shrink<false>), dim3(shrink), dim3(THREADS), 0, on, job);
    if (!error && expand)
        error = CU_LAUNCH((lora_expand), dim3(expand), dim3(THREADS), 0, on, job, spans);
    if (!error && args->whole && args->magnitude)
        error = CU_LAUNCH((lora_gather), dim3(args->token_count), dim3(THREADS), 0, on, job);
    return error;
}
