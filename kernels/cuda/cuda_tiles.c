/* cuda_tiles.c - see cuda_tiles.h. Where a code belongs is looked up: the places of two rows of a tile in bits,
 * which the other rows repeat a fixed distance on. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_tiles.h"

#include <stdatomic.h>
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/pool.h"
#include "engine/base/quant_blocks.h"

enum { SYMMETRIC_ZERO = 8, BYTE_ZERO = 128 };

/* ---- which format */

typedef struct scale_scan {
    const kern_matrix_desc *desc;
    atomic_bool fine;     /* a scale that no half holds */
    atomic_bool changing; /* scales or zero points differ within 64 columns */
    atomic_bool lopsided; /* a zero point other than 8 */
} scale_scan;

static void scan_row(scale_scan *scan, const uint8_t *row) {
    const quant_coding *coding = dtype_info(scan->desc->dtype)->coding;
    const uint32_t pieces = scan->desc->cols / QUANT_PIECE;
    quant_piece piece, even = {0};
    /* A last piece by itself shares its tile with padding, whose scale is 0. */
    bool fine = false, changing = pieces % 2 != 0, lopsided = false;
    for (uint32_t b = 0; b < pieces; b++) {
        coding->read(row, b, &piece);
        fine |= f32_of_f16(f16_of_f32(piece.group_scale)) != piece.group_scale;
        lopsided |= piece.zero != SYMMETRIC_ZERO;
        if (b % 2 == 0)
            even = piece;
        else
            changing |= even.group_scale != piece.group_scale || even.zero != piece.zero;
    }
    if (fine) atomic_store_explicit(&scan->fine, true, memory_order_relaxed);
    if (changing) atomic_store_explicit(&scan->changing, true, memory_order_relaxed);
    if (lopsided) atomic_store_explicit(&scan->lopsided, true, memory_order_relaxed);
}

static size_t row_bytes_of(const kern_matrix_desc *desc) {
    const dtype_row *info = dtype_info(desc->dtype);
    return (size_t)(desc->cols / info->block_elements) * info->block_bytes;
}

static void scan_rows(void *arg, uint32_t worker, uint32_t workers) {
    scale_scan *scan = arg;
    size_t row_bytes = row_bytes_of(scan->desc);
    uint32_t begin, end;
    pool_share(scan->desc->rows, 1, worker, workers, &begin, &end);
    for (uint32_t row = begin; row < end; row++)
        scan_row(scan, (const uint8_t *)scan->desc->data + row * row_bytes);
}

static cuda_format grouped_format(const kern_matrix_desc *desc, thread_pool *pool) {
    scale_scan scan = {.desc = desc};
    pool_run(pool, scan_rows, &scan);
    if (scan.fine) return CUDA_C4_FLOAT_ZERO;
    if (!scan.lopsided) return scan.changing ? CUDA_C4_HALF : CUDA_C4_HALF_64;
    return scan.changing ? CUDA_C4_ZERO : CUDA_C4_ZERO_64;
}

static const cuda_format formats[DT_COUNT] = {
    [DT_F32] = CUDA_BF16,         [DT_F16] = CUDA_BF16,           [DT_BF16] = CUDA_BF16,
    [DT_Q8_0] = CUDA_C8_HALF,     [DT_Q4_0] = CUDA_C4_HALF,       [DT_Q4_1] = CUDA_C4_OFFSET,
    [DT_Q5_0] = CUDA_C8_HALF,     [DT_Q5_1] = CUDA_C8_OFFSET,     [DT_IQ4_NL] = CUDA_C8_HALF,
    [DT_Q2_K] = CUDA_C4_LESS_16,  [DT_Q3_K] = CUDA_C4_STEPS_16,   [DT_Q4_K] = CUDA_C4_LESS,
    [DT_Q5_K] = CUDA_C8_LESS,     [DT_Q6_K] = CUDA_C8_STEPS_16,   [DT_IQ4_XS] = CUDA_C8_STEPS_16,
    [DT_G2] = CUDA_C4_FLOAT_ZERO, [DT_G3] = CUDA_C4_FLOAT_ZERO,   [DT_G4] = CUDA_C4_FLOAT_ZERO,
    [DT_G8] = CUDA_C8_FLOAT_ZERO, [DT_F8_E4M3] = CUDA_E4M3_FLOAT,
};

