/* embed.c - out[t,:] = scale * table[ids[t],:] (+ positions[position[t],:]) (+ added[:]), read out of
 * the packed tiles.
 *
 * In     table [V,H], positions [P,H] packed; ids [T], each below V; position [T], each below P
 * Out    out [T,H] f32, exactly what the format defines when scale is 1
 * Work   split over tokens; few stay on the caller
 * Cost   one row a token: plain code. A tied output matrix needs no second copy */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "kernels/cpu/cpu.h"

enum { ALONE_TOKENS = 1 };

static uint16_t half_at(const uint8_t *bytes, uint32_t index) {
    uint16_t half;
    memcpy(&half, bytes + index * sizeof half, sizeof half);
    return half;
}

static uint32_t dword_at(const uint8_t *bytes, uint32_t index) {
    uint32_t dword;
    memcpy(&dword, bytes + index * sizeof dword, sizeof dword);
    return dword;
}

/* `bits` of column k, row `lane`, out of lines. */
static uint32_t field_at(const kern_matrix *table, const uint8_t *lines, uint32_t bits, uint32_t k,
                         uint32_t lane) {
    if (bits == 0) return 0;
    uint32_t mask = (1u << bits) - 1;
    if (table->by_rows) {
        uint32_t rows = 16 / bits; /* of a line */
        return (uint32_t)half_at(lines + lane / rows * LINE_BYTES, k) >> lane % rows * bits & mask;
    }
    uint32_t cols = 32 / bits; /* of a line */
    uint32_t shift = table->bytes ? k % 4 * 8 + k % cols / 4 * bits : k % cols * bits;
    return dword_at(lines, k / cols * TILE_ROWS + lane) >> shift & mask;
}

/* Where the element of column k, row `lane` lies among a block's whole ones. */
static uint32_t element_at(const kern_matrix *table, uint32_t k, uint32_t lane) {
    if (table->by_rows) return lane * TILE_COLS + k;
    return table->bytes ? k / 4 * LINE_BYTES + lane * 4 + k % 4 : k * TILE_ROWS + lane;
}

/* Value of column k and row `lane` of a tile's block, without its scale. */
static float value_at(const kern_matrix *table, const uint8_t *codes, uint32_t k, uint32_t lane) {
    const cpu_format *format = &cpu_formats[table->dtype];
    const quant_coding *coding = dtype_info(table->dtype)->coding;
    uint32_t at = element_at(table, k, lane);
    if (coding && coding->code_bits < 8) {
        uint32_t low = field_at(table, codes, format->low_bits, k, lane);
        codes += format->low_bits * LINE_BYTES;
        uint32_t high = field_at(table, codes, format->high_bits, k, lane);
        return quant_value(coding, (uint8_t)(low | high << format->low_bits));
    }
    switch (table->dtype) {
    case DT_Q8_0:
        return (float)(int8_t)codes[at];
    case DT_G8:
        return (float)codes[at];
    case DT_F8_E4M3:
        return f32_of_e4m3(codes[at]);
    case DT_F16:
        return f32_of_f16(half_at(codes, at));
    case DT_BF16:
        return f32_of_bf16(half_at(codes, at));
    default:
        return f32_of_bits(dword_at(codes, at));
    }
}

/* Of 16 columns, the half-th of block b, of row `lane`: w = scale * (value - zero) + offset. */
typedef struct scale_pair {
    float scale, offset, zero;
} scale_pair;

