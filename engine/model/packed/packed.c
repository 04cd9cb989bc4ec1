/* packed.c - finds the parts of a packed matrix, and puts blocks together from them. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/packed/packed.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/model/packed/packed_inner.h"

/* Rows that are put together side by side: packings by columns are then read in cache lines. */
enum { STRIPE_ROWS = 64 };

static const packing_ops *const packings[PACKING_COUNT] = {
    [PACKING_GPTQ] = &packing_gptq, [PACKING_AWQ] = &packing_awq, [PACKING_WORDS] = &packing_words,
    [PACKING_INT8] = &packing_int8, [PACKING_FP8] = &packing_fp8,
};

/* --- what the packings check with -------------------------------------------------------------- */

esp_code packed_fail(const packed_matrix *m, esp_error *err, const char *format, ...) {
    char text[ESP_MESSAGE_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    const model_tensor *codes = m->part[PART_CODES];
    return esp_fail(err, ESP_INVALID, "%s: module %.*s: %s", codes ? codes->file : "model",
                    (int)m->module.bytes, m->module.at, text);
}

static esp_code refuse_part(const packed_matrix *m, uint32_t part, const char *seen,
                            const char *wanted, esp_error *err) {
    const model_tensor *tensor = m->part[part];
    return esp_fail(err, ESP_INVALID, "%s: tensor %.*s has %s; wanted %s", tensor->file,
                    (int)tensor->name.bytes, tensor->name.at, seen, wanted);
}

esp_code packed_want_shape(const packed_matrix *m, uint32_t part, uint64_t rows, uint64_t cols,
                           esp_error *err) {
    const model_tensor *tensor = m->part[part];
    if (!tensor) return ESP_OK;
    if (tensor->dim_count == (cols ? 2u : 1u) && tensor->dims[cols ? 1 : 0] == rows &&
        (!cols || tensor->dims[0] == cols))
        return ESP_OK;
    char seen[96], wanted[96];
    snprintf(seen, sizeof seen, "%u dimensions, the inner %llu x %llu", tensor->dim_count,
             (unsigned long long)tensor->dims[1], (unsigned long long)tensor->dims[0]);
    if (cols)
        snprintf(wanted, sizeof wanted, "%llu x %llu", (unsigned long long)rows,
                 (unsigned long long)cols);
    else
        snprintf(wanted, sizeof wanted, "one dimension of %llu", (unsigned long long)rows);
    return refuse_part(m, part, seen, wanted, err);
}

static esp_code refuse_type(const packed_matrix *m, uint32_t part, const char *wanted,
                            esp_error *err) {
    char seen[32];
    snprintf(seen, sizeof seen, "type %s", tensor_type_name(m->part[part]));
    return refuse_part(m, part, seen, wanted, err);
}

esp_code packed_want_type(const packed_matrix *m, uint32_t part, tensor_raw raw, esp_error *err) {
    const model_tensor *tensor = m->part[part], wanted = {.raw = raw};
    if (!tensor || tensor->raw == raw) return ESP_OK;
    return refuse_type(m, part, tensor_type_name(&wanted), err);
}

esp_code packed_want_floats(const packed_matrix *m, uint32_t part, esp_error *err) {
    const model_tensor *tensor = m->part[part];
    if (tensor->raw == RAW_NONE && dtype_info(tensor->dtype)->block_elements == 1) return ESP_OK;
    return refuse_type(m, part, "F32, F16 or BF16", err);
}

esp_code packed_want_table(const packed_matrix *m, tensor_raw raw, uint32_t *rows, uint32_t *cols,
                           esp_error *err) {
    const model_tensor *codes = m->part[PART_CODES];
    esp_code code = packed_want_type(m, PART_CODES, raw, err);
    if (code) return code;
    if (codes->dim_count != 2 || codes->dims[0] == 0 || codes->dims[1] == 0 ||
        codes->dims[0] > INT32_MAX / WORD_BITS || codes->dims[1] > INT32_MAX / WORD_BITS)
        return refuse_part(m, PART_CODES, "another shape", "two dimensions, neither of them 0",
                           err);
    *rows = (uint32_t)codes->dims[1];
    *cols = (uint32_t)codes->dims[0];
    return ESP_OK;
}

static esp_code set_grouped_dtype(packed_matrix *m, esp_error *err) {
    switch (m->scheme.bits) {
    case 2:
        m->dtype = DT_G2;
        return ESP_OK;
    case 3:
        m->dtype = DT_G3;
        return ESP_OK;
    case 4:
        m->dtype = DT_G4;
        return ESP_OK;
    case 8:
        m->dtype = DT_G8;
        return ESP_OK;
    default:
        return packed_fail(m, err, "codes have %u bits; wanted 2, 3, 4 or 8", m->scheme.bits);
    }
}

esp_code packed_set_groups(packed_matrix *m, esp_error *err) {
    esp_code code = set_grouped_dtype(m, err);
    if (code) return code;
    if (m->cols % BLOCK_COLS)
        return packed_fail(m, err, "has %u inputs; wanted a multiple of %d", m->cols, BLOCK_COLS);
    m->group_cols = m->scheme.group_cols ? m->scheme.group_cols : m->cols;
    if (m->group_cols % BLOCK_COLS)
        return packed_fail(m, err, "group_size is %u; wanted a multiple of %d, or -1",
                           m->group_cols, BLOCK_COLS);
    m->group_count = (m->cols - 1) / m->group_cols + 1;
    return ESP_OK;
}

/* --- order ------------------------------------------------------------------------------------- */

static uint32_t group_of_column(const packed_matrix *m, uint32_t column) {
    return packed_word(m->part[PART_GROUPS], column);
}

/* How many columns each group has, [group_count]; the caller frees. */
static uint32_t *count_columns(const packed_matrix *m) {
    uint32_t *counts = mem_new(m->group_count, sizeof *counts);
    for (uint32_t c = 0; c < m->cols; c++)
        counts[group_of_column(m, c)]++;
    return counts;
}

/* A block of the sorted columns has one scale. */
static esp_code check_group_sizes(const packed_matrix *m, esp_error *err) {
    uint32_t *counts = count_columns(m);
    esp_code code = ESP_OK;
    for (uint32_t g = 0; g < m->group_count && !code; g++)
        if (counts[g] % BLOCK_COLS)
            code = packed_fail(m, err, "%.*s gives group %u %u inputs; wanted a multiple of %d",
                               (int)m->part[PART_GROUPS]->name.bytes, m->part[PART_GROUPS]->name.at,
                               g, counts[g], BLOCK_COLS);
    free(counts);
    return code;
}

esp_code packed_check_order(packed_matrix *m, esp_error *err) {
    if (!m->part[PART_GROUPS]) return ESP_OK;
    for (uint32_t c = 0; c < m->cols; c++) {
        uint32_t group = group_of_column(m, c);
        if (group >= m->group_count)
            return packed_fail(m, err, "input %u is in group %d of %.*s; wanted 0 to %u", c,
                               (int32_t)group, (int)m->part[PART_GROUPS]->name.bytes,
                               m->part[PART_GROUPS]->name.at, m->group_count - 1);
        if (group != c / m->group_cols) m->ordered = true;
    }
    return m->ordered ? check_group_sizes(m, err) : ESP_OK;
}

void packed_read_order(const packed_matrix *m, uint32_t *order) {
    ESP_ASSERT(m->ordered);
    uint32_t *at = count_columns(m), before = 0;
    for (uint32_t g = 0; g < m->group_count; g++) {
        uint32_t count = at[g];
        at[g] = before;
        before += count;
    }
    for (uint32_t c = 0; c < m->cols; c++)
        order[at[group_of_column(m, c)]++] = c;
    free(at);
}

/* --- parts ------------------------------------------------------------------------------------- */

static const model_tensor *find_part(const tensor_set *tensors, model_text module,
                                     const char *suffix) {
    char name[256];
    if (!suffix) return NULL;
    int bytes = snprintf(name, sizeof name, "%.*s.%s", (int)module.bytes, module.at, suffix);
    return bytes < (int)sizeof name ? tensor_set_find(tensors, name) : NULL;
}

esp_code packed_find(packed_matrix *out, const tensor_set *tensors, model_text module,
                     const packed_scheme *scheme, esp_error *err) {
    const packing_ops *ops = packings[scheme->packing];
    ESP_ASSERT(ops);
    *out = (packed_matrix){.scheme = *scheme, .module = module};
    for (uint32_t i = 0; i < PACKED_PARTS; i++)
        out->part[i] = find_part(tensors, module, ops->parts[i]);
    if (!out->part[PART_SCALES])
        out->part[PART_SCALES] = find_part(tensors, module, ops->other_scales);
    if (out->part[PART_CODES]) out->module.at = out->part[PART_CODES]->name.at;
    for (uint32_t i = 0; i < PACKED_PARTS; i++)
        if (ops->required >> i & 1 && !out->part[i])
            return packed_fail(out, err,
                               "its tensor .%s is missing; the model is incomplete, or is not "
                               "quantised as its configuration says",
                               ops->parts[i]);
    return ops->check(out, err);
}

/* --- blocks ------------------------------------------------------------------------------------ */

size_t packed_row_bytes(const packed_matrix *m) {
    return (size_t)(m->cols / BLOCK_COLS) * dtype_info(m->dtype)->block_bytes;
}

static esp_code read_scale(const packed_matrix *m, uint64_t at, float *out, esp_error *err) {
    const model_tensor *scales = m->part[PART_SCALES];
    const dtype_row *info = dtype_info(scales->dtype);
    info->dequantise((const uint8_t *)scales->data + at * info->block_bytes, out, 1);
    if (isfinite(*out)) return ESP_OK;
    return esp_fail(err, ESP_INVALID, "%s: element %llu of tensor %.*s is %g; wanted a number",
                    scales->file, (unsigned long long)at, (int)scales->name.bytes, scales->name.at,
                    (double)*out);
}

static esp_code refuse_nan(const packed_matrix *m, uint32_t row, esp_error *err) {
    return packed_fail(m, err, "a weight of row %u is no number", row);
}

static bool has_nan(const uint8_t *codes) {
    for (uint32_t i = 0; i < BLOCK_COLS; i++)
        if ((codes[i] & 0x7f) == 0x7f) return true;
    return false;
}

/* Block b of a row, all of it in `group`. */
static esp_code read_block(const packed_matrix *m, uint32_t row, uint32_t b, uint32_t group,
                           const uint32_t *order, uint8_t *out, esp_error *err) {
    const packing_ops *ops = packings[m->scheme.packing];
    float scale;
    esp_code code = read_scale(m, ops->scale_at(m, row, group), &scale, err);
    if (code) return code;
    memcpy(out, &scale, sizeof scale);
    out += sizeof scale;
    if (ops->zero) {
        uint16_t zero = (uint16_t)ops->zero(m, row, group);
        ESP_ASSERT(zero <= QUANT_ZERO_MAX);
        memcpy(out, &zero, sizeof zero);
        out += sizeof zero;
    }
    ops->read_codes(m, row, b, order, out);
    return m->dtype == DT_F8_E4M3 && has_nan(out) ? refuse_nan(m, row, err) : ESP_OK;
}

/* At most STRIPE_ROWS rows. */
static esp_code read_stripe(const packed_matrix *m, uint32_t first, uint32_t count,
                            const uint32_t *order, uint8_t *blocks, esp_error *err) {
    size_t row_bytes = packed_row_bytes(m), block_bytes = dtype_info(m->dtype)->block_bytes;
    for (uint32_t b = 0; b < m->cols / BLOCK_COLS; b++) {
        uint32_t column = b * BLOCK_COLS;
        uint32_t group = order ? group_of_column(m, order[column]) : column / m->group_cols;
        for (uint32_t i = 0; i < count; i++) {
            esp_code code = read_block(m, first + i, b, group, order,
                                       blocks + i * row_bytes + b * block_bytes, err);
            if (code) return code;
        }
    }
    return ESP_OK;
}

esp_code packed_read_rows(const packed_matrix *m, uint32_t first, uint32_t count, void *blocks,
                          esp_error *err) {
    ESP_ASSERT((uint64_t)first + count <= m->rows);
    uint32_t *order = m->ordered ? mem_new(m->cols, sizeof *order) : NULL;
    if (order) packed_read_order(m, order);
    esp_code code = ESP_OK;
    for (uint32_t done = 0; done < count && !code; done += STRIPE_ROWS) {
        uint32_t rows = count - done < STRIPE_ROWS ? count - done : STRIPE_ROWS;
        code = read_stripe(m, first + done, rows, order,
                           (uint8_t *)blocks + done * packed_row_bytes(m), err);
    }
    free(order);
    return code;
}
