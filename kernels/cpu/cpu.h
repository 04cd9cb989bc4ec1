/* cpu.h - what the files of the CPU backend share: device, packed matrix, level table.
 *
 * Arithmetic  weights are taken exactly from their blocks, activations (KIND_ACT) are bf16,
 *             everything else float32. One output of a linear whose codes are whole numbers is integer/integer.h's,
 *             with others, over runs of 32 inputs in order,
 *               p   = fma(w[k], x[k], p)   k in order from p = 0
 *               acc = fma(scale, p, acc)   unquantised: acc + p
 *             whatever the batch, the tile shape or the thread count (Law 1). The AMX level has neither: it
 *             rounds each weight, scaled, to bf16 and adds up
 *             products in an order of its own, in amx/linear_amx.c; and it rounds attention's weights
 *             to bf16, in amx/attend_span.c. Its output matrix in Q8_0 has exact weights: amx/output_amx.h.
 *
 * Packing     (cpu_layout: a new name when this changes) A matrix is cut into tiles of 16 rows and blocks of 32 columns, both padded with
 *             zeros. The codes of a tile lie block after block, the scales in a second array.
 *             A block of codes of n bits is n lines of 64 bytes: 4 lines of nibbles for codes of 4 bits; the same of
 *             the low four, then 1, 2 lines of the high bits, for 5, 6; 2 lines of pairs, then 0, 1 lines of the high
 *             bit, for 2, 3. How they lie there is the matrix's form:
 *   columns     codes that are no whole numbers, but at the AMX level: [32 columns][16 rows] of F32, F16, BF16, F8
 *   words       whole numbers, likewise, for bf16 activations: dword r of a line holds 32/n columns of row r, column
 *               2*s + i at bit 16*i + n*s, so that a line shifted and masked is 2 columns in words of 16 bits a row
 *   bytes       whole numbers at every level for int8 activations, and at the AMX level an output matrix in Q8_0:
 *               column 4*s + i at bit 8*i + n*s, so that it is 4 columns in bytes
 *   rows        for AMX, whose tiles take 32 columns of a row at once; STRIP_TILES tiles are padded and interleaved:
 *               [strips][blocks][4 tiles]. Word c of a line holds n bits each of column c of 16/n rows, the first row
 *               lowest; whole elements [16 rows][32 columns]
 *             And in all:
 *   scales      none when unquantised
 *               files' blocks of 32: f16 d[16] a block, followed by f16 m[16] where there is one
 *               DT_G2 to DT_G8: f32 scale[16], f16 zero[16] a block; DT_F8_E4M3: f32 scale[16]
 *               files' blocks of 256: for 8 blocks a head, f16 d[16] and f16 m[16] where there is
 *               one, then for each of the 8
 *                 Q4_K, Q5_K  u8 scale[16], u8 minimum[16]
 *                 IQ4_XS      int8 scale[16]
 *                 Q3_K, Q6_K  int8 scale[2 halves of 16 columns][16]
 *                 Q2_K        u8 [2 halves][16]: scale in the low four bits, minimum in the high
 *
 * Pages       the block of one (layer, k or v, kv head): k is [D][16 slots] so that 16 keys are one
 *             vector, v is [16 slots][D]; D is rounded up to 16. bf16 or f32.
 *             The AMX level has bf16 ones the other way round, as its tiles want them: k is
 *             [16 slots][D], D rounded up to 32 with zeros, v is [D][16 slots], D rounded up to 16.
 *             What opens a page clears its v: slots behind the newest token hold zeros there. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CPU_H
#define ESPALIER_CPU_H

#include "engine/base/pool.h"
#include "kernels/kernels.h"

enum {
    TILE_ROWS = 16,
    TILE_COLS = 32,
    STRIP_TILES = 4,               /* tiles that a worker computes side by side */
    STRIP_MAX = 2 * STRIP_TILES,   /* of a gated linear on AMX: as many of gate and of up */
    CHUNK_TOKENS = 96,             /* tokens expanded to float32 at a time */
    AMX_CHUNK = 512,               /* tokens paired for tiles at a time */
    INT8_CHUNK = 2 * CHUNK_TOKENS, /* at most, tokens turned to codes of 8 bits at a time */
    CPU_HEAD_DIM_MAX = 512,
    QUERIES_MAX = 48,     /* of one attention work item */
    AMX_QUERIES = 16,     /* of one attention tile */
    AMX_QUERY_TILES = 16, /* of one attention work item of the AMX level, at most */
    AMX_SPAN_PAGES = 4,
    AMX_SPAN_KEYS = AMX_SPAN_PAGES * KV_PAGE_TOKENS,
    AMX_BLOCK_SPANS = 8, /* whose values are packed together */
    AMX_BLOCKS = 3,
    CACHE_LINE_BYTES = 64,
    SCALE_ROW_BYTES = TILE_ROWS * 2, /* one f16 for each row of a tile */
    FLOAT_ROW_BYTES = TILE_ROWS * 4, /* one f32 */
    GROUP_SCALE_BYTES = FLOAT_ROW_BYTES + SCALE_ROW_BYTES,
    LINE_BYTES = TILE_ROWS * 4, /* one dword for each row of a tile */
    SUPER_BLOCKS = 8,           /* blocks that share a head of scales */
};

