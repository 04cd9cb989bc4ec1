/* pack.c - blocks as in the file -> tiles of 16 rows (layout: cpu.h).
 *
 * Work  split over tiles; memory comes zeroed, so padding rows and columns need no writing. Codes
 * are moved, never rounded: a matrix stays as exact and about as large as in its file. */
// SPDX-License-Identifier: Apache-2.0
#include <emmintrin.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/cpu/cpu.h"

enum { F16_BYTES = 2, WORD_CODES = 8 /* codes of 8 bytes, taken as a word */ };

typedef struct pack_job {
    const kern_matrix_desc *desc;
    kern_matrix *matrix;
    size_t row_bytes; /* of a row in the file */
    /* Of words and bytes: where the code of each column comes to lie among those of a block, for its low bits and its high. */
    uint8_t low_place[TILE_COLS], high_place[TILE_COLS];
} pack_job;

/* The low 4, 2 or 1 bits of 8 bytes, first byte lowest. */
static uint32_t gather_bits(uint64_t x, uint32_t bits) {
    if (bits == 1) return (uint32_t)((x & 0x0101010101010101u) * 0x0102040810204080u >> 56);
    if (bits == 2) {
        x &= 0x0303030303030303u;
        x = (x | x >> 6) & 0x000f000f000f000fu;
        x = (x | x >> 12) & 0x000000ff000000ffu;
        return (uint32_t)(x | x >> 24) & 0xffffu;
    }
    x &= 0x0f0f0f0f0f0f0f0fu;
    x = (x | x >> 4) & 0x00ff00ff00ff00ffu;
    x = (x | x >> 8) & 0x0000ffff0000ffffu;
    return (uint32_t)(x | x >> 16);
}

/* `bits` of each code from `shift` up, as that many lines; lines points at the row's dword. */
static void pack_lines(const uint8_t *codes, uint32_t shift, uint32_t bits, uint8_t *lines) {
    for (uint32_t line = 0; line < bits; line++, lines += LINE_BYTES) {
        uint32_t dword = 0;
        for (uint32_t at = 0; at < 32 / bits; at += WORD_CODES, codes += WORD_CODES) {
            uint64_t bytes;
            memcpy(&bytes, codes, sizeof bytes);
            dword |= gather_bits(bytes >> shift, bits) << at * bits;
        }
        memcpy(lines, &dword, sizeof dword);
    }
}

/* In lines of `bits` bits, in words or bytes: in the order in which pack_lines takes them. */
static void find_places(cpu_form form, uint32_t bits, uint8_t out[TILE_COLS]) {
    if (bits == 0) return;
    uint32_t cols = 32 / bits, lanes = form == FORM_WORDS ? 2 : 4, parts = cols / lanes;
    for (uint32_t k = 0; k < TILE_COLS; k++)
        out[k] = (uint8_t)(k / cols * cols + k % lanes * parts + k / lanes % parts);
}

static void put_in_places(const uint8_t *codes, const uint8_t places[TILE_COLS], uint8_t *out) {
    for (uint32_t k = 0; k < TILE_COLS; k++)
        out[places[k]] = codes[k];
}

/* The same by rows; what the others put there is kept. */
static void pack_row_lines(const uint8_t *codes, uint32_t shift, uint32_t bits, uint32_t row,
                           uint8_t *lines) {
    uint32_t rows = 16 / bits, left = row % rows * bits, mask = (1u << bits) - 1;
    uint16_t words[TILE_COLS];
    lines += row / rows * LINE_BYTES;
    memcpy(words, lines, sizeof words);
    for (uint32_t k = 0; k < TILE_COLS; k++)
        words[k] = (uint16_t)(words[k] | (codes[k] >> shift & mask) << left);
    memcpy(lines, words, sizeof words);
}

