/* linear_amx.c - y[t,:] = W x[t,:] (+ bias) on AMX tiles, then the epilogue.
 *
 * In     x [T,K] bf16; up to three packed matrices [N,K]; bias [N] f32 or NULL
 * Out    STORE, RESIDUAL, SOFTCAP: [T, sum of N] f32; gated, GELU: [T, N] bf16
 * Temp   x in pairs, shared by the workers: [planes][T / 16][K / 32] B tiles; unpacked weights and sums
 *        of some tiles per worker
 * Work   split over tiles of 16 rows, statically
 * Shape  A is the weights, 16 rows x 32 columns; B is x, 16 pairs of columns x 16 tokens; so C is 16
 *        rows x 16 tokens. Weights are the rows of A because a row has one scale: 32 of them come out of
 *        a table in one permutation (unpack_amx.h).
 * Error  weights are rounded to bf16. An output is the sum over blocks of 32 columns in order, as tdpbf16ps
 *        adds up a block, and begins at 0. The order is the same at every T and thread count (Law 1):
 *        a column of C depends on its column of B alone, and between panels sums rest in memory as
 *        they are.
 * Ways   up to FEW_TOKENS: each block of weights is unpacked while the one before is multiplied, all of K for
 *        up to four tiles; bandwidth bound. More: some blocks of two tiles are unpacked, then
 *        meet all tokens of a chunk, two B tiles at a time: four products for four loads.
 * Cost   a multiplication takes 16 cycles whatever it holds; unpacking a block of codes of 4 bits about
 *        50, of 8 bits 80. Bar: bench/bench_linear.c
 * Source Intel 64 and IA-32 Architectures Optimization Reference Manual, chapter 20 */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "kernels/cpu/amx/amx.h"
#include "kernels/cpu/amx/level_amx.h"
#include "kernels/cpu/amx/scratch_amx.h"
#include "kernels/cpu/level/linear_job.h"

enum {
    ROW_BYTES = 64,   /* of a whole tile */
    CODES_AHEAD = 12, /* blocks, prefetched */
};

/* --- activations to B tiles --------------------------------------------------------------- */

/* 16 x 16 dwords; rows out_stride bytes apart, written in order. */
ALWAYS_INLINE void transpose_16x16(const __m512i in[16], char *out, size_t out_stride) {
    __m512i a[16], b[16];
    UNROLL_16 for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_epi32(in[i], in[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(in[i], in[i + 1]);
    }
    UNROLL_16 for (int i = 0; i < 16; i += 4) {
        b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    /* b[4g + c] lane l: column 4l + c of rows 4g .. 4g + 3 */
    UNROLL_16 for (int c = 0; c < 4; c++) {
        a[c] = _mm512_shuffle_i32x4(b[c], b[4 + c], 0x88);          /* lanes 0 2 of g 0, 1 */
        a[4 + c] = _mm512_shuffle_i32x4(b[c], b[4 + c], 0xdd);      /* lanes 1 3 */
        a[8 + c] = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0x88); /* the same of g 2, 3 */
        a[12 + c] = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0xdd);
    }
    UNROLL_16 for (int c = 0; c < 4; c++) {
        b[c] = _mm512_shuffle_i32x4(a[c], a[8 + c], 0x88);
        b[4 + c] = _mm512_shuffle_i32x4(a[4 + c], a[12 + c], 0x88);
        b[8 + c] = _mm512_shuffle_i32x4(a[c], a[8 + c], 0xdd);
        b[12 + c] = _mm512_shuffle_i32x4(a[4 + c], a[12 + c], 0xdd);
    }
    UNROLL_16 for (int i = 0; i < 16; i++) _mm512_storeu_si512(out + i * out_stride, b[i]);
}

/* Tokens of a B tile, and so bytes of its rows: all, unless there are fewer tokens at all. */
static uint32_t tile_tokens(uint32_t tokens) { return tokens < TILE_TOKENS ? tokens : TILE_TOKENS; }

/* One token needs no pairing: its row is its B tiles. */
static bool in_place(const linear_job *job) {
    return job->op->token_count == 1 && job->planes == 1 && !job->order[0] &&
           job->cols % TILE_COLS == 0;
}

