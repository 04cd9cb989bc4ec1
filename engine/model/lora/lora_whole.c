/* lora_whole.c - whole matrices: tables that the adapter gives, and the base's embedding with an
 * update added in. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/model/lora/lora_inner.h"

enum { STEP_ROWS = 64 }; /* of a table, unpacked at once */

static const char *row_at(const model_tensor *tensor, uint32_t row) {
    return (const char *)tensor->data + tensor->bytes / tensor->dims[1] * row;
}

/* Of a table as the adapter gives it, else of the base's; count 0: none of these rows are in it. */
static esp_code given_rows(const lora_file *file, lora_site site, uint32_t first, uint32_t count,
                           void **rows, float *out, esp_error *err) {
    const model_tensor *given = lora_at(file, 0, site)->piece[PIECE_WEIGHT];
    if (!count) return ESP_OK;
    if (given) {
        dtype_info(given->dtype)
            ->dequantise(row_at(given, first), out, (size_t)count * given->dims[0]);
        return ESP_OK;
    }
    lora_base_rows base;
    esp_code code = lora_base_find(file->base, 0, site, &base, err);
    return code ? code : lora_base_read(file->base, &base, first, count, rows, out, err);
}

/* Rows of a table before an update. Behind its end there are those of single tokens alone. */
static esp_code table_rows(const lora_file *file, lora_site site, uint32_t first, uint32_t count,
                           void **rows, float *out, esp_error *err) {
    const model_tensor *given = lora_at(file, 0, site)->piece[PIECE_WEIGHT];
    uint32_t there = given ? (uint32_t)given->dims[1] : file->base->spec.vocab;
    uint32_t left = first < there ? there - first : 0;
    esp_code code = given_rows(file, site, first, count < left ? count : left, rows, out, err);
    if (!code) lora_put_tokens(file, site, first, count, out);
    return code;
}

esp_code lora_head_rows(const lora_file *file, uint32_t first, uint32_t count, void **rows,
                        float *out, esp_error *err) {
    lora_site site = file->output_is_embedding ? SITE_EMBEDDING : SITE_OUTPUT;
    return table_rows(file, site, first, count, rows, out, err);
}

/* ---- copies of the base's ---- */

/* Writers put tables beside an update of them, whether trained or not. */
static esp_code is_copy(const lora_file *file, lora_site site, bool *out, esp_error *err) {
    const model_tensor *given = lora_at(file, 0, site)->piece[PIECE_WEIGHT];
    lora_base_rows base;
    uint32_t hidden = file->base->spec.hidden, vocab = file->base->spec.vocab;
    void *rows = NULL;
    esp_code code = lora_base_find(file->base, 0, site, &base, err);
    float *ours = mem_new((size_t)2 * STEP_ROWS * hidden, sizeof *ours);
    float *theirs = ours + (size_t)STEP_ROWS * hidden;
    *out = given->dims[1] == vocab;
    for (uint32_t first = 0; first < vocab && !code && *out; first += STEP_ROWS) {
        uint32_t left = vocab - first, count = left < STEP_ROWS ? left : STEP_ROWS;
        code = given_rows(file, site, first, count, &rows, ours, err);
        if (!code) code = lora_base_read(file->base, &base, first, count, &rows, theirs, err);
        *out = !code && memcmp(ours, theirs, (size_t)count * hidden * sizeof *ours) == 0;
    }
    free(rows);
    free(ours);
    return code;
}

esp_code lora_drop_copies(lora_file *file, esp_error *err) {
    static const lora_site sites[] = {SITE_EMBEDDING, SITE_OUTPUT};
    static const lora_whole wholes[] = {LORA_EMBEDDING, LORA_OUTPUT};
    for (size_t i = 0; i < sizeof sites / sizeof *sites; i++) {
        lora_update *update = lora_at(file, 0, sites[i]);
        bool copy;
        if (!update->piece[PIECE_WEIGHT]) continue;
        esp_code code = is_copy(file, sites[i], &copy, err);
        if (code) return code;
        if (!copy) continue;
        update->piece[PIECE_WEIGHT] = update->piece[PIECE_ORIGINAL] = NULL;
        if (update->piece[PIECE_TOKENS]) continue;
        if (sites[i] == SITE_OUTPUT || !update->rank) file->facts.whole_rows[wholes[i]] = 0;
    }
    return ESP_OK;
}

/* ---- an update of the embedding ---- */

/* A as [rank, rows], B as [cols, rank]. */
typedef struct embedding_update {
    const lora_update *update;
    float *a, *b; /* NULL: no update */
    uint32_t rows, cols;
    bool turned; /* a is [rows, rank] */
} embedding_update;

static embedding_update read_update(const lora_file *file) {
    const lora_update *update = lora_at(file, 0, SITE_EMBEDDING);
    embedding_update e = {.update = update,
                          .rows = file->facts.whole_rows[LORA_EMBEDDING],
                          .cols = file->base->spec.hidden,
                          .turned = file->gguf != NULL};
    if (!update->rank) return e;
    e.a = mem_new((size_t)e.rows * update->rank, sizeof *e.a);
    e.b = mem_new((size_t)e.cols * update->rank, sizeof *e.b);
    lora_floats(update->piece[PIECE_A], e.a);
    lora_floats(update->piece[PIECE_B], e.b);
    return e;
}