/* How many columns share a scale, and whether there is an offset as well. */
typedef enum cpu_scaling {
    SCALE_NONE,
    SCALE_32,
    SCALE_32_OFFSET,
    SCALE_32_ZERO, /* the zero point, times -1, is called offset as well */
    SCALE_16,
    SCALE_16_OFFSET,
} cpu_scaling;

/* How the codes of a block lie: "packing" above. */
typedef enum cpu_form { FORM_COLUMNS, FORM_WORDS, FORM_BYTES, FORM_ROWS } cpu_form;

/* What differs between formats once packed. */
typedef struct cpu_format {
    uint32_t code_bytes;          /* of a tile's block */
    uint32_t scale_bytes;         /* of a tile's block, without the head */
    uint32_t head_bytes;          /* of SUPER_BLOCKS blocks of a tile */
    uint32_t low_bits, high_bits; /* of a code; 0 where elements are whole */
    cpu_scaling scaling;
} cpu_format;

#define CODED(low, high) .low_bits = low, .high_bits = high, .code_bytes = (low + high) * LINE_BYTES

/* Here and not behind a pointer, so that a kernel made for one format has its sizes as constants.
 */
static const cpu_format cpu_formats[DT_COUNT] = {
    [DT_F32] = {.code_bytes = TILE_COLS * TILE_ROWS * 4},
    [DT_F16] = {.code_bytes = TILE_COLS * TILE_ROWS * 2},
    [DT_BF16] = {.code_bytes = TILE_COLS * TILE_ROWS * 2},
    [DT_Q8_0] = {TILE_COLS * TILE_ROWS, SCALE_ROW_BYTES, .scaling = SCALE_32},
    [DT_Q4_0] = {CODED(4, 0), .scale_bytes = SCALE_ROW_BYTES, .scaling = SCALE_32},
    [DT_Q4_1] = {CODED(4, 0), .scale_bytes = 2 * SCALE_ROW_BYTES, .scaling = SCALE_32_OFFSET},
    [DT_Q5_0] = {CODED(4, 1), .scale_bytes = SCALE_ROW_BYTES, .scaling = SCALE_32},
    [DT_Q5_1] = {CODED(4, 1), .scale_bytes = 2 * SCALE_ROW_BYTES, .scaling = SCALE_32_OFFSET},
    [DT_IQ4_NL] = {CODED(4, 0), .scale_bytes = SCALE_ROW_BYTES, .scaling = SCALE_32},
    [DT_Q2_K] = {CODED(2, 0), .scale_bytes = 2 * TILE_ROWS, .head_bytes = 2 * SCALE_ROW_BYTES,
                 .scaling = SCALE_16_OFFSET},
    [DT_Q3_K] = {CODED(2, 1), .scale_bytes = 2 * TILE_ROWS, .head_bytes = SCALE_ROW_BYTES,
                 .scaling = SCALE_16},
    [DT_Q4_K] = {CODED(4, 0), .scale_bytes = 2 * TILE_ROWS, .head_bytes = 2 * SCALE_ROW_BYTES,
                 .scaling = SCALE_32_OFFSET},
    [DT_Q5_K] = {CODED(4, 1), .scale_bytes = 2 * TILE_ROWS, .head_bytes = 2 * SCALE_ROW_BYTES,
                 .scaling = SCALE_32_OFFSET},
    [DT_Q6_K] = {CODED(4, 2), .scale_bytes = 2 * TILE_ROWS, .head_bytes = SCALE_ROW_BYTES,
                 .scaling = SCALE_16},
    [DT_IQ4_XS] = {CODED(4, 0), .scale_bytes = TILE_ROWS, .head_bytes = SCALE_ROW_BYTES,
                   .scaling = SCALE_32},
    [DT_G2] = {CODED(2, 0), .scale_bytes = GROUP_SCALE_BYTES, .scaling = SCALE_32_ZERO},
    [DT_G3] = {CODED(2, 1), .scale_bytes = GROUP_SCALE_BYTES, .scaling = SCALE_32_ZERO},
    [DT_G4] = {CODED(4, 0), .scale_bytes = GROUP_SCALE_BYTES, .scaling = SCALE_32_ZERO},
    [DT_G8] = {TILE_COLS * TILE_ROWS, GROUP_SCALE_BYTES, .scaling = SCALE_32_ZERO},
    [DT_F8_E4M3] = {TILE_COLS * TILE_ROWS, FLOAT_ROW_BYTES, .scaling = SCALE_32},
};