static bool depends_on_scales(esp_dtype dtype) {
    return dtype == DT_G2 || dtype == DT_G3 || dtype == DT_G4;
}

cuda_format cuda_tiles_format(const kern_matrix_desc *desc, thread_pool *pool) {
    return depends_on_scales(desc->dtype) ? grouped_format(desc, pool) : formats[desc->dtype];
}

bool cuda_tiles_fits(cuda_format format, esp_dtype dtype) {
    if ((unsigned)format >= CUDA_FORMAT_COUNT) return false;
    if (!depends_on_scales(dtype)) return format == formats[dtype];
    return format == CUDA_C4_FLOAT_ZERO || format == CUDA_C4_HALF || format == CUDA_C4_HALF_64 ||
           format == CUDA_C4_ZERO || format == CUDA_C4_ZERO_64;
}

bool cuda_tiles_shape(cuda_format format, uint32_t rows, uint32_t cols, cuda_matrix_view *out,
                      uint64_t *image_bytes) {
    *out = (cuda_matrix_view){.rows = rows,
                              .cols = cols,
                              .chunks = (cols - 1) / CUDA_TILE_COLS + 1,
                              .tile_bytes = cuda_tile_bytes(format),
                              .format = format};
    uint64_t bytes, tile_rows = (rows - 1) / CUDA_TILE_ROWS + 1;
    return check_mul((uint64_t)out->chunks * out->tile_bytes, tile_rows, &bytes) &&
           check_add(bytes, CUDA_HEAD_BYTES, image_bytes);
}

/* ---- codes */

typedef struct fill_job {
    const kern_matrix_desc *desc;
    const cuda_matrix_view *shape;
    cuda_format_row format;
    const quant_coding *coding; /* or NULL */
    uint32_t first, count;      /* rows of tiles */
    uint8_t *out;
    uint32_t at
        [2]
        [CUDA_TILE_COLS]; /* the code of an even or odd row, in bits from that of a tile's row 0 or 1 */
    uint32_t row_step;    /* bits from a row to the second after it */
    uint8_t code_of[256]; /* a code in the file -> in a tile */
} fill_job;

static uint8_t code_in_tile(const fill_job *job, uint8_t code) {
    const quant_coding *coding = job->coding;
    if (coding->grouped) return (uint8_t)(job->format.codes == CODES_8 ? code - BYTE_ZERO : code);
    int value = coding->values ? coding->values[code & 15] : coding->first + code;
    bool centred = job->format.codes == CODES_4 && !coding->offset;
    return (uint8_t)(centred ? value + SYMMETRIC_ZERO : value);
}

static void look_up(fill_job *job) {
    cuda_codes codes = job->format.codes;
    for (uint32_t row = 0; row < 2; row++)
        for (uint32_t col = 0; col < CUDA_TILE_COLS; col++)
            job->at[row][col] = cuda_code_at(codes, job->format.run, row, col);
    job->row_step = cuda_code_at(codes, job->format.run, 2, 0);
    for (uint32_t code = 0; job->coding && code < 256; code++)
        job->code_of[code] = code_in_tile(job, (uint8_t)code);
}

/* Bits from the tile's beginning; col of the tile. */
static uint32_t place_of(const fill_job *job, uint32_t row, uint32_t col) {
    return job->at[row % 2][col] + row / 2 * job->row_step;
}

static uint32_t turned(uint32_t word) {
    return word << CUDA_CODE_4_TURN | word >> (32 - CUDA_CODE_4_TURN);
}

