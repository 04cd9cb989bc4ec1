/* lora_read.c - the update of a linear as float32 arrays, in the base's order of rows. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/model/lora/lora_inner.h"

void lora_floats(const model_tensor *tensor, float *out) {
    dtype_info(tensor->dtype)->dequantise(tensor->data, out, (size_t)tensor_element_count(tensor));
}

float *lora_room(lora_scratch *scratch, size_t count) {
    if (count > scratch->count) {
        free(scratch->at);
        scratch->at = mem_new(count, sizeof *scratch->at);
        scratch->count = count;
    }
    return scratch->at;
}

void lora_scratch_free(lora_scratch *scratch) {
    free(scratch->at);
    free(scratch->rows);
    *scratch = (lora_scratch){0};
}

/* ---- one matrix of a linear ---- */

/* Where its update lies. */
typedef struct part_source {
    const lora_file *file;
    const lora_update *update; /* of its own site, or of the fused one; NULL: none */
    uint32_t layer;
    lora_site site;
    uint32_t first; /* row of the update where the matrix begins */
    uint32_t rows, cols;
} part_source;

typedef struct linear_sites {
    lora_site first, fused; /* fused == first: there is no such site */
    uint32_t count;
} linear_sites;

static linear_sites sites_of(const model_spec *spec, lora_linear which) {
    static const linear_sites sites[LORA_LINEARS] = {[LORA_QKV] = {SITE_Q, SITE_QKV, 3},
                                                     [LORA_O] = {SITE_O, SITE_O, 1},
                                                     [LORA_GATE_UP] = {SITE_GATE, SITE_GATE_UP, 2},
                                                     [LORA_DOWN] = {SITE_DOWN, SITE_DOWN, 1}};
    if (spec->encoder && which == LORA_GATE_UP) return (linear_sites){SITE_UP, SITE_UP, 1};
    return sites[which];
}

static part_source find_part(const lora_file *file, uint32_t layer, const linear_sites *sites,
                             uint32_t index) {
    const model_spec *spec = &file->base->spec;
    lora_site site = sites->first + index;
    part_source part = {.file = file,
                        .update = lora_at(file, layer, site),
                        .layer = layer,
                        .site = site,
                        .rows = lora_site_rows(spec, site),
                        .cols = lora_site_cols(spec, site)};
    if (part.update->module.bytes) return part;
    part.update = lora_at(file, layer, sites->fused);
    for (lora_site before = sites->first; before < site; before++)
        part.first += lora_site_rows(spec, before);
    if (!part.update->module.bytes) part.update = NULL;
    return part;
}

/* The row of the files for a row of the base: those of q and k may lie so that rope's pairs are
 * neighbours, here or there. */
static uint32_t source_row(const part_source *part, uint32_t row) {
    const model_spec *spec = &part->file->base->spec;
    bool adapter = lora_rows_interleaved(part->file);
    bool turned = part->site == SITE_Q || part->site == SITE_K;
    if (!turned || adapter == spec->rope_interleaved) return part->first + row;
    uint32_t half = spec->head_dim / 2, in_head = row % spec->head_dim;
    uint32_t from =
        adapter ? in_head % half * 2 + in_head / half : in_head % 2 * half + in_head / 2;
    return part->first + row - in_head + from;
}

/* Rows of a tensor in the base's order; a vector has rows of one element. */
static void read_rows(const part_source *part, const model_tensor *tensor, uint32_t row_elements,
                      float *out) {
    const dtype_row *type = dtype_info(tensor->dtype);
    size_t row_bytes = (size_t)row_elements / type->block_elements * type->block_bytes;
    for (uint32_t row = 0; row < part->rows; row++)
        type->dequantise((const char *)tensor->data + source_row(part, row) * row_bytes,
                         out + (size_t)row * row_elements, row_elements);
}

/* ---- DoRA ---- */

typedef float four_floats __attribute__((vector_size(16)));

void lora_add_scaled(float *row, const float *a, float factor, uint32_t cols) {
    for (uint32_t c = 0; c < cols; c += 4) {
        four_floats x, y;
        memcpy(&x, row + c, sizeof x);
        memcpy(&y, a + c, sizeof y);
        x += factor * y;
        memcpy(row + c, &x, sizeof x);
    }
}

static double norm_of(const float *row, uint32_t cols) {
    double sum = 0;
    for (uint32_t c = 0; c < cols; c++)
        sum += (double)row[c] * (double)row[c];
    return sqrt(sum);
}

/* Rows of the base that an update goes on top of. */
static esp_code base_rows(const part_source *part, const lora_base_rows *base, uint32_t first,
                          uint32_t count, void **rows, float *out, esp_error *err) {
    if (part->site == SITE_OUTPUT) return lora_head_rows(part->file, first, count, rows, out, err);
    return lora_base_read(part->file->base, base, first, count, rows, out, err);
}

enum { NORM_ROWS = 16 }; /* of the base, unpacked at once */

/* magnitude[row] /= ||W + scale * B A|| of that row, as PEFT computes it: with W as it lies in the
 * base's files. */
static esp_code divide_by_norms(const part_source *part, const kern_lora_part *update,
                                float *magnitude, float *spare, void **rows, esp_error *err) {
    lora_base_rows base = {0};
    esp_code code = ESP_OK;
    if (part->site != SITE_OUTPUT)
        code = lora_base_find(part->file->base, part->layer, part->site, &base, err);
    for (uint32_t first = 0; first < part->rows && !code; first += NORM_ROWS) {
        uint32_t left = part->rows - first, count = left < NORM_ROWS ? left : NORM_ROWS;
        code = base_rows(part, &base, first, count, rows, spare, err);
        for (uint32_t i = 0; i < count && !code; i++) {
            float *row = spare + (size_t)i * part->cols;
            const float *b = update->b + (size_t)(first + i) * update->rank;
            for (uint32_t r = 0; r < update->rank; r++)
                lora_add_scaled(row, update->a + (size_t)r * part->cols, update->scale * b[r],
                                part->cols);
            float *m = &magnitude[first + i];
            *m = (float)((double)*m / norm_of(row, part->cols));
            if (!isfinite(*m))
                return esp_fail(err, ESP_INVALID,
                                "%s: row %u of the sum of base and update of %.*s has no length, "
                                "and DoRA divides by it",
                                part->file->name, first + i, (int)part->update->module.bytes,
                                part->update->module.at);
        }
    }
    return code;
}