static scale_pair scales_at(const kern_matrix *table, const uint8_t *scales, uint32_t b,
                            uint32_t half, uint32_t lane) {
    const cpu_format *format = &cpu_formats[table->dtype];
    const uint8_t *own = scales + cpu_scales_at(format, b);
    const uint8_t *halves = scales + cpu_halves_at(format, b);
    if (format->scaling == SCALE_32_ZERO || table->dtype == DT_F8_E4M3) {
        scale_pair group = {.scale = f32_of_bits(dword_at(halves, lane))};
        if (format->scaling == SCALE_32_ZERO)
            group.zero = f32_of_f16(half_at(halves + FLOAT_ROW_BYTES, lane));
        return group;
    }
    scale_pair out = {.scale = f32_of_f16(half_at(halves, lane))};
    if (format->scaling == SCALE_32_OFFSET || format->scaling == SCALE_16_OFFSET)
        out.offset = f32_of_f16(half_at(halves, TILE_ROWS + lane));
    switch (table->dtype) {
    case DT_Q4_K:
    case DT_Q5_K:
        out.scale *= (float)own[lane];
        out.offset *= -(float)own[TILE_ROWS + lane];
        break;
    case DT_IQ4_XS:
        out.scale *= (float)(int8_t)own[lane];
        break;
    case DT_Q3_K:
    case DT_Q6_K:
        out.scale *= (float)(int8_t)own[half * TILE_ROWS + lane];
        break;
    case DT_Q2_K:
        out.scale *= (float)(own[half * TILE_ROWS + lane] & 15);
        out.offset *= -(float)(own[half * TILE_ROWS + lane] >> 4);
        break;
    default: /* d and m are all */
        break;
    }
    return out;
}

float cpu_weight_at(const kern_matrix *matrix, uint32_t row, uint32_t col) {
    const cpu_format *format = &cpu_formats[matrix->dtype];
    uint32_t tile = row / TILE_ROWS, lane = row % TILE_ROWS, b = col / TILE_COLS,
             k = col % TILE_COLS;
    const uint8_t *codes = cpu_tile_codes(matrix, tile);
    scale_pair pair = {.scale = 1};
    if (format->scaling != SCALE_NONE)
        pair = scales_at(matrix, matrix->scales + tile * matrix->scale_bytes, b, k / 16, lane);
    float w = value_at(matrix, codes + b * cpu_block_step(matrix), k, lane);
    return pair.scale * (w - pair.zero) + pair.offset;
}

/* out = before + scale * the row; before may be NULL, or out. */
static void read_row(const kern_matrix *table, uint32_t row, float scale, const float *before,
                     float *out) {
    const cpu_format *format = &cpu_formats[table->dtype];
    uint32_t lane = row % TILE_ROWS;
    const uint8_t *codes = cpu_tile_codes(table, row / TILE_ROWS);
    const uint8_t *scales = table->scales + row / TILE_ROWS * table->scale_bytes;
    const uint32_t *order = table->order ? table->order->inputs : NULL;
    scale_pair pair = {.scale = 1};
    for (uint32_t i = 0; i < table->cols; i++) {
        uint32_t b = i / TILE_COLS, k = i % TILE_COLS;
        if (format->scaling != SCALE_NONE && k % 16 == 0)
            pair = scales_at(table, scales, b, k / 16, lane);
        float w = value_at(table, codes + b * cpu_block_step(table), k, lane);
        uint32_t at = order ? order[i] : i;
        float value = scale * (pair.scale * (w - pair.zero) + pair.offset);
        out[at] = before ? before[at] + value : value;
    }
}

static void add_rest(const kern_embed *op, uint32_t t, float *out) {
    const kern_matrix *positions = op->positions;
    const float *added = op->added;
    if (positions) {
        ESP_ASSERT(op->position[t] < positions->rows && positions->cols == op->table->cols);
        read_row(positions, op->position[t], 1, out, out);
    }
    for (uint32_t i = 0; added && i < op->table->cols; i++)
        out[i] += added[i];
}

static void embed_tokens(void *arg, uint32_t worker, uint32_t workers) {
    const kern_embed *const *op = arg;
    uint32_t begin, end, width = (*op)->table->cols;
    pool_share((*op)->token_count, 1, worker, workers, &begin, &end);
    for (uint32_t t = begin; t < end; t++) {
        ESP_ASSERT((*op)->ids[t] >= 0 && (uint32_t)(*op)->ids[t] < (*op)->table->rows);
        float *out = (float *)(*op)->out + (size_t)t * width;
        read_row((*op)->table, (uint32_t)(*op)->ids[t], (*op)->scale, NULL, out);
        add_rest(*op, t, out);
    }
}

void cpu_embed(kern_device *dev, const kern_embed *op) {
    if (op->token_count <= ALONE_TOKENS)
        embed_tokens(&op, 0, 1);
    else
        pool_run(dev->pool, embed_tokens, &op);
}