#undef CODED

/* Where the f16 d and m of block b, and its other scales, begin in the scales of a tile. */
static inline size_t cpu_halves_at(const cpu_format *format, uint32_t b) {
    if (format->head_bytes == 0) return (size_t)b * format->scale_bytes;
    return (size_t)(b / SUPER_BLOCKS) * (format->head_bytes + SUPER_BLOCKS * format->scale_bytes);
}
static inline size_t cpu_scales_at(const cpu_format *format, uint32_t b) {
    return (size_t)(b / SUPER_BLOCKS + 1) * format->head_bytes + (size_t)b * format->scale_bytes;
}

/* Column c of a matrix meets input inputs[c]. One for all matrices that have it. */
typedef struct cpu_order {
    struct cpu_order *next;
    uint32_t users; /* matrices */
    uint32_t cols;
    uint32_t inputs[];
} cpu_order;

/* Memory that matrices share (weight_room.c). */
typedef struct cpu_room cpu_room;

struct kern_matrix {
    esp_dtype dtype;
    uint32_t rows, cols;
    uint32_t tiles, blocks; /* of 16 rows; of 32 columns */
    cpu_form form;
    size_t code_bytes;      /* of one tile, all its blocks; they lie cpu_block_step apart */
    size_t scale_bytes;     /* likewise */
    uint8_t *codes;         /* [tiles][blocks][...], 64-byte aligned */
    uint8_t *scales;        /* [tiles][...], 64-byte aligned */
    size_t map_bytes;       /* of both, side by side */
    bool borrowed;          /* they are another's, and read-only */
    bool output;            /* bytes for amx/output_amx.h */
    cpu_order *order;       /* NULL: inputs in their own order */
};

/* Attention of the AMX level, rows packed at the head's own width. */
typedef struct amx_attention {
    _Alignas(CACHE_LINE_BYTES) float scores[2][AMX_SPAN_KEYS * AMX_QUERIES];
    _Alignas(CACHE_LINE_BYTES) uint16_t weights[2][AMX_SPAN_KEYS * AMX_QUERIES];
    _Alignas(CACHE_LINE_BYTES)
        uint16_t values[AMX_BLOCKS * AMX_BLOCK_SPANS * CPU_HEAD_DIM_MAX * AMX_SPAN_KEYS];
    _Alignas(
        CACHE_LINE_BYTES) uint16_t queries[AMX_QUERY_TILES * 2 * CPU_HEAD_DIM_MAX * AMX_QUERIES];
    _Alignas(CACHE_LINE_BYTES) float outs[AMX_QUERY_TILES * CPU_HEAD_DIM_MAX * AMX_QUERIES];
} amx_attention;