/* Block b of up to 16 tokens from `first` on to a B tile. */
static void pair_block(const linear_job *job, uint32_t plane, uint32_t first, uint32_t tokens,
                       uint32_t b, uint16_t *out) {
    uint32_t left = job->cols - b * TILE_COLS, count = left < TILE_COLS ? left : TILE_COLS;
    uint32_t width = tile_tokens(job->op->token_count);
    _Alignas(CACHE_LINE_BYTES) uint16_t tile[TILE];
    __m512i rows[TILE_TOKENS];
    for (uint32_t t = 0; t < TILE_TOKENS; t++) {
        uint16_t lined_up[TILE_COLS];
        const uint16_t *in = (const uint16_t *)job->op->in + (size_t)(first + t) * job->cols;
        rows[t] = _mm512_setzero_si512();
        if (t < tokens)
            rows[t] = _mm512_loadu_si512(block_of(in, job->order[plane], b, count, lined_up));
    }
    transpose_16x16(rows, (char *)(width < TILE_TOKENS ? tile : out), ROW_BYTES);
    for (uint32_t p = 0; width < TILE_TOKENS && p < TILE_ROWS; p++)
        memcpy(out + p * width * 2, tile + p * TILE_TOKENS * 2, width * sizeof(uint32_t));
}

/* Where the B tile of block b of tokens 16 i .. of a chunk lies. */
static uint16_t *pairs_at(const linear_job *job, uint32_t plane, uint32_t i, uint32_t b) {
    uint32_t width = tile_tokens(job->op->token_count);
    size_t tiles_of_plane = cpu_input_bytes(job->dev) / (TILE * sizeof(uint16_t)) * job->blocks;
    size_t tile = plane * tiles_of_plane + (size_t)i * job->blocks + b;
    return (uint16_t *)job->dev->inputs + tile * TILE_COLS * width;
}

/* This worker's share of the tokens base .. base + tokens. */
static void pair_tokens(const linear_job *job, uint32_t base, uint32_t tokens, uint32_t worker,
                        uint32_t workers) {
    uint32_t tiles = (tokens + TILE_TOKENS - 1) / TILE_TOKENS, begin, end;
    pool_share(tiles * job->blocks, 1, worker, workers, &begin, &end);
    for (uint32_t plane = 0; plane < job->planes; plane++)
        for (uint32_t item = begin; item < end; item++) {
            uint32_t first = item / job->blocks * TILE_TOKENS, b = item % job->blocks;
            uint32_t left = tokens - first;
            pair_block(job, plane, base + first, left < TILE_TOKENS ? left : TILE_TOKENS, b,
                       pairs_at(job, plane, first / TILE_TOKENS, b));
        }
}

/* --- weights to A tiles ------------------------------------------------------------------- */

typedef void scales_fn(const uint8_t *scales, uint32_t b, uint32_t count, amx_scales *out);
typedef void unpack_fn(const uint8_t *codes, const amx_scales *scales, uint16_t *out);

#define FORMAT_OF(dtype)                                                                           \
    static void scales_##dtype(const uint8_t *scales, uint32_t b, uint32_t count,                  \
                               amx_scales *out) {                                                  \
        for (uint32_t i = 0; i < count; i++)                                                       \
            amx_scales_of(dtype, scales, b + i, out + i);                                          \
    }                                                                                              \
    static void unpack_##dtype(const uint8_t *codes, const amx_scales *scales, uint16_t *out) {    \
        amx_unpack(dtype, codes, scales, out);                                                     \
    }
#define FOR_EACH_UNPACKED(of)                                                                      \
    of(DT_F32) of(DT_F16) of(DT_Q8_0) of(DT_Q4_0) of(DT_Q4_1) of(DT_Q5_0) of(DT_Q5_1)              \
        of(DT_IQ4_NL) of(DT_Q2_K) of(DT_Q3_K) of(DT_Q4_K) of(DT_Q5_K) of(DT_Q6_K) of(DT_IQ4_XS)    \
            of(DT_G2) of(DT_G3) of(DT_G4) of(DT_G8) of(DT_F8_E4M3)
FOR_EACH_UNPACKED(FORMAT_OF)
#define SCALES_ROW(dtype) [dtype] = scales_##dtype,
#define UNPACK_ROW(dtype) [dtype] = unpack_##dtype,
static scales_fn *const scales_of[DT_COUNT] = {FOR_EACH_UNPACKED(SCALES_ROW)};
static unpack_fn *const unpack_of[DT_COUNT] = {FOR_EACH_UNPACKED(UNPACK_ROW)}; /* BF16: NULL */