/* Lines of a row's codes, their bits from `shift` up, as the matrix has them. */
static void pack_bits(const kern_matrix *matrix, const uint8_t *codes, uint32_t shift,
                      uint32_t bits, const uint8_t places[TILE_COLS], uint32_t row,
                      uint8_t *lines) {
    uint8_t ordered[TILE_COLS];
    if (bits == 0) return;
    if (matrix->form == FORM_ROWS) {
        pack_row_lines(codes, shift, bits, row, lines);
        return;
    }
    ESP_ASSERT(cpu_is_integer(matrix));
    put_in_places(codes, places, ordered);
    pack_lines(ordered, shift, bits, lines + row * sizeof(uint32_t));
}

static void put_half(uint8_t *halves, uint32_t lane, uint16_t half) {
    memcpy(halves + lane * F16_BYTES, &half, sizeof half);
}

/* Of DT_G2 to DT_G8. */
static void pack_group_scale(const quant_piece *piece, uint32_t lane, uint8_t *scales) {
    memcpy(scales + lane * sizeof(float), &piece->group_scale, sizeof(float));
    put_half(scales + FLOAT_ROW_BYTES, lane, f16_of_f32(piece->zero));
}

static void pack_scales(const kern_matrix *matrix, const quant_piece *piece, uint32_t b,
                        uint32_t lane, uint8_t *scales) {
    const cpu_format *format = &cpu_formats[matrix->dtype];
    uint8_t *own = scales + cpu_scales_at(format, b) + lane;
    uint8_t *halves = scales + cpu_halves_at(format, b);
    if (format->scaling == SCALE_32_ZERO) {
        pack_group_scale(piece, lane, halves);
        return;
    }
    put_half(halves, lane, piece->d);
    if (dtype_info(matrix->dtype)->coding->offset)
        put_half(halves + SCALE_ROW_BYTES, lane, piece->m);
    switch (matrix->dtype) {
    case DT_Q4_K:
    case DT_Q5_K:
        own[0] = (uint8_t)piece->scale[0];
        own[TILE_ROWS] = piece->minimum[0];
        break;
    case DT_IQ4_XS:
        own[0] = (uint8_t)piece->scale[0];
        break;
    case DT_Q3_K:
    case DT_Q6_K:
        own[0] = (uint8_t)piece->scale[0];
        own[TILE_ROWS] = (uint8_t)piece->scale[1];
        break;
    case DT_Q2_K:
        own[0] = (uint8_t)(piece->scale[0] | piece->minimum[0] << 4);
        own[TILE_ROWS] = (uint8_t)(piece->scale[1] | piece->minimum[1] << 4);
        break;
    default: /* d and m are all */
        break;
    }
}

/* A block's columns of whole bytes, four to a dword. */
static void pack_quads(const uint8_t *in, const uint8_t places[TILE_COLS], uint8_t *codes,
                       uint32_t row) {
    uint8_t ordered[TILE_COLS];
    put_in_places(in, places, ordered);
    for (uint32_t k = 0; k < TILE_COLS; k += 4)
        memcpy(codes + k * TILE_ROWS + row * 4, ordered + k, 4);
}

/* `count` whole elements of a row. */
static inline void pack_elements(const pack_job *job, const uint8_t *in, uint8_t *codes,
                                 uint32_t row, uint32_t count, uint32_t element_bytes) {
    const kern_matrix *matrix = job->matrix;
    if (matrix->form == FORM_ROWS) {
        memcpy(codes + row * TILE_COLS * element_bytes, in, count * element_bytes);
        return;
    }
    if (cpu_is_integer(matrix)) {
        ESP_ASSERT(count == TILE_COLS && element_bytes == 1);
        pack_quads(in, job->low_place, codes, row);
        return;
    }
    for (uint32_t k = 0; k < count; k++)
        memcpy(codes + (k * TILE_ROWS + row) * element_bytes, in + k * element_bytes,
               element_bytes);
}

