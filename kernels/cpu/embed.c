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

/* Where the element of column k, row `lane` lies among a block's whole ones. */
static uint32_t element_at(const kern_matrix *table, uint32_t k, uint32_t lane) {
    return table->form == FORM_ROWS ? lane * TILE_COLS + k : k * TILE_ROWS + lane;
}

/* A field of a code: its byte in the block, and by how much that is shifted. */
typedef struct field_place {
    uint32_t at, shift;
} field_place;

/* The field of `bits` bits, up to 8, of column k and row `lane`, out of lines that begin in the block at a byte; none
 * lies across two bytes. */
static field_place place_of(const kern_matrix *table, uint32_t lines_at, uint32_t bits, uint32_t k,
                            uint32_t lane) {
    if (bits == 8 && !cpu_is_integer(table)) return (field_place){.at = element_at(table, k, lane)};
    uint32_t line, unit, bit; /* of the line a word or dword, of that a bit */
    if (table->form == FORM_ROWS) {
        uint32_t rows = 16 / bits; /* of a line */
        line = lane / rows, unit = 2 * k, bit = lane % rows * bits;
    } else {
        uint32_t cols = 32 / bits; /* of a line */
        uint32_t lanes = table->form == FORM_WORDS ? 2 : 4;
        line = k / cols, unit = 4 * lane;
        bit = k % lanes * (32 / lanes) + k % cols / lanes * bits;
    }
    return (field_place){.at = lines_at + line * LINE_BYTES + unit + bit / 8, .shift = bit % 8};
}

static uint32_t field_at(const kern_matrix *table, const uint8_t *block, uint32_t lines_at,
                         uint32_t bits, uint32_t k, uint32_t lane) {
    if (bits == 0) return 0;
    field_place place = place_of(table, lines_at, bits, k, lane);
    return (uint32_t)block[place.at] >> place.shift & ((1u << bits) - 1);
}

/* The bits of a code's low and high field; 0 and 0: elements are no codes of up to 8 bits. */
typedef struct field_bits {
    uint32_t low, high;
} field_bits;

static field_bits bits_of(esp_dtype dtype) {
    const cpu_format *format = &cpu_formats[dtype];
    bool whole = format->low_bits == 0 && format->code_bytes == TILE_ROWS * TILE_COLS;
    return (field_bits){.low = whole ? 8 : format->low_bits, .high = format->high_bits};
}

static float code_value(esp_dtype dtype, uint8_t code) {
    if (dtype == DT_Q8_0) return (float)(int8_t)code;
    if (dtype == DT_F8_E4M3) return f32_of_e4m3(code);
    return dtype == DT_G8 ? (float)code : quant_value(dtype_info(dtype)->coding, code);
}