/* One weight tile on its way. */
typedef struct source {
    const uint8_t *codes, *scales;
    size_t code_bytes; /* of a block */
    size_t tile_bytes; /* codes of a tile, all its blocks */
    scales_fn *read_scales;
    unpack_fn *unpack; /* NULL: blocks are A tiles as they are */
} source;

static source source_of(const linear_job *job, const strip *s, uint32_t i) {
    const kern_matrix *matrix = job->op->matrix[s->matrix[i]];
    return (source){.codes = matrix->codes + s->tile[i] * matrix->code_bytes,
                    .scales = matrix->scales + s->tile[i] * matrix->scale_bytes,
                    .code_bytes = cpu_formats[matrix->dtype].code_bytes,
                    .tile_bytes = matrix->code_bytes,
                    .read_scales = scales_of[matrix->dtype],
                    .unpack = unpack_of[matrix->dtype]};
}

/* --- few tokens --------------------------------------------------------------------------- */

/* C 0..3; one B tile: B 4, A 5..7; two: B 4 and 5, A 6 and 7. */
static void configure(uint32_t width) {
    amx_config config = {.palette = 1};
    for (uint32_t tile = 0; tile < 8; tile++) {
        bool narrow = width < TILE_TOKENS && tile < 5;
        config.row_bytes[tile] = (uint16_t)(narrow ? width * sizeof(float) : ROW_BYTES);
        config.rows[tile] = TILE_ROWS;
    }
    amx_configure(&config);
}

/* Up to four tiles whose inputs are one plane, all of K. */
typedef struct few_task {
    source from[FEW_TILES];
    uint32_t blocks, width;
    const uint16_t *b[2]; /* B tiles of all blocks, for each 16 tokens */
    amx_scratch *scratch;
} few_task;

ALWAYS_INLINE void load_inputs(const few_task *task, uint32_t wide, uint32_t block) {
    size_t at = (size_t)block * TILE_COLS * task->width;
    AMX_LOAD(4, task->b[0] + at, task->width * sizeof(uint32_t));
    if (wide == 2) AMX_LOAD(5, task->b[1] + at, ROW_BYTES);
}

/* i, wide are constants. */
ALWAYS_INLINE void multiply_few(uint32_t i, uint32_t wide, const uint16_t *a) {
#define ONE(c, reg)                                                                                \
    do {                                                                                           \
        AMX_LOAD(reg, a, ROW_BYTES);                                                               \
        AMX_MULTIPLY(c, reg, 4);                                                                   \
    } while (0)
#define TWO(c, d, reg)                                                                             \
    do {                                                                                           \
        ONE(c, reg);                                                                               \
        AMX_MULTIPLY(d, reg, 5);                                                                   \
    } while (0)
    if (wide == 2 && i == 0) TWO(0, 1, 6);
    if (wide == 2 && i == 1) TWO(2, 3, 7);
    if (wide == 1 && i == 0) ONE(0, 5);
    if (wide == 1 && i == 1) ONE(1, 6);
    if (wide == 1 && i == 2) ONE(2, 7);
    if (wide == 1 && i == 3) ONE(3, 5);
#undef ONE
#undef TWO
}

/* The lines that this tile's turn comes to CODES_AHEAD blocks later; behind the tile's end the tile that
 * follows four further on is next. */
ALWAYS_INLINE void prefetch_codes(const source *from, uint32_t tiles, uint32_t blocks,
                                  uint32_t block) {
    const char *at = (const char *)from->codes + (block + CODES_AHEAD) * from->code_bytes;
    if (block + CODES_AHEAD >= blocks) at += (tiles - 1) * from->tile_bytes;
    for (size_t line = 0; line < from->code_bytes; line += CACHE_LINE_BYTES)
        _mm_prefetch(at + line, _MM_HINT_T0);
}

/* Where block `block` of a tile is an A tile. */
ALWAYS_INLINE const uint16_t *a_tile(const few_task *task, uint32_t i, uint32_t block) {
    const source *from = &task->from[i];
    if (from->unpack) return task->scratch->ring[block % 2][i];
    return (const uint16_t *)(const void *)(from->codes + block * from->code_bytes);
}