/* ---- a part of a desc ---- */

static bool has_bias(const lora_update *update) {
    return update->piece[PIECE_BIAS] || update->piece[PIECE_B_BIAS];
}

/* Floats of a part, and what is read on the way. */
static size_t part_floats(const part_source *part) {
    const lora_update *update = part->update;
    if (!update) return 0;
    size_t rows = part->rows, cols = part->cols, count = (rows + cols) * update->rank;
    if (has_bias(update)) count += 2 * rows;
    if (update->piece[PIECE_MAGNITUDE]) count += rows + NORM_ROWS * cols;
    return count;
}

/* The new bias less the base's, and the scaled one of B. spare: [rows] */
static esp_code read_bias(const part_source *part, float *bias, float *spare, esp_error *err) {
    const lora_update *update = part->update;
    float *base = NULL;
    esp_code code = ESP_OK;
    memset(bias, 0, part->rows * sizeof *bias);
    if (update->piece[PIECE_BIAS]) {
        read_rows(part, update->piece[PIECE_BIAS], 1, bias);
        code = lora_base_bias(part->file->base, part->layer, part->site, &base, err);
    }
    for (uint32_t i = 0; base && i < part->rows; i++)
        bias[i] -= base[i];
    free(base);
    if (code || !update->piece[PIECE_B_BIAS]) return code;
    read_rows(part, update->piece[PIECE_B_BIAS], 1, spare);
    for (uint32_t i = 0; i < part->rows; i++)
        bias[i] += update->scale * spare[i];
    return ESP_OK;
}

/* at: where the part's arrays may lie, set behind them. shared: `a` of a part before it, of the same
 * update, or NULL. */
static esp_code read_part(const part_source *part, const float *shared, float **at, void **rows,
                          kern_lora_part *out, esp_error *err) {
    const lora_update *update = part->update;
    *out = (kern_lora_part){.rows = part->rows};
    if (!update) return ESP_OK;
    out->rank = update->rank;
    out->scale = update->scale;
    if (update->rank) {
        float *a = *at, *b = a + (shared ? 0 : (size_t)update->rank * part->cols);
        if (!shared) lora_floats(update->piece[PIECE_A], a);
        read_rows(part, update->piece[PIECE_B], update->rank, b);
        out->a = shared ? shared : a;
        out->b = b;
        *at = b + (size_t)part->rows * update->rank;
    }
    esp_code code = ESP_OK;
    if (has_bias(update)) {
        out->bias = *at;
        *at += 2 * (size_t)part->rows;
        code = read_bias(part, *at - 2 * (size_t)part->rows, *at - part->rows, err);
    }
    if (code || !update->piece[PIECE_MAGNITUDE]) return code;
    float *magnitude = *at, *spare = magnitude + part->rows;
    read_rows(part, update->piece[PIECE_MAGNITUDE], 1, magnitude);
    out->magnitude = magnitude;
    *at = spare + (size_t)NORM_ROWS * part->cols;
    return divide_by_norms(part, out, magnitude, spare, rows, err);
}

static esp_code read_parts(const part_source *parts, uint32_t count, lora_scratch *scratch,
                           kern_lora_desc *out, bool *touched, esp_error *err) {
    size_t floats = 0;
    *touched = false;
    for (uint32_t i = 0; i < count; i++) {
        floats += part_floats(&parts[i]);
        *touched = *touched || parts[i].update;
    }
    *out = (kern_lora_desc){.cols = parts[0].cols, .part_count = count};
    float *at = lora_room(scratch, floats);
    esp_code code = ESP_OK;
    for (uint32_t i = 0; i < count && !code; i++) {
        bool same = i > 0 && parts[i].update && parts[i].update == parts[i - 1].update;
        code = read_part(&parts[i], same ? out->part[i - 1].a : NULL, &at, &scratch->rows,
                         &out->part[i], err);
    }
    return code;
}

esp_code lora_file_read(const lora_file *file, uint32_t layer, lora_linear which,
                        lora_scratch *scratch, kern_lora_desc *out, bool *touched, esp_error *err) {
    ESP_ASSERT(file->base && layer < file->layers && which < LORA_LINEARS);
    part_source parts[LINEAR_MATRICES_MAX];
    linear_sites sites = sites_of(&file->base->spec, which);
    for (uint32_t i = 0; i < sites.count; i++)
        parts[i] = find_part(file, layer, &sites, i);
    return read_parts(parts, sites.count, scratch, out, touched, err);
}

esp_code lora_file_read_head(const lora_file *file, lora_scratch *scratch, kern_lora_desc *out,
                             bool *touched, esp_error *err) {
    ESP_ASSERT(file->base);
    const lora_update *update = lora_at(file, 0, SITE_OUTPUT);
    uint32_t given = file->facts.whole_rows[LORA_OUTPUT];
    part_source part = {.file = file,
                        .update = update->rank ? update : NULL,
                        .site = SITE_OUTPUT,
                        .rows = given ? given : file->base->spec.vocab,
                        .cols = file->base->spec.hidden};
    return read_parts(&part, 1, scratch, out, touched, err);
}