/* One worker's own memory. */
typedef struct cpu_scratch {
    _Alignas(CACHE_LINE_BYTES) float sums[CHUNK_TOKENS][STRIP_TILES * TILE_ROWS];
    _Alignas(CACHE_LINE_BYTES) float weights[STRIP_TILES][TILE_COLS][TILE_ROWS];
    _Alignas(CACHE_LINE_BYTES) uint8_t codes[STRIP_TILES][2 * TILE_COLS * TILE_ROWS];
    _Alignas(CACHE_LINE_BYTES) float scales[STRIP_TILES][2][TILE_ROWS];  /* of each 16 columns, */
    _Alignas(CACHE_LINE_BYTES) float offsets[STRIP_TILES][2][TILE_ROWS]; /* or all in the first */
    /* Attention, rows packed at the head's own width: a page as float32; the queries' outputs. Then what
     * level/attend_many.c has side by side: queries [D][QUERIES_MAX]; scores. */
    _Alignas(CACHE_LINE_BYTES) float keys[CPU_HEAD_DIM_MAX * KV_PAGE_TOKENS];
    _Alignas(CACHE_LINE_BYTES) float values[KV_PAGE_TOKENS * CPU_HEAD_DIM_MAX];
    _Alignas(CACHE_LINE_BYTES) float outs[QUERIES_MAX * CPU_HEAD_DIM_MAX];
    _Alignas(CACHE_LINE_BYTES) float queries[CPU_HEAD_DIM_MAX * QUERIES_MAX];
    _Alignas(CACHE_LINE_BYTES) float scores[KV_PAGE_TOKENS][QUERIES_MAX];
    amx_attention attention;
} cpu_scratch;

/* The low-rank updates of an op (lora_plan.h). */
typedef struct cpu_lora_plan cpu_lora_plan;
struct linear_job;
struct strip;
struct lora_fetch;

/* The ops of one instruction level: every file of level/ is compiled once for each. */
typedef struct cpu_level {
    const char *name;
    bool by_rows;         /* how it wants codes packed */
    size_t scratch_bytes; /* a worker's own memory beyond cpu_scratch */
    void (*norm)(kern_device *dev, const kern_norm *op);
    void (*linear)(kern_device *dev, const kern_linear *op);
    void (*rope_store)(kern_device *dev, const kern_rope_store *op);
    void (*attention)(kern_device *dev, const kern_attention *op);
    /* This worker's share of the op's h; those of all are whole after the next barrier. */
    void (*lora_shrink)(const struct linear_job *job, uint32_t worker, uint32_t workers);
    /* Adds what this worker will read of A for dev->lora_next. */
    void (*lora_fetch_next)(const struct linear_job *job, uint32_t worker, uint32_t workers,
                            struct lora_fetch *fetch);
    /* Updates a strip's sums, of tokens base .. base + tokens: sums[token * stride + tile * 16 + row]. */
    void (*lora_update)(const struct linear_job *job, const struct strip *s, uint32_t base,
                        uint32_t tokens, float *sums, uint32_t stride);
    /* Sums of tiles first .. first + count of a strip, whose codes are no whole numbers, beside others of the op; of
     * `tokens` tokens that are in dev->inputs. NULL: a plain loop does (integer/integer.h). */
    void (*tiles)(const struct linear_job *job, const struct strip *s, uint32_t first,
                  uint32_t count, uint32_t tokens, cpu_scratch *scratch);
} cpu_level;

extern const cpu_level cpu_level_avx2;
extern const cpu_level cpu_level_avx512;
extern const cpu_level cpu_level_amx;

typedef void cpu_linear_fn(kern_device *dev, const kern_linear *op);

/* linear with activations as integers (integer/integer.h), of 8 bits and of 16: at every level and with or
 * without these instructions the same sums; activations of gated ones are the level's. The one named bf16
 * is what the AMX level takes for few tokens. */