/* count, wide are constants. Unpacks block by block, and multiplies the block before meanwhile. */
ALWAYS_INLINE void run_few(uint32_t count, uint32_t wide, const few_task *task) {
    amx_scratch *scratch = task->scratch;
    AMX_ZERO(0);
    AMX_ZERO(1);
    AMX_ZERO(2);
    AMX_ZERO(3);
    for (uint32_t block = 0; block < task->blocks; block++) {
        uint32_t left = task->blocks - block, at = block % PANEL;
        for (uint32_t i = 0; at == 0 && i < count; i++)
            if (task->from[i].read_scales)
                task->from[i].read_scales(task->from[i].scales, block, left < PANEL ? left : PANEL,
                                          scratch->scales[i]);
        if (block) load_inputs(task, wide, block - 1);
        UNROLL for (uint32_t i = 0; i < count; i++) {
            const source *from = &task->from[i];
            prefetch_codes(from, count, task->blocks, block);
            if (from->unpack)
                from->unpack(from->codes + block * from->code_bytes, &scratch->scales[i][at],
                             scratch->ring[block % 2][i]);
            if (block) multiply_few(i, wide, a_tile(task, i, block - 1));
        }
    }
    load_inputs(task, wide, task->blocks - 1);
    UNROLL for (uint32_t i = 0; i < count; i++)
        multiply_few(i, wide, a_tile(task, i, task->blocks - 1));
}

static void multiply_few_tiles(uint32_t count, uint32_t wide, const few_task *task) {
    if (wide == 2)
        (count == 2) ? run_few(2, 2, task) : run_few(1, 2, task);
    else if (count == 1)
        run_few(1, 1, task);
    else if (count == 2)
        run_few(2, 1, task);
    else if (count == 3)
        run_few(3, 1, task);
    else
        run_few(4, 1, task);
}

/* A C tile to rows[token][first .. first + 16]. */
static void turn(const float *c, float *rows, size_t stride) {
    __m512i in[16];
    for (int i = 0; i < 16; i++)
        in[i] = _mm512_loadu_si512(c + i * TILE_TOKENS);
    transpose_16x16(in, (char *)rows, stride * sizeof(float));
}

static void store_few(amx_scratch *scratch, uint32_t first, uint32_t count, uint32_t wide,
                      uint32_t width) {
    float *out = scratch->rows[0] + first * TILE_ROWS;
    if (width == 1) {
        AMX_STORE(0, out, sizeof(float));
        if (count > 1) AMX_STORE(1, out + TILE_ROWS, sizeof(float));
        if (count > 2) AMX_STORE(2, out + 2 * TILE_ROWS, sizeof(float));
        if (count > 3) AMX_STORE(3, out + 3 * TILE_ROWS, sizeof(float));
        return;
    }
    float(*c)[C_TILE] = scratch->sums[0][0];
    AMX_STORE(0, c[0], ROW_BYTES);
    AMX_STORE(1, c[1], ROW_BYTES);
    AMX_STORE(2, c[2], ROW_BYTES);
    AMX_STORE(3, c[3], ROW_BYTES);
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t w = 0; w < wide; w++)
            turn(c[i * wide + w], out + i * TILE_ROWS + w * TILE_TOKENS * STRIP_ROWS, STRIP_ROWS);
}

/* Tiles from `first` on that share a plane. */
static uint32_t alike(const linear_job *job, const strip *s, uint32_t first) {
    uint32_t end = first + 1;
    while (end < s->count && plane_of(job, s, end) == plane_of(job, s, first))
        end++;
    return end - first;
}

static void multiply_few_strip(const linear_job *job, const strip *s, amx_scratch *scratch) {
    uint32_t tokens = job->op->token_count, wide = tokens > TILE_TOKENS ? 2 : 1;
    for (uint32_t first = 0, count; first < s->count; first += count) {
        count = alike(job, s, first);
        uint32_t plane = plane_of(job, s, first);
        few_task task = {.blocks = job->blocks, .width = tile_tokens(tokens), .scratch = scratch};
        for (uint32_t w = 0; w < wide; w++)
            task.b[w] = in_place(job) ? job->op->in : pairs_at(job, plane, w, 0);
        for (uint32_t i = 0; i < count; i++)
            task.from[i] = source_of(job, s, first + i);
        multiply_few_tiles(count, wide, &task);
        store_few(scratch, first, count, wide, task.width);
    }
}

