/* cpu.h - what the files of the CPU backend share: device, packed matrix, level table.
 *
 * Arithmetic  weights are taken exactly from their blocks, activations (KIND_ACT) are bf16, all
 *             else is float32. One output of a linear is, over blocks of 32 inputs in order,
 *                 p   = fma(q[k], x[k], p)     k = 0..31 from p = 0; q: the integer code as a float
 *                 acc = fma(d, p, acc)         d: the block's scale; unquantised: acc + p
 *                 acc = fma(m, sum of x, acc)  formats with an offset m
 *             whatever the batch, the tile shape or the thread count (Law 1). The sum of x over a
 *             block folds its halves: 32 -> 16 -> 8 -> 4 -> 2 -> 1.
 *
 * Packing     A matrix is cut into tiles of 16 rows and blocks of 32 columns, both padded with
 *             zeros. The codes of a tile lie block after block, the scales in a second array:
 *   Q4_0, Q4_1  4 lines of 64 bytes a block; dword r of a line holds the codes of row r for 8
 *               columns, the first in the low nibble: one load and a shift give 16 rows
 *   Q8_0        int8 [32 columns][16 rows]
 *   F16, BF16   u16 [32][16]
 *   F32         f32 [32][16]
 *   scales      f16 d[16] a block, followed by f16 m[16] for Q4_1; none when unquantised
 *
 * Pages       the block of one (layer, k or v, kv head): k is [D][16 slots] so that 16 keys are one
 *             vector, v is [16 slots][D]; D is rounded up to 16. bf16 or f32. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CPU_H
#define ESPALIER_CPU_H

#include "engine/base/pool.h"
#include "kernels/kernels.h"

enum {
    TILE_ROWS = 16,
    TILE_COLS = 32,
    STRIP_TILES = 4,   /* tiles that a worker computes side by side */
    CHUNK_TOKENS = 96, /* tokens expanded to float32 at a time */
    CPU_HEAD_DIM_MAX = 512,
    QUERIES_MAX = 48, /* of one attention work item */
    CACHE_LINE_BYTES = 64,
    SCALE_ROW_BYTES = TILE_ROWS * 2, /* one f16 for each row of a tile */
};

/* What differs between formats once packed. */
typedef struct cpu_format {
    uint32_t code_bytes;  /* of a tile's block */
    uint32_t scale_bytes; /* of a tile's block */
} cpu_format;

/* Defined here, so that a kernel made for one format has its sizes as constants. */
static const cpu_format cpu_formats[DT_COUNT] = {
    [DT_F32] = {.code_bytes = TILE_COLS * TILE_ROWS * 4},
    [DT_F16] = {.code_bytes = TILE_COLS * TILE_ROWS * 2},
    [DT_BF16] = {.code_bytes = TILE_COLS * TILE_ROWS * 2},
    [DT_Q8_0] = {.code_bytes = TILE_COLS * TILE_ROWS, .scale_bytes = SCALE_ROW_BYTES},
    [DT_Q4_0] = {.code_bytes = TILE_COLS * TILE_ROWS / 2, .scale_bytes = SCALE_ROW_BYTES},
    [DT_Q4_1] = {.code_bytes = TILE_COLS * TILE_ROWS / 2, .scale_bytes = 2 * SCALE_ROW_BYTES},
};

struct kern_matrix {
    esp_dtype dtype;
    uint32_t rows, cols;
    uint32_t tiles, blocks; /* of 16 rows; of 32 columns */
    size_t code_bytes;      /* of one tile: blocks * format's */
    size_t scale_bytes;
    uint8_t *codes;   /* [tiles][blocks][...], 64-byte aligned */
    uint8_t *scales;  /* [tiles][blocks][...], 64-byte aligned */
    size_t map_bytes; /* one mapping holds both */
};

/* One worker's own memory. */
typedef struct cpu_scratch {
    _Alignas(CACHE_LINE_BYTES) float sums[CHUNK_TOKENS][STRIP_TILES * TILE_ROWS];
    _Alignas(CACHE_LINE_BYTES) float weights[STRIP_TILES][TILE_COLS][TILE_ROWS];
    /* Attention, rows packed at the head's own width: a page as float32; the queries' outputs. */
    _Alignas(CACHE_LINE_BYTES) float keys[CPU_HEAD_DIM_MAX * KV_PAGE_TOKENS];
    _Alignas(CACHE_LINE_BYTES) float values[KV_PAGE_TOKENS * CPU_HEAD_DIM_MAX];
    _Alignas(CACHE_LINE_BYTES) float outs[QUERIES_MAX * CPU_HEAD_DIM_MAX];
} cpu_scratch;

/* The ops of one instruction level: every file of level/ is compiled once for each. */
typedef struct cpu_level {
    const char *name;
    void (*norm)(kern_device *dev, const kern_norm *op);
    void (*linear)(kern_device *dev, const kern_linear *op);
    void (*rope_store)(kern_device *dev, const kern_rope_store *op);
    void (*attention)(kern_device *dev, const kern_attention *op);
} cpu_level;

extern const cpu_level cpu_level_avx2;
extern const cpu_level cpu_level_avx512;

struct kern_device {
    thread_pool *pool;
    const cpu_level *level;
    esp_dtype kv_dtype;
    uint32_t tokens_max;
    char profile[64];
    cpu_scratch *scratch; /* [threads] */
    uint32_t blocks_max;  /* of the widest matrix packed so far */
    float *inputs;        /* [blocks_max][CHUNK_TOKENS][32]: activations as float32 */
    float *input_sums;    /* [blocks_max][CHUNK_TOKENS]: their sum over each block */
};

static inline uint32_t cpu_round_up(uint32_t value, uint32_t unit) {
    return (value + unit - 1) / unit * unit;
}

static inline size_t cpu_kv_element_bytes(const kern_device *dev) {
    return dev->kv_dtype == DT_BF16 ? sizeof(uint16_t) : sizeof(float);
}

/* First byte of the block of one (frame, layer, k or v, kv head). */
static inline void *cpu_kv_block(const kern_device *dev, const kern_kv_layer *kv, uint32_t frame,
                                 uint32_t is_v, uint32_t head) {
    const kern_kv_shape *shape = kv->shape;
    size_t elements = (size_t)KV_PAGE_TOKENS * cpu_round_up(shape->head_dim, TILE_ROWS);
    size_t block = ((size_t)kv->layer * 2 + is_v) * shape->kv_heads + head;
    return (char *)kv->arena + frame * kv->frame_bytes +
           block * elements * cpu_kv_element_bytes(dev);
}

/* The frames of a sequence, in position order. */
static inline const uint32_t *cpu_block_table(const step_batch *batch, const kern_kv_layer *kv,
                                              uint32_t seq) {
    return batch->tables + ((size_t)kv->group * batch->seq_count + seq) * batch->table_stride;
}

esp_code cpu_pack(kern_device *dev, const kern_matrix_desc *desc, kern_matrix **out,
                  esp_error *err) ESP_CHECKED;
void cpu_matrix_close(kern_device *dev, kern_matrix *matrix);
size_t cpu_matrix_bytes(const kern_matrix *matrix);
void cpu_embed(kern_device *dev, const kern_embed *op);

#endif