cpu_linear_fn linear_int8_avx2, linear_int8_avx2_vnni, linear_int8_avx512, linear_int8_avx512_vnni,
    linear_int8_avx512_bf16, linear_int8_amx;
cpu_linear_fn linear_int16_avx2, linear_int16_avx2_vnni, linear_int16_avx512,
    linear_int16_avx512_vnni;
/* linear of a matrix that is `output`. */
cpu_linear_fn output_linear_amx;

typedef enum cpu_feature { CPU_AVX_VNNI, CPU_AVX512_VNNI, CPU_AMX_INT8 } cpu_feature;
/* Of the processor; whether the system saves the state is kern_cpu_best_level's. */
bool cpu_has(cpu_feature feature);

/* 32 inputs of a token in codes: x = scale * code. A cache line; in 16 bits two. */
typedef struct int8_block {
    int8_t codes[TILE_COLS];
    float scale;
    float sum[3];       /* of all codes; of each half */
    int32_t sum_int[3]; /* the same */
    uint32_t unused;
} int8_block;
typedef struct int16_block {
    int16_t codes[TILE_COLS];
    float scale;
    float sum[4]; /* as above; the fourth is what a vector of them leaves there */
    int32_t sum_int[4];
    uint32_t unused[7];
} int16_block;
_Static_assert(sizeof(int8_block) == CACHE_LINE_BYTES, "one line");
_Static_assert(sizeof(int16_block) == 2 * CACHE_LINE_BYTES, "two");
_Static_assert(INT8_CHUNK * sizeof(int8_block) == CHUNK_TOKENS * sizeof(int16_block), "one room");

struct kern_device {
    thread_pool *pool;
    const cpu_level *level;
    esp_dtype kv_dtype;
    bool tile_pages; /* pages as the AMX level has them */
    uint32_t tokens_max;
    char profile[64];
    cpu_scratch *scratch;  /* [threads] */
    char *level_scratch;   /* [threads][level->scratch_bytes] */
    cpu_order *orders;     /* of the matrices packed so far */
    cpu_room *rooms;       /* of the matrices that are open */
    uint32_t planes;       /* of the next two: 1, or as many as a linear's matrices have orders */
    uint32_t blocks_max;   /* of the widest matrix packed so far */
    void *inputs;          /* [planes][blocks][CHUNK_TOKENS][32] float32: activations; by rows as
                           * amx/pairs_amx.h says */
    /* Activations as codes: int8_block [planes][blocks][INT8_CHUNK], or int16_block [..][CHUNK_TOKENS]. */
    void *quantised;
    cpu_form integer_form; /* of matrices whose codes are whole numbers */
    cpu_linear_fn *
        linear_integer; /* of those in FORM_BYTES or FORM_WORDS that are no `output`; NULL: there are none */
    bool exact_output;          /* an output matrix in Q8_0 is amx/output_amx.h's */
    cpu_lora_plan *lora;        /* of the op that runs */
    cpu_lora_plan *lora_next;   /* of the one that comes next; count 0: not known */
};

static inline uint32_t cpu_round_up(uint32_t value, uint32_t unit) {
    return (value + unit - 1) / unit * unit;
}

/* Its codes are whole numbers, which meet activations as integers. */
static inline bool cpu_is_integer(const kern_matrix *matrix) {
    return matrix->form == FORM_WORDS || matrix->form == FORM_BYTES;
}

static inline size_t cpu_kv_element_bytes(const kern_device *dev) {
    return dev->kv_dtype == DT_BF16 ? sizeof(uint16_t) : sizeof(float);
}

/* Elements that a slot takes in a block of keys, of values. */
static inline uint32_t cpu_key_width(const kern_device *dev, const kern_kv_shape *shape) {
    return cpu_round_up(shape->head_dim, dev->tile_pages ? TILE_COLS : TILE_ROWS);
}
static inline uint32_t cpu_value_width(const kern_kv_shape *shape) {
    return cpu_round_up(shape->head_dim, TILE_ROWS);
}