/* Value of column k and row `lane` of a tile's block, without its scale. */
static float value_at(const kern_matrix *table, const uint8_t *codes, uint32_t k, uint32_t lane) {
    const field_bits bits = bits_of(table->dtype);
    if (bits.low) {
        uint32_t low = field_at(table, codes, 0, bits.low, k, lane);
        uint32_t high = field_at(table, codes, bits.low * LINE_BYTES, bits.high, k, lane);
        return code_value(table->dtype, (uint8_t)(low | high << bits.low));
    }
    uint32_t at = element_at(table, k, lane);
    switch (table->dtype) {
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

/* --- whole rows --------------------------------------------------------------------------- */

/* How the rows of a table are read. */
typedef struct row_reader {
    const kern_matrix *table;
    field_bits bits;
    float values[256]; /* of each code */
} row_reader;

static row_reader reader_of(const kern_matrix *table) {
    row_reader reader = {.table = table, .bits = bits_of(table->dtype)};
    uint32_t bits = reader.bits.low + reader.bits.high;
    for (uint32_t code = 0; bits > 0 && code < 1u << bits; code++)
        reader.values[code] = code_value(table->dtype, (uint8_t)code);
    return reader;
}

/* One field of each column of a row. */
typedef struct field_places {
    uint16_t at[TILE_COLS];
    uint8_t shift[TILE_COLS], mask;
} field_places;

static void place_fields(const kern_matrix *table, uint32_t lines_at, uint32_t bits, uint32_t lane,
                         field_places *out) {
    out->mask = (uint8_t)((1u << bits) - 1);
    for (uint32_t k = 0; k < TILE_COLS && bits > 0; k++) {
        field_place place = place_of(table, lines_at, bits, k, lane);
        out->at[k] = (uint16_t)place.at;
        out->shift[k] = (uint8_t)place.shift;
    }
}

/* The 32 values of a row's block. */
static void read_codes(const row_reader *reader, const field_places *low, const field_places *high,
                       const uint8_t *block, float *out) {
    for (uint32_t k = 0; k < TILE_COLS; k++) {
        uint32_t code = (uint32_t)block[low->at[k]] >> low->shift[k] & low->mask;
        if (reader->bits.high)
            code |= ((uint32_t)block[high->at[k]] >> high->shift[k] & high->mask)
                    << reader->bits.low;
        out[k] = reader->values[code];
    }
}

/* out = before + scale * the row; before may be NULL, or out. */
static void read_row(const row_reader *reader, uint32_t row, float scale, const float *before,
                     float *out) {
    const kern_matrix *table = reader->table;
    const uint32_t lane = row % TILE_ROWS, cols = table->cols;
    const uint8_t *codes = cpu_tile_codes(table, row / TILE_ROWS);
    const uint8_t *scales = table->scales + row / TILE_ROWS * table->scale_bytes;
    const uint32_t *order = table->order ? table->order->inputs : NULL;
    const bool scaled = cpu_formats[table->dtype].scaling != SCALE_NONE;
    field_places low, high;
    place_fields(table, 0, reader->bits.low, lane, &low);
    place_fields(table, reader->bits.low * LINE_BYTES, reader->bits.high, lane, &high);
    scale_pair pair = {.scale = 1};
    for (uint32_t b = 0; b < table->blocks; b++, codes += cpu_block_step(table)) {
        float values[TILE_COLS];
        if (reader->bits.low) read_codes(reader, &low, &high, codes, values);
        for (uint32_t k = 0, i = b * TILE_COLS; k < TILE_COLS && i < cols; k++, i++) {
            if (scaled && k % 16 == 0) pair = scales_at(table, scales, b, k / 16, lane);
            float w = reader->bits.low ? values[k] : value_at(table, codes, k, lane);
            uint32_t at = order ? order[i] : i;
            float value = scale * (pair.scale * (w - pair.zero) + pair.offset);
            out[at] = before ? before[at] + value : value;
        }
    }
}

/* Its lines lie far apart: all are asked for at once. */
static void fetch_row(const kern_matrix *table, uint32_t row) {
    const cpu_format *format = &cpu_formats[table->dtype];
    const size_t step = cpu_block_step(table);
    const uint8_t *codes = cpu_tile_codes(table, row / TILE_ROWS);
    const uint8_t *scales = table->scales + row / TILE_ROWS * table->scale_bytes;
    if (table->form == FORM_ROWS) codes += row % TILE_ROWS * (format->code_bytes / TILE_ROWS);
    for (uint32_t b = 0; b < table->blocks; b++) {
        __builtin_prefetch(codes + b * step);
        __builtin_prefetch(scales + cpu_scales_at(format, b));
    }
}

static void add_rest(const kern_embed *op, const row_reader *positions_reader, uint32_t t,
                     float *out) {
    const kern_matrix *positions = op->positions;
    const float *added = op->added;
    if (positions) {
        ESP_ASSERT(op->position[t] < positions->rows && positions->cols == op->table->cols);
        read_row(positions_reader, op->position[t], 1, out, out);
    }
    for (uint32_t i = 0; added && i < op->table->cols; i++)
        out[i] += added[i];
}

static void embed_tokens(void *arg, uint32_t worker, uint32_t workers) {
    const kern_embed *op = *(const kern_embed *const *)arg;
    const kern_matrix *table = op->table;
    const row_reader reader = reader_of(table);
    row_reader positions = {0};
    if (op->positions) positions = reader_of(op->positions);
    uint32_t begin, end;
    pool_share(op->token_count, 1, worker, workers, &begin, &end);
    for (uint32_t t = begin; t < end; t++) {
        ESP_ASSERT(op->ids[t] >= 0 && (uint32_t)op->ids[t] < table->rows);
        if (t + 1 < end) fetch_row(table, (uint32_t)op->ids[t + 1] % table->rows);
        float *out = (float *)op->out + (size_t)t * table->cols;
        read_row(&reader, (uint32_t)op->ids[t], op->scale, NULL, out);
        add_rest(op, &positions, t, out);
    }
}

void cpu_embed(kern_device *dev, const kern_embed *op) {
    if (op->token_count <= ALONE_TOKENS)
        embed_tokens(&op, 0, 1);
    else
        pool_run(dev->pool, embed_tokens, &op);
}