/* 32 codes as they are to lie in the tile, from column col of it. */
static void put_codes(const fill_job *job, uint8_t *tile, uint32_t row, uint32_t col,
                      const uint8_t *codes) {
    const uint32_t *at = &job->at[row % 2][col], base = row / 2 * job->row_step;
    if (job->format.codes == CODES_4) {
        for (uint32_t i = 0; i < QUANT_PIECE; i++) {
            uint32_t place = base + at[i], word;
            uint8_t *there = tile + place / 32 * 4;
            memcpy(&word, there, sizeof word);
            word |= turned((uint32_t)codes[i] << place % 32);
            memcpy(there, &word, sizeof word);
        }
        return;
    }
    for (uint32_t i = 0; i < QUANT_PIECE; i++)
        tile[(base + at[i]) / 8] = codes[i];
}

/* ---- scales */

static void put_half(uint8_t *at, uint16_t half) { memcpy(at, &half, sizeof half); }
static void put_float(uint8_t *at, float value) { memcpy(at, &value, sizeof value); }

/* Scale and zero point of DT_G2 to DT_G8, of run `run` of the tile. */
static void put_group(const fill_job *job, uint8_t *scales, uint32_t run,
                      const quant_piece *piece) {
    float zero = (float)piece->zero - (job->format.codes == CODES_8 ? (float)BYTE_ZERO : 0.0f);
    switch (job->format.scaling) {
    case SCALING_HALF:
        put_half(scales + 2 * run, f16_of_f32(piece->group_scale));
        break;
    case SCALING_HALF_ZERO:
        put_half(scales + 4 * run, f16_of_f32(piece->group_scale));
        put_half(scales + 4 * run + 2, f16_of_f32(zero));
        break;
    default:
        ESP_ASSERT(job->format.scaling == SCALING_FLOAT_ZERO);
        put_float(scales + 8 * run, piece->group_scale);
        put_float(scales + 8 * run + 4, zero);
        break;
    }
}

static void put_steps(const fill_job *job, uint8_t *scales, uint32_t run, const quant_piece *piece,
                      uint32_t half) {
    put_half(scales, piece->d);
    if (job->format.scaling == SCALING_STEPS) {
        scales[2 + run] = (uint8_t)piece->scale[half];
        return;
    }
    put_half(scales + 2, piece->m);
    scales[4 + 2 * run] = (uint8_t)piece->scale[half];
    scales[5 + 2 * run] = piece->minimum[half];
}

/* piece_at: which of the tile's two. */
static void put_scales(const fill_job *job, uint8_t *scales, uint32_t piece_at,
                       const quant_piece *piece) {
    uint32_t run = job->format.run == 64 ? 0 : piece_at;
    if (job->coding->grouped) {
        put_group(job, scales, run, piece);
        return;
    }
    switch (job->format.scaling) {
    case SCALING_HALF:
        put_half(scales + 2 * run, piece->d);
        break;
    case SCALING_HALF_OFFSET:
        put_half(scales + 4 * run, piece->d);
        put_half(scales + 4 * run + 2, piece->m);
        break;
    default:
        for (uint32_t half = 0; job->format.run == 16 && half < 2; half++)
            put_steps(job, scales, 2 * piece_at + half, piece, half);
        if (job->format.run != 16) put_steps(job, scales, run, piece, 0);
        break;
    }
}

/* ---- rows */

static uint8_t *scales_of(const fill_job *job, uint8_t *tile, uint32_t row) {
    return tile + cuda_code_bytes(job->format.codes) +
           row * cuda_scale_bytes(job->format.scaling, job->format.run);
}

/* tiles: of the row's columns, the first. */
static void fill_coded(const fill_job *job, const uint8_t *in, uint32_t row, uint8_t *tiles) {
    for (uint32_t b = 0; b < job->desc->cols / QUANT_PIECE; b++) {
        uint8_t *tile = tiles + (size_t)(b / 2) * job->shape->tile_bytes;
        quant_piece piece;
        job->coding->read(in, b, &piece);
        for (uint32_t i = 0; i < QUANT_PIECE; i++)
            piece.codes[i] = job->code_of[piece.codes[i]];
        put_codes(job, tile, row, b % 2 * QUANT_PIECE, piece.codes);
        put_scales(job, scales_of(job, tile, row), b % 2, &piece);
    }
}

