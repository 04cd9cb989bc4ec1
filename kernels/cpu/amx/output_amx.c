/* output_amx.c - the output matrix (output_amx.h), y[t,:] = W x[t,:], then the epilogue.
 *
 * In     x [T,K] bf16; W [N,K] in Q8_0, packed as bytes
 * Out    STORE, SOFTCAP: [T,N] f32
 * Temp   x in whole units, shared by the workers: of few tokens as bytes, of more as A tiles, [T / 16][K / 32][16][32]
 *        bf16; unpacked weights and sums of a strip per worker
 * Work   split over tiles of 16 rows, statically
 * Shape  A is x, 16 tokens x 32 columns, and B the weights, 16 pairs of columns x 16 rows; so C is 16 tokens x 16 rows.
 *        Each block's C begins at 0, is stored, and added times its rows' scales
 * Error  output_amx.h
 * Cost   few tokens: each weight is read once from memory. More: a block of a tile about 56 cycles to unpack, and 45 for
 *        each 16 tokens: storing and adding C */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/amx/output_amx.h"

#include "kernels/cpu/amx/amx.h"
#include "kernels/cpu/amx/line_run.h"
#include "kernels/cpu/amx/lora_amx.h"
#include "kernels/cpu/amx/scratch_amx.h"

enum { FETCH_TOKENS = 32 }; /* whose outputs are fetched before they are written */

/* --- inputs ------------------------------------------------------------------------------- */

static void split_block(const uint16_t *in, output_block *out) {
    __m512i n[2];
    out->unit = output_whole(in, n);
    out->sum = _mm512_reduce_add_epi32(_mm512_add_epi32(n[0], n[1]));
    for (uint32_t i = 0; i < 2; i++) {
        __m512i high = _mm512_srai_epi32(_mm512_add_epi32(n[i], _mm512_set1_epi32(64)), 7);
        __m512i low = _mm512_sub_epi32(n[i], _mm512_slli_epi32(high, 7));
        _mm_storeu_si128((__m128i *)(void *)(out->high + i * TILE_ROWS),
                         _mm512_cvtepi32_epi8(high));
        _mm_storeu_si128((__m128i *)(void *)(out->low + i * TILE_ROWS), _mm512_cvtepi32_epi8(low));
    }
}

static void split_tokens(const linear_job *job) {
    uint32_t tokens = job->op->token_count;
    output_block *out = job->dev->inputs;
    for (uint32_t b = 0; b < job->blocks; b++)
        for (uint32_t t = 0; t < tokens; t++)
            split_block((const uint16_t *)job->op->in + (size_t)t * job->cols + b * TILE_COLS,
                        out++);
}