static void pack_coded_row(const pack_job *job, const uint8_t *in, uint32_t lane, uint8_t *codes,
                           uint8_t *scales) {
    const kern_matrix *matrix = job->matrix;
    const cpu_format *format = &cpu_formats[matrix->dtype];
    const quant_coding *coding = dtype_info(matrix->dtype)->coding;
    bool whole = coding->code_bits == 8;
    ESP_ASSERT(whole || coding->code_bits == format->low_bits + format->high_bits);
    for (uint32_t b = 0; b < matrix->blocks; b++, codes += cpu_block_step(matrix)) {
        quant_piece piece;
        coding->read(in, b, &piece);
        uint8_t *high = codes + format->low_bits * LINE_BYTES;
        if (whole) {
            pack_elements(job, piece.codes, codes, lane, TILE_COLS, 1);
        } else {
            pack_bits(matrix, piece.codes, 0, format->low_bits, job->low_place, lane, codes);
            pack_bits(matrix, piece.codes, format->low_bits, format->high_bits, job->high_place,
                      lane, high);
        }
        pack_scales(matrix, &piece, b, lane, scales);
    }
}

static void pack_whole_row(const pack_job *job, const uint8_t *in, uint32_t lane, uint8_t *codes,
                           uint8_t *scales) {
    const kern_matrix *matrix = job->matrix;
    const dtype_row *info = dtype_info(matrix->dtype);
    const cpu_format *format = &cpu_formats[matrix->dtype];
    for (uint32_t b = 0; b < matrix->blocks; b++) {
        uint32_t left = matrix->cols - b * TILE_COLS, count = left < TILE_COLS ? left : TILE_COLS;
        if (matrix->dtype == DT_Q8_0) {
            memcpy(scales + lane * F16_BYTES, in, F16_BYTES);
            pack_elements(job, in + F16_BYTES, codes, lane, count, 1);
        } else if (matrix->dtype == DT_F8_E4M3) {
            memcpy(scales + lane * sizeof(float), in, sizeof(float));
            pack_elements(job, in + sizeof(float), codes, lane, count, 1);
        } else if (info->block_bytes == 2) {
            pack_elements(job, in, codes, lane, count, 2);
        } else {
            pack_elements(job, in, codes, lane, count, 4);
        }
        in += count / info->block_elements * info->block_bytes;
        codes += cpu_block_step(matrix);
        scales += format->scale_bytes;
    }
}

static void pack_row(const pack_job *job, uint32_t row) {
    const kern_matrix *matrix = job->matrix;
    const uint8_t *in = (const uint8_t *)job->desc->data + row * job->row_bytes;
    uint8_t *codes = cpu_tile_codes(matrix, row / TILE_ROWS);
    uint8_t *scales = matrix->scales + row / TILE_ROWS * matrix->scale_bytes;
    if (dtype_info(matrix->dtype)->coding)
        pack_coded_row(job, in, row % TILE_ROWS, codes, scales);
    else
        pack_whole_row(job, in, row % TILE_ROWS, codes, scales);
}

/* Eight columns of eight rows of 16 bits, the rows `stride` apart, as eight rows of a tile. */
static void transpose_16(const uint8_t *in, size_t stride, uint8_t *out) {
    __m128i a[8], b[8];
    for (uint32_t r = 0; r < 8; r++)
        a[r] = _mm_loadu_si128((const __m128i *)(const void *)(in + r * stride));
    for (uint32_t i = 0; i < 4; i++) {
        b[2 * i] = _mm_unpacklo_epi16(a[i], a[i + 4]);
        b[2 * i + 1] = _mm_unpackhi_epi16(a[i], a[i + 4]);
    }
    for (uint32_t i = 0; i < 4; i++) {
        a[2 * i] = _mm_unpacklo_epi16(b[i], b[i + 4]);
        a[2 * i + 1] = _mm_unpackhi_epi16(b[i], b[i + 4]);
    }
    for (uint32_t i = 0; i < 4; i++) {
        b[2 * i] = _mm_unpacklo_epi16(a[i], a[i + 4]);
        b[2 * i + 1] = _mm_unpackhi_epi16(a[i], a[i + 4]);
    }
    for (uint32_t k = 0; k < 8; k++)
        _mm_storeu_si128((__m128i *)(void *)(out + k * TILE_ROWS * 2), b[k]);
}