/* Q8_0 and F8_E4M3: a scale, then 32 bytes. */
static void fill_bytes(const fill_job *job, const uint8_t *in, uint32_t row, uint8_t *tiles) {
    size_t block = dtype_info(job->desc->dtype)->block_bytes, head = block - QUANT_PIECE;
    for (uint32_t b = 0; b < job->desc->cols / QUANT_PIECE; b++, in += block) {
        uint8_t *tile = tiles + (size_t)(b / 2) * job->shape->tile_bytes;
        put_codes(job, tile, row, b % 2 * QUANT_PIECE, in + head);
        memcpy(scales_of(job, tile, row) + b % 2 * head, in, head);
    }
}

static uint16_t whole_weight(esp_dtype dtype, const uint8_t *in, uint32_t col) {
    uint16_t half;
    float value;
    if (dtype == DT_F32) {
        memcpy(&value, in + col * sizeof value, sizeof value);
        return bf16_of_f32(value);
    }
    memcpy(&half, in + col * sizeof half, sizeof half);
    return dtype == DT_F16 ? bf16_of_f32(f32_of_f16(half)) : half;
}

static void fill_whole(const fill_job *job, const uint8_t *in, uint32_t row, uint8_t *tiles) {
    for (uint32_t col = 0; col < job->desc->cols; col++) {
        uint8_t *tile = tiles + (size_t)(col / CUDA_TILE_COLS) * job->shape->tile_bytes;
        put_half(tile + place_of(job, row, col % CUDA_TILE_COLS) / 8,
                 whole_weight(job->desc->dtype, in, col));
    }
}

/* Columns of bf16 lie in pairs. */
static void fill_pairs(const fill_job *job, const uint8_t *in, uint32_t row, uint8_t *tiles) {
    for (uint32_t col = 0; col < job->desc->cols; col += 2) {
        uint8_t *tile = tiles + (size_t)(col / CUDA_TILE_COLS) * job->shape->tile_bytes;
        memcpy(tile + place_of(job, row, col % CUDA_TILE_COLS) / 8, in + col * 2, 4);
    }
}

static void fill_row(const fill_job *job, uint32_t row) {
    const kern_matrix_desc *desc = job->desc;
    const uint8_t *in = (const uint8_t *)desc->data + row * row_bytes_of(desc);
    size_t line = (size_t)job->shape->chunks * job->shape->tile_bytes;
    uint8_t *tiles = job->out + (row / CUDA_TILE_ROWS - job->first) * line;
    row %= CUDA_TILE_ROWS;
    if (job->coding)
        fill_coded(job, in, row, tiles);
    else if (job->format.codes != CODES_BF16)
        fill_bytes(job, in, row, tiles);
    else if (desc->dtype == DT_BF16 && desc->cols % 2 == 0)
        fill_pairs(job, in, row, tiles);
    else
        fill_whole(job, in, row, tiles);
}

/* Codes of 4 bits stand for -8 as they are 0: a weight of 0 by its scale of 0. */
static void fill_tiles(void *arg, uint32_t worker, uint32_t workers) {
    const fill_job *job = arg;
    size_t line = (size_t)job->shape->chunks * job->shape->tile_bytes;
    uint32_t begin, end;
    pool_share(job->count, 1, worker, workers, &begin, &end);
    memset(job->out + begin * line, 0, (end - begin) * line);
    for (uint32_t tile_row = begin; tile_row < end; tile_row++)
        for (uint32_t i = 0; i < CUDA_TILE_ROWS; i++) {
            uint32_t row = (job->first + tile_row) * CUDA_TILE_ROWS + i;
            if (row < job->desc->rows) fill_row(job, row);
        }
}

void cuda_tiles_fill(const kern_matrix_desc *desc, const cuda_matrix_view *shape, uint32_t first,
                     uint32_t count, uint8_t *out, thread_pool *pool) {
    fill_job job = {.desc = desc,
                    .shape = shape,
                    .format = cuda_format_of(shape->format),
                    .coding = dtype_info(desc->dtype)->coding,
                    .first = first,
                    .count = count,
                    .out = out};
    look_up(&job);
    pool_run(pool, fill_tiles, &job);
}