static void few_tokens(void *arg, uint32_t worker, uint32_t workers) {
    const linear_job *job = arg;
    amx_scratch *scratch =
        (amx_scratch *)(void *)(job->dev->level_scratch + worker * sizeof(amx_scratch));
    uint32_t tokens = job->op->token_count, begin, end;
    uint32_t tiles = tokens > TILE_TOKENS ? PAIR : FEW_TILES;
    pool_share(job->units, 1, worker, workers, &begin, &end);
    if (!in_place(job)) {
        pair_tokens(job, 0, tokens, worker, workers);
        pool_barrier(job->dev->pool, worker);
    }
    configure(tile_tokens(tokens));
    for (uint32_t unit = begin; unit < end; unit += tiles / job->unit_tiles) {
        strip s = strip_at(job, unit, end, tiles);
        multiply_few_strip(job, &s, scratch);
        finish(job, &s, 0, tokens, scratch->rows[0], STRIP_ROWS);
    }
    amx_release();
}

/* --- many tokens -------------------------------------------------------------------------- */

/* Some blocks of one or two tiles, and the tokens of one or two B tiles. */
typedef struct pair_task {
    const uint16_t *a[PAIR], *b[2];
    uint32_t blocks;
    bool begin;            /* sums begin at 0 */
    float (*sums)[C_TILE]; /* [B tile * PAIR + tile] */
} pair_task;

#define BEGIN_SUM(c, at)                                                                           \
    do {                                                                                           \
        if (task->begin)                                                                           \
            AMX_ZERO(c);                                                                           \
        else                                                                                       \
            AMX_LOAD(c, task->sums[at], ROW_BYTES);                                                \
    } while (0)

/* count (tiles), wide (B tiles) are constants. */
ALWAYS_INLINE void run_pair(uint32_t count, uint32_t wide, const pair_task *task) {
    BEGIN_SUM(0, 0);
    if (count == 2) BEGIN_SUM(1, 1);
    if (wide == 2) BEGIN_SUM(2, 2);
    if (wide == 2 && count == 2) BEGIN_SUM(3, 3);
    for (uint32_t at = 0; at < task->blocks * TILE; at += TILE) {
        AMX_LOAD(4, task->b[0] + at, ROW_BYTES);
        AMX_LOAD(6, task->a[0] + at, ROW_BYTES);
        AMX_MULTIPLY(0, 6, 4);
        if (count == 2) {
            AMX_LOAD(7, task->a[1] + at, ROW_BYTES);
            AMX_MULTIPLY(1, 7, 4);
        }
        if (wide == 2) {
            AMX_LOAD(5, task->b[1] + at, ROW_BYTES);
            AMX_MULTIPLY(2, 6, 5);
        }
        if (wide == 2 && count == 2) AMX_MULTIPLY(3, 7, 5);
    }
    AMX_STORE(0, task->sums[0], ROW_BYTES);
    if (count == 2) AMX_STORE(1, task->sums[1], ROW_BYTES);
    if (wide == 2) AMX_STORE(2, task->sums[2], ROW_BYTES);
    if (wide == 2 && count == 2) AMX_STORE(3, task->sums[3], ROW_BYTES);
}

static void multiply_pair(uint32_t count, uint32_t wide, const pair_task *task) {
    if (count == 2 && wide == 2)
        run_pair(2, 2, task);
    else if (count == 2)
        run_pair(2, 1, task);
    else if (wide == 2)
        run_pair(1, 2, task);
    else
        run_pair(1, 1, task);
}

/* What the strips of a chunk share. */
typedef struct chunk_task {
    const linear_job *job;
    amx_scratch *scratch;
    uint32_t base, tokens, tiles; /* of the chunk; B tiles */
} chunk_task;

/* Blocks of a tile as A tiles: where they lie, unpacked first unless they are. */
static const uint16_t *unpack_panel(const chunk_task *task, const strip *s, uint32_t i,
                                    uint32_t block, uint32_t count) {
    source from = source_of(task->job, s, i);
    const uint8_t *codes = from.codes + block * from.code_bytes;
    if (!from.unpack) return (const uint16_t *)(const void *)codes;
    amx_scratch *scratch = task->scratch;
    from.read_scales(from.scales, block, count, scratch->scales[i]);
    for (uint32_t b = 0; b < count; b++, codes += from.code_bytes) {
        for (size_t line = 0; line < from.code_bytes; line += CACHE_LINE_BYTES)
            _mm_prefetch((const char *)codes + line + 4096, _MM_HINT_T0);
        from.unpack(codes, &scratch->scales[i][b], scratch->panel[i][b]);
    }
    return scratch->panel[i][0];
}