/* Of one layer of a frame. */
static inline size_t cpu_kv_layer_bytes(const kern_device *dev, const kern_kv_shape *shape) {
    size_t width = (size_t)cpu_key_width(dev, shape) + cpu_value_width(shape);
    return KV_PAGE_TOKENS * shape->kv_heads * width * cpu_kv_element_bytes(dev);
}

/* First byte of the block of one (frame, layer, k or v, kv head): a layer's keys, then its values. */
static inline void *cpu_kv_block(const kern_device *dev, const kern_kv_layer *kv, uint32_t frame,
                                 bool values, uint32_t head) {
    const kern_kv_shape *shape = kv->shape;
    size_t keys = cpu_key_width(dev, shape), width = values ? cpu_value_width(shape) : keys;
    size_t elements = KV_PAGE_TOKENS * ((values ? shape->kv_heads * keys : 0) + head * width);
    return (char *)kv->arena + frame * kv->frame_bytes +
           kv->layer * cpu_kv_layer_bytes(dev, shape) + elements * cpu_kv_element_bytes(dev);
}

/* The frames of a sequence, in position order. */
static inline const uint32_t *cpu_block_table(const step_batch *batch, const kern_kv_layer *kv,
                                              uint32_t seq) {
    return batch->tables + ((size_t)kv->group * batch->seq_count + seq) * batch->table_stride;
}

/* From a block of a tile to its next, and where the first one is. */
static inline size_t cpu_block_step(const kern_matrix *matrix) {
    return (size_t)cpu_formats[matrix->dtype].code_bytes *
           (matrix->form == FORM_ROWS ? STRIP_TILES : 1);
}
static inline uint8_t *cpu_tile_codes(const kern_matrix *matrix, uint32_t tile) {
    if (matrix->form != FORM_ROWS) return matrix->codes + tile * matrix->code_bytes;
    return matrix->codes + tile / STRIP_TILES * STRIP_TILES * matrix->code_bytes +
           (size_t)(tile % STRIP_TILES) * cpu_formats[matrix->dtype].code_bytes;
}

/* Bytes of dev->inputs for each block of columns. */
static inline size_t cpu_input_bytes(const kern_device *dev) {
    if (!dev->level->by_rows) return (size_t)CHUNK_TOKENS * TILE_COLS * sizeof(float);
    uint32_t tokens = dev->tokens_max < AMX_CHUNK ? dev->tokens_max : AMX_CHUNK;
    return (size_t)cpu_round_up(tokens, TILE_ROWS) * TILE_COLS * sizeof(uint16_t);
}

/* The order as the device keeps it; dropped as often as it is taken. */
cpu_order *cpu_order_take(kern_device *dev, const uint32_t *inputs, uint32_t cols);
void cpu_order_drop(kern_device *dev, cpu_order *order); /* NULL is fine */

/* Zeroed memory for a matrix, 64-byte aligned, in huge pages where the system has them; NULL: there is
 * none. Whoever touches it first decides which NUMA node it is of. */
void *cpu_room_take(kern_device *dev, size_t bytes);
void cpu_room_give_back(kern_device *dev, const void *at);

esp_code cpu_pack(kern_device *dev, const kern_matrix_desc *desc, kern_matrix **out,
                  esp_error *err) ESP_CHECKED;
kern_matrix_shape cpu_shape(const kern_matrix *matrix);
esp_code cpu_image(const kern_matrix *matrix, kern_image *out, esp_error *err) ESP_CHECKED;
esp_code cpu_open_image(kern_device *dev, const kern_image *image, kern_matrix **out,
                        esp_error *err) ESP_CHECKED;
void cpu_matrix_close(kern_device *dev, kern_matrix *matrix);
size_t cpu_matrix_bytes(const kern_matrix *matrix);
/* Weight of a row and column, exactly as the format defines it. */
float cpu_weight_at(const kern_matrix *matrix, uint32_t row, uint32_t col);
void cpu_embed(kern_device *dev, const kern_embed *op);
void cpu_pool_states(kern_device *dev, const kern_pool_states *op);
void cpu_rank_sum(kern_device *dev, const kern_rank_sum *op);
void cpu_place_columns(kern_device *dev, const kern_place_columns *op);

#endif