static void free_update(embedding_update *e) {
    free(e->a);
    free(e->b);
}

/* row += scale * B a, a being the column of A that belongs to the row's token. */
static void add_update(const embedding_update *e, uint32_t token, float *row) {
    uint32_t rank = e->update->rank;
    for (uint32_t c = 0; c < e->cols; c++) {
        float sum = 0;
        for (uint32_t r = 0; r < rank; r++) {
            size_t at = e->turned ? (size_t)token * rank + r : (size_t)r * e->rows + token;
            sum += e->b[(size_t)c * rank + r] * e->a[at];
        }
        row[c] += e->update->scale * sum;
    }
}

static esp_code updated_rows(const lora_file *file, const embedding_update *e, uint32_t first,
                             uint32_t count, void **rows, float *out, esp_error *err) {
    esp_code code = table_rows(file, SITE_EMBEDDING, first, count, rows, out, err);
    for (uint32_t i = 0; i < count && !code; i++)
        add_update(e, first + i, out + (size_t)i * e->cols);
    return code;
}

/* DoRA of an embedding: each column of the table has a length, and its own magnitude. */
esp_code lora_embedding_factor(lora_file *file, esp_error *err) {
    const model_tensor *magnitude = lora_at(file, 0, SITE_EMBEDDING)->piece[PIECE_MAGNITUDE];
    if (!magnitude) return ESP_OK;
    embedding_update e = read_update(file);
    double *sums = mem_new(e.cols, sizeof *sums);
    float *step = mem_new((size_t)STEP_ROWS * e.cols, sizeof *step);
    void *rows = NULL;
    esp_code code = ESP_OK;
    for (uint32_t first = 0; first < e.rows && !code; first += STEP_ROWS) {
        uint32_t left = e.rows - first, count = left < STEP_ROWS ? left : STEP_ROWS;
        code = updated_rows(file, &e, first, count, &rows, step, err);
        for (size_t i = 0; i < (size_t)count * e.cols && !code; i++)
            sums[i % e.cols] += (double)step[i] * (double)step[i];
    }
    file->embedding_factor = mem_new(e.cols, sizeof *file->embedding_factor);
    lora_floats(magnitude, file->embedding_factor);
    for (uint32_t c = 0; c < e.cols && !code; c++) {
        float *factor = &file->embedding_factor[c];
        *factor = (float)((double)*factor / sqrt(sums[c]));
        if (!isfinite(*factor))
            code = lora_fail_tensor(magnitude, err,
                                    "divides by the length of column %u, which is 0", c);
    }
    free_update(&e);
    free(sums);
    free(step);
    free(rows);
    return code;
}

/* As float32, without an update. */
static esp_code read_table(const lora_file *file, lora_site site, uint32_t first, uint32_t count,
                           lora_scratch *scratch, kern_matrix_desc *out, esp_error *err) {
    uint32_t cols = file->base->spec.hidden;
    float *at = lora_room(scratch, (size_t)count * cols);
    *out = (kern_matrix_desc){.dtype = DT_F32, .rows = count, .cols = cols, .data = at};
    return table_rows(file, site, first, count, &scratch->rows, at, err);
}

static esp_code read_embedding(const lora_file *file, uint32_t first, uint32_t count,
                               lora_scratch *scratch, kern_matrix_desc *out, esp_error *err) {
    embedding_update e = read_update(file);
    float *at = lora_room(scratch, (size_t)count * e.cols);
    esp_code code = updated_rows(file, &e, first, count, &scratch->rows, at, err);
    for (size_t i = 0; file->embedding_factor && i < (size_t)count * e.cols && !code; i++)
        at[i] *= file->embedding_factor[i % e.cols];
    free_update(&e);
    *out = (kern_matrix_desc){.dtype = DT_F32, .rows = count, .cols = e.cols, .data = at};
    return code;
}

esp_code lora_file_read_whole(const lora_file *file, lora_whole which, uint32_t first,
                              uint32_t count, lora_scratch *scratch, kern_matrix_desc *out,
                              esp_error *err) {
    static const lora_site sites[] = {SITE_EMBEDDING, SITE_OUTPUT, SITE_SCORE};
    ESP_ASSERT(file->base && which < LORA_WHOLES && count > 0);
    ESP_ASSERT((uint64_t)first + count <= file->facts.whole_rows[which]);
    bool tied = which == LORA_OUTPUT && file->output_is_embedding;
    if (tied) which = LORA_EMBEDDING;
    const lora_update *update = lora_at(file, 0, sites[which]);
    const model_tensor *given = update->piece[PIECE_WEIGHT];
    if (which == LORA_EMBEDDING && update->rank && (!tied || file->facts.one_table))
        return read_embedding(file, first, count, scratch, out, err);
    if (which != LORA_SCORE && (!given || update->piece[PIECE_TOKENS]))
        return read_table(file, sites[which], first, count, scratch, out, err);
    *out = (kern_matrix_desc){.dtype = given->dtype,
                              .rows = count,
                              .cols = (uint32_t)given->dims[0],
                              .data = row_at(given, first)};
    return ESP_OK;
}