/* Sixteen whole rows of 16-bit weights: a block stays in L1 while its rows are gathered. */
static void pack_halves(const pack_job *job, uint32_t row) {
    const kern_matrix *matrix = job->matrix;
    const uint8_t *in = (const uint8_t *)job->desc->data + row * job->row_bytes;
    uint8_t *codes = cpu_tile_codes(matrix, row / TILE_ROWS);
    for (uint32_t b = 0; b < matrix->blocks; b++, in += TILE_COLS * 2)
        for (uint32_t k = 0; k < TILE_COLS; k += 8, codes += 8 * TILE_ROWS * 2)
            for (uint32_t r = 0; r < TILE_ROWS; r += 8)
                transpose_16(in + k * 2 + r * job->row_bytes, job->row_bytes, codes + r * 2);
}

static void pack_tiles(void *arg, uint32_t worker, uint32_t workers) {
    const pack_job *job = arg;
    const kern_matrix *matrix = job->matrix;
    uint32_t begin, end;
    bool halves = dtype_info(matrix->dtype)->block_bytes == 2 && matrix->cols % TILE_COLS == 0 &&
                  matrix->form == FORM_COLUMNS;
    pool_share(matrix->rows, TILE_ROWS, worker, workers, &begin, &end);
    for (; halves && begin + TILE_ROWS <= end; begin += TILE_ROWS)
        pack_halves(job, begin);
    for (uint32_t row = begin; row < end; row++)
        pack_row(job, row);
}

/* Of a matrix whose dtype, rows and cols are set. */
static bool sizes(kern_matrix *matrix, uint64_t *scales_at) {
    const cpu_format *format = &cpu_formats[matrix->dtype];
    matrix->tiles = (matrix->rows - 1) / TILE_ROWS + 1;
    matrix->blocks = (matrix->cols - 1) / TILE_COLS + 1;
    matrix->code_bytes = (size_t)matrix->blocks * format->code_bytes;
    matrix->scale_bytes = (size_t)matrix->blocks * format->scale_bytes +
                          (size_t)(matrix->blocks / SUPER_BLOCKS) * format->head_bytes;
    uint64_t codes, scales, total, tiles = matrix->tiles;
    if (matrix->form == FORM_ROWS) tiles = (tiles + STRIP_TILES - 1) / STRIP_TILES * STRIP_TILES;
    if (!check_mul(matrix->code_bytes, tiles, &codes) ||
        !check_mul(matrix->scale_bytes, matrix->tiles, &scales) ||
        !check_align(codes, CACHE_LINE_BYTES, scales_at) ||
        !check_add(*scales_at, scales, &total) || !check_align(total, CACHE_LINE_BYTES, &total))
        return false;
    matrix->map_bytes = total;
    return true;
}

/* The working space of linear grows with the widest input, here and never in a step. */
static void widen_inputs(kern_device *dev, uint32_t blocks, uint32_t planes) {
    if (blocks <= dev->blocks_max && planes <= dev->planes) return;
    if (blocks < dev->blocks_max) blocks = dev->blocks_max;
    if (planes < dev->planes) planes = dev->planes;
    free(dev->inputs);
    free(dev->quantised);
    dev->blocks_max = blocks;
    dev->planes = planes;
    dev->inputs = mem_new((size_t)planes * blocks, cpu_input_bytes(dev));
    if (dev->linear_integer) /* as much of either block: cpu.h */
        dev->quantised = mem_new((size_t)planes * blocks * CHUNK_TOKENS, sizeof(int16_block));
}

/* A matrix on its way, without memory. */
static kern_matrix shape_of(const kern_device *dev, esp_dtype dtype, uint32_t rows, uint32_t cols,
                            bool output) {
    bool exact = output && dev->exact_output && dtype == DT_Q8_0;
    cpu_form form = exact                          ? FORM_BYTES
                    : dtype_has_whole_codes(dtype) ? dev->integer_form
                    : dev->level->by_rows          ? FORM_ROWS
                                                   : FORM_COLUMNS;
    return (kern_matrix){.dtype = dtype, .rows = rows, .cols = cols, .form = form, .output = exact};
}