/* A row of an A tile. */
static void whole_row(const uint16_t *in, uint16_t *out) {
    __m512i n[2];
    float unit = output_whole(in, n);
    for (uint32_t i = 0; i < 2; i++) {
        __m512i bits = _mm512_castps_si512(v_mul(_mm512_cvtepi32_ps(n[i]), v_set1(unit)));
        _mm256_storeu_si256((__m256i *)(void *)(out + i * TILE_ROWS),
                            _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
    }
}

/* Tiles begin .. end of the tokens from `base` on, of which there are `tokens`. */
static void line_up(const linear_job *job, uint32_t base, uint32_t tokens, uint32_t begin,
                    uint32_t end) {
    uint16_t *out = (uint16_t *)job->dev->inputs + (size_t)begin * job->blocks * TILE;
    const uint16_t *in = (const uint16_t *)job->op->in + (size_t)base * job->cols;
    for (uint32_t tile = begin; tile < end; tile++)
        for (uint32_t b = 0; b < job->blocks; b++)
            for (uint32_t t = tile * TILE_TOKENS; t < (tile + 1) * TILE_TOKENS; t++) {
                if (t < tokens)
                    whole_row(in + (size_t)t * job->cols + b * TILE_COLS, out);
                else
                    memset(out, 0, TILE_COLS * sizeof *out);
                out += TILE_COLS;
            }
}

/* --- weights ------------------------------------------------------------------------------ */

/* Byte `byte` of each dword, turned around by its sign bit, in the middle of a float32 whose last place that is. */
ALWAYS_INLINE vf code_column(__m512i bytes, uint32_t byte) {
    const __m512i from = _mm512_set1_epi32(BYTES_FROM), mask = _mm512_set1_epi32(0xff00);
    __m512i at = byte == 0   ? _mm512_slli_epi32(bytes, 8)
                 : byte == 1 ? bytes
                             : _mm512_srli_epi32(bytes, 8 * (byte - 1));
    __m512i placed = _mm512_ternarylogic_epi32(from, at, mask, 0xd8);
    return v_sub(_mm512_castsi512_ps(placed), v_set1((float)BYTES_OFFSET));
}

/* The upper words of even columns below those of odd ones: what they leave out is zeros. */
ALWAYS_INLINE __m512i pair_columns(vf even, vf odd) {
    return _mm512_mask_mov_epi16(_mm512_srli_epi32(_mm512_castps_si512(even), 16), 0xaaaaaaaau,
                                 _mm512_castps_si512(odd));
}

/* A block's codes, 4 columns a line, to a B tile. */
ALWAYS_INLINE void unpack_codes(const uint8_t *codes, uint16_t *out) {
    const __m512i sign = _mm512_set1_epi8(-128);
    UNROLL for (uint32_t q = 0; q < TILE_COLS / 4; q++) {
        __m512i bytes = _mm512_xor_si512(_mm512_loadu_si512(codes + q * LINE_BYTES), sign);
        _mm_prefetch((const char *)codes + q * LINE_BYTES + 2048, _MM_HINT_T0);
        _mm512_store_si512(out + 2 * q * TILE_COLS,
                           pair_columns(code_column(bytes, 0), code_column(bytes, 1)));
        _mm512_store_si512(out + (2 * q + 1) * TILE_COLS,
                           pair_columns(code_column(bytes, 2), code_column(bytes, 3)));
    }
}

/* --- tiles -------------------------------------------------------------------------------- */

/* Some blocks of a weight tile, and a tile of tokens. */
typedef struct output_task {
    const uint16_t *x; /* [blocks][16][32] */
    uint16_t (*w)[TILE];
    float (*scales)[TILE_ROWS];
    uint32_t blocks;
    /* Of the first tile of tokens: where the codes and scales of the first block lie, that are unpacked on the way. */
    const uint8_t *codes, *packed_scales;
    uint32_t first; /* block of the matrix */
    line_run *outs;
    bool begins; /* sums begin at 0 */
    float *sums; /* [16][STRIP_ROWS] */
} output_task;

/* Four C take turns. A block's products are stored some blocks later, when they are there, and added when they are
 * in memory. */
enum { TURNS = 8, TILES = 4, STORED = 3, ADDED = 6, UNPACKED = 2 /* blocks ahead */ };

#define MULTIPLY(c, a, b)                                                                          \
    do {                                                                                           \
        AMX_ZERO(c);                                                                               \
        AMX_LOAD(a, x, ROW_BYTES);                                                                 \
        AMX_LOAD(b, w, ROW_BYTES);                                                                 \
        AMX_MULTIPLY(c, a, b);                                                                     \
    } while (0)

ALWAYS_INLINE void multiply_block(const output_task *task, uint32_t b, uint32_t turn) {
    const uint16_t *x = task->x + (size_t)b * TILE, *w = task->w[b];
    if (turn % TILES == 0) MULTIPLY(0, 4, 6);
    if (turn % TILES == 1) MULTIPLY(1, 5, 7);
    if (turn % TILES == 2) MULTIPLY(2, 4, 6);
    if (turn % TILES == 3) MULTIPLY(3, 5, 7);
}

ALWAYS_INLINE void store_block(uint32_t turn, float (*c)[C_TILE]) {
    if (turn % TILES == 0) AMX_STORE(0, c[turn], ROW_BYTES);
    if (turn % TILES == 1) AMX_STORE(1, c[turn], ROW_BYTES);
    if (turn % TILES == 2) AMX_STORE(2, c[turn], ROW_BYTES);
    if (turn % TILES == 3) AMX_STORE(3, c[turn], ROW_BYTES);
}

ALWAYS_INLINE void unpack_block(const output_task *task, uint32_t b) {
    unpack_codes(task->codes + (size_t)b * TILE, task->w[b]);
    v_store(task->scales[b], tile_scale(DT_Q8_0, task->packed_scales, task->first + b, 0, 0));
    fetch_line(task->outs);
}

/* unpacks is a constant. */
ALWAYS_INLINE void multiply_blocks(bool unpacks, const output_task *task) {
    _Alignas(CACHE_LINE_BYTES) float c[TURNS][C_TILE];
    const uint32_t blocks = task->blocks;
    vf acc[TILE_TOKENS];
    UNROLL_16 for (uint32_t t = 0; t < TILE_TOKENS; t++) acc[t] =
        task->begins ? v_zero() : v_load(task->sums + t * STRIP_ROWS);
    for (uint32_t b = 0; unpacks && b < UNPACKED && b < blocks; b++)
        unpack_block(task, b);
    for (uint32_t first = 0; first < blocks + ADDED; first += TURNS)
        UNROLL for (uint32_t i = 0; i < TURNS; i++) {
            uint32_t b = first + i, stored = b - STORED, added = b - ADDED;
            if (b < blocks) multiply_block(task, b, i);
            if (unpacks && b + UNPACKED < blocks) unpack_block(task, b + UNPACKED);
            if (stored < blocks) store_block((i + TURNS - STORED) % TURNS, c);
            if (added >= blocks) continue;
            const float *sums = c[(i + TURNS - ADDED) % TURNS];
            vf scale = v_load(task->scales[added]);
            UNROLL_16 for (uint32_t t = 0; t < TILE_TOKENS; t++) acc[t] =
                v_fma(scale, v_load(sums + t * TILE_ROWS), acc[t]);
        }
    UNROLL_16 for (uint32_t t = 0; t < TILE_TOKENS; t++)
        v_store(task->sums + t * STRIP_ROWS, acc[t]);
}

static void multiply_first(const output_task *task) { multiply_blocks(true, task); }
static void multiply_more(const output_task *task) { multiply_blocks(false, task); }

static line_run outs_of(const linear_job *job, const strip *s, uint32_t base, uint32_t tokens) {
    const float *out =
        (const float *)job->op->out + (size_t)base * job->out_cols + (size_t)s->tile[0] * TILE_ROWS;
    return (line_run){.at = (const char *)out,
                      .row = job->out_cols * sizeof *out,
                      .bytes = s->count * TILE_ROWS * sizeof *out,
                      .rows = tokens < FETCH_TOKENS ? tokens : FETCH_TOKENS};
}

/* All of K for one weight tile and the tokens of a chunk. */
static void multiply_all(const linear_job *job, uint32_t tile, uint32_t tokens,
                         amx_scratch *scratch, float *sums, line_run *outs) {
    _Alignas(CACHE_LINE_BYTES) float scales[PANEL][TILE_ROWS];
    const kern_matrix *matrix = job->op->matrix[0];
    const uint8_t *codes = matrix->codes + tile * matrix->code_bytes;
    for (uint32_t first = 0, count; first < job->blocks; first += count) {
        count = job->blocks - first < PANEL ? job->blocks - first : PANEL;
        output_task task = {.x = (const uint16_t *)job->dev->inputs + (size_t)first * TILE,
                            .w = scratch->panel[0],
                            .scales = scales,
                            .blocks = count,
                            .codes = codes + (size_t)first * TILE,
                            .packed_scales = matrix->scales + tile * matrix->scale_bytes,
                            .first = first,
                            .outs = outs,
                            .begins = first == 0,
                            .sums = sums};
        multiply_first(&task);
        for (uint32_t t = TILE_TOKENS; t < tokens; t += TILE_TOKENS) {
            task.x += (size_t)job->blocks * TILE;
            task.sums += TILE_TOKENS * STRIP_ROWS;
            multiply_more(&task);
        }
    }
}

static void multiply_strip(const linear_job *job, const strip *s, uint32_t base, uint32_t tokens,
                           amx_scratch *scratch) {
    float *sums = scratch->sums[0][0][0];
    line_run outs = outs_of(job, s, base, tokens);
    for (uint32_t i = 0; i < s->count; i++)
        multiply_all(job, s->tile[i], tokens, scratch, sums + i * TILE_ROWS, &outs);
    finish(job, s, base, tokens, sums, STRIP_ROWS);
}

static void many_tokens(void *arg, uint32_t worker, uint32_t workers) {
    const linear_job *job = arg;
    amx_scratch *scratch = amx_scratch_of(job->dev, worker);
    uint32_t total = job->op->token_count, begin, end, mine, mine_end;
    uint32_t room = (uint32_t)(cpu_input_bytes(job->dev) / (TILE_COLS * sizeof(uint16_t)));
    pool_share(job->units, 1, worker, workers, &begin, &end);
    for (uint32_t base = 0; base < total; base += room) {
        uint32_t tokens = total - base < room ? total - base : room;
        pool_share((tokens - 1) / TILE_TOKENS + 1, 1, worker, workers, &mine, &mine_end);
        line_up(job, base, tokens, mine, mine_end);
        pool_barrier(job->dev->pool, worker);
        amx_configure_rows(TILE_TOKENS);
        for (uint32_t unit = begin; unit < end; unit += STRIP_TILES) {
            strip s = strip_at(job, unit, end, STRIP_TILES);
            multiply_strip(job, &s, base, tokens, scratch);
        }
        amx_release();
        pool_barrier(job->dev->pool, worker); /* before the inputs are overwritten */
    }
}

void output_linear_amx(kern_device *dev, const kern_linear *op) {
    linear_job job = job_of(dev, op);
    ESP_ASSERT(op->matrix_count == 1 && job.cols % TILE_COLS == 0 && !job.order[0]);
    if (job.lora) amx_lora_shrink_all(&job);
    if (op->token_count > OUTPUT_FEW) {
        pool_run(dev->pool, many_tokens, &job);
        return;
    }
    split_tokens(&job);
    pool_run(dev->pool, output_few_tokens, &job);
}