/* Blocks block .. block + count of a strip's tiles, all tokens of the chunk. */
static void multiply_panel(const chunk_task *task, const strip *s, uint32_t block, uint32_t count,
                           float (*sums)[PAIR][C_TILE]) {
    const uint16_t *a[PAIR];
    for (uint32_t i = 0; i < s->count; i++)
        a[i] = unpack_panel(task, s, i, block, count);
    for (uint32_t first = 0, tiles; first < s->count; first += tiles) {
        tiles = alike(task->job, s, first);
        uint32_t plane = plane_of(task->job, s, first);
        for (uint32_t t = 0; t < task->tiles; t += 2) {
            uint32_t wide = task->tiles - t < 2 ? 1 : 2;
            pair_task pair = {.a = {a[first], a[tiles - 1]},
                              .b = {pairs_at(task->job, plane, t, block),
                                    pairs_at(task->job, plane, t + wide - 1, block)},
                              .blocks = count,
                              .begin = block == 0,
                              .sums = sums[t] + first};
            multiply_pair(tiles, wide, &pair);
        }
    }
}

static void finish_strip(const chunk_task *task, const strip *s, float (*sums)[PAIR][C_TILE]) {
    float *rows = task->scratch->rows[0];
    for (uint32_t t = 0; t < task->tiles; t++) {
        uint32_t first = t * TILE_TOKENS, left = task->tokens - first;
        for (uint32_t i = 0; i < s->count; i++)
            turn(sums[t][i], rows + i * TILE_ROWS, PAIR * TILE_ROWS);
        finish(task->job, s, task->base + first, left < TILE_TOKENS ? left : TILE_TOKENS, rows,
               PAIR * TILE_ROWS);
    }
}

/* All of K for some pairs of tiles: each panel of the inputs stays in the cache for all of them. */
static void multiply_group(const chunk_task *task, const strip *strips, uint32_t count) {
    amx_scratch *scratch = task->scratch;
    uint32_t blocks = task->job->blocks;
    for (uint32_t block = 0; block < blocks; block += PANEL)
        for (uint32_t i = 0; i < count; i++)
            multiply_panel(task, &strips[i], block, blocks - block < PANEL ? blocks - block : PANEL,
                           scratch->sums[i]);
    for (uint32_t i = 0; i < count; i++)
        finish_strip(task, &strips[i], scratch->sums[i]);
}

static void multiply_chunk(const chunk_task *task, uint32_t begin, uint32_t end) {
    const linear_job *job = task->job;
    uint32_t group = job->blocks <= PANEL ? 1 : GROUP, step = PAIR / job->unit_tiles;
    for (uint32_t unit = begin; unit < end;) {
        strip strips[GROUP];
        uint32_t count = 0;
        for (; count < group && unit < end; unit += step)
            strips[count++] = strip_at(job, unit, end, PAIR);
        multiply_group(task, strips, count);
    }
}

static void many_tokens(void *arg, uint32_t worker, uint32_t workers) {
    const linear_job *job = arg;
    chunk_task task = {
        .job = job,
        .scratch = (amx_scratch *)(void *)(job->dev->level_scratch + worker * sizeof(amx_scratch))};
    uint32_t total = job->op->token_count, begin, end;
    uint32_t room = (uint32_t)(cpu_input_bytes(job->dev) / (TILE_COLS * sizeof(uint16_t)));
    pool_share(job->units, 1, worker, workers, &begin, &end);
    configure(TILE_TOKENS);
    for (; task.base < total; task.base += task.tokens) {
        uint32_t left = total - task.base;
        task.tokens = left < room ? left : room;
        task.tiles = (task.tokens + TILE_TOKENS - 1) / TILE_TOKENS;
        pair_tokens(job, task.base, task.tokens, worker, workers);
        pool_barrier(job->dev->pool, worker);
        multiply_chunk(&task, begin, end);
        pool_barrier(job->dev->pool, worker); /* before the inputs are overwritten */
    }
    amx_release();
}

/* --- the op ------------------------------------------------------------------------------- */

void level_linear_amx(kern_device *dev, const kern_linear *op) {
    linear_job job = job_of(dev, op);
    pool_run(dev->pool, op->token_count > FEW_TOKENS ? many_tokens : few_tokens, &job);
}