/* What a matrix needs of the device. */
static void finish(kern_device *dev, kern_matrix *matrix, const uint32_t *order) {
    if (order) matrix->order = cpu_order_take(dev, order, matrix->cols);
    widen_inputs(dev, matrix->blocks, order ? LINEAR_MATRICES_MAX : 1);
}

esp_code cpu_pack(kern_device *dev, const kern_matrix_desc *desc, kern_matrix **out,
                  esp_error *err) {
    const dtype_row *info = dtype_info(desc->dtype);
    ESP_ASSERT(desc->rows > 0 && desc->cols > 0 && desc->cols % info->block_elements == 0);
    *out = NULL;
    kern_matrix *matrix = mem_new(1, sizeof *matrix);
    *matrix = shape_of(dev, desc->dtype, desc->rows, desc->cols, desc->output && !desc->order);
    uint64_t scales_at = 0;
    if (sizes(matrix, &scales_at)) matrix->codes = cpu_room_take(dev, matrix->map_bytes);
    if (!matrix->codes) {
        free(matrix);
        return esp_fail(err, ESP_EXHAUSTED, "cpu: no memory for a %s matrix of %u x %u", info->name,
                        desc->rows, desc->cols);
    }
    matrix->scales = matrix->codes + scales_at;
    pack_job job = {.desc = desc,
                    .matrix = matrix,
                    .row_bytes = (size_t)(desc->cols / info->block_elements) * info->block_bytes};
    if (cpu_is_integer(matrix)) {
        const cpu_format *format = &cpu_formats[matrix->dtype];
        find_places(matrix->form, format->low_bits ? format->low_bits : 8, job.low_place);
        find_places(matrix->form, format->high_bits, job.high_place);
    }
    pool_run(dev->pool, pack_tiles, &job);
    finish(dev, matrix, desc->order);
    *out = matrix;
    return ESP_OK;
}

kern_matrix_shape cpu_shape(const kern_matrix *matrix) {
    return (kern_matrix_shape){matrix->dtype, matrix->rows, matrix->cols};
}

esp_code cpu_image(const kern_matrix *matrix, kern_image *out, esp_error *err) {
    (void)err;
    *out = (kern_image){.dtype = matrix->dtype,
                        .rows = matrix->rows,
                        .cols = matrix->cols,
                        .order = matrix->order ? matrix->order->inputs : NULL,
                        .bytes = matrix->codes,
                        .count = matrix->map_bytes,
                        .output = matrix->output};
    return ESP_OK;
}

esp_code cpu_open_image(kern_device *dev, const kern_image *image, kern_matrix **out,
                        esp_error *err) {
    kern_matrix shape = {0};
    uint64_t scales_at = 0;
    bool sane = kern_image_is_sane(image);
    *out = NULL;
    if (sane)
        shape =
            shape_of(dev, image->dtype, image->rows, image->cols, image->output && !image->order);
    if (!sane || !sizes(&shape, &scales_at) || shape.map_bytes != image->count)
        return esp_fail(err, ESP_INVALID, "cpu: %llu bytes are no packed matrix of %u x %u",
                        (unsigned long long)image->count, image->rows, image->cols);
    kern_matrix *matrix = mem_new(1, sizeof *matrix);
    *matrix = shape;
    matrix->borrowed = true;
    matrix->codes = (uint8_t *)(uintptr_t)image->bytes;
    matrix->scales = matrix->codes + scales_at;
    finish(dev, matrix, image->order);
    *out = matrix;
    return ESP_OK;
}

void cpu_matrix_close(kern_device *dev, kern_matrix *matrix) {
    if (!matrix) return;
    cpu_order_drop(dev, matrix->order);
    if (!matrix->borrowed) cpu_room_give_back(dev, matrix->codes);
    free(matrix);
}

size_t cpu_matrix_bytes(const kern_matrix *matrix) { return sizeof *matrix + matrix->map_bytes; }
