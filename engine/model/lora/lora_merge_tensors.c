/* lora_merge_tensors.c - the merged tensors, written one after another: matrices in bfloat16, vectors in
 * float32, under the names of the base's family. */
// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/model/lora/lora_merge_inner.h"

enum { STEP_ROWS = 64, NAME_MAX_BYTES = 160 };

bool lora_merge_unties(const lora_file *adapter) {
    const lora_facts *facts = &adapter->facts;
    bool tied = adapter->base->spec.tied_embeddings;
    bool own = facts->whole_rows[LORA_OUTPUT] && !facts->one_table;
    bool head = lora_at(adapter, 0, SITE_OUTPUT)->rank > 0;
    bool moved = facts->whole_rows[LORA_EMBEDDING] && !facts->one_table;
    if (adapter->base->spec.pooling != POOLING_NONE) return false;
    return !tied || own || head || moved;
}

/* ---- which matrix of a linear a role's rows are ---- */

typedef struct role_parts {
    lora_linear linear;
    uint32_t first, count; /* parts of the linear */
} role_parts;

/* false: the role is no matrix of a layer. */
static bool parts_of(tensor_role role, role_parts *out) {
    static const struct {
        tensor_role role;
        role_parts parts;
    } roles[] = {
        {TENSOR_Q, {LORA_QKV, 0, 1}},      {TENSOR_K, {LORA_QKV, 1, 1}},
        {TENSOR_V, {LORA_QKV, 2, 1}},      {TENSOR_QKV, {LORA_QKV, 0, 3}},
        {TENSOR_O, {LORA_O, 0, 1}},        {TENSOR_GATE, {LORA_GATE_UP, 0, 1}},
        {TENSOR_UP, {LORA_GATE_UP, 1, 1}}, {TENSOR_GATE_UP, {LORA_GATE_UP, 0, 2}},
        {TENSOR_DOWN, {LORA_DOWN, 0, 1}},
    };
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (roles[i].role == role) {
            *out = roles[i].parts;
            return true;
        }
    return false;
}

static lora_site site_of(role_parts parts, uint32_t part) {
    static const lora_site first[] = {[LORA_QKV] = SITE_Q,
                                      [LORA_O] = SITE_O,
                                      [LORA_GATE_UP] = SITE_GATE,
                                      [LORA_DOWN] = SITE_DOWN};
    return first[parts.linear] + parts.first + part;
}

static bool is_bias(tensor_role role) {
    return role == TENSOR_Q_BIAS || role == TENSOR_K_BIAS || role == TENSOR_V_BIAS;
}

/* ---- the list ---- */

typedef struct merged_tensor {
    char name[NAME_MAX_BYTES];
    tensor_role role;
    uint32_t layer;
    uint32_t rows, cols; /* rows 0: a vector */
} merged_tensor;

typedef struct merged_list {
    merged_tensor *at;
    uint32_t count;
    uint64_t bytes;
} merged_list;

static uint64_t bytes_of(const merged_tensor *t) {
    return t->rows ? (uint64_t)t->rows * t->cols * sizeof(uint16_t) : t->cols * sizeof(float);
}

static void add(const lora_merge_run *run, merged_list *list, tensor_role role, uint32_t layer,
                uint32_t rows, uint32_t cols) {
    const char *pattern = run->family->config_tensor_names[role];
    merged_tensor *t = &list->at[list->count++];
    size_t used =
        (size_t)snprintf(t->name, sizeof t->name, "%s", role == TENSOR_OUTPUT ? "" : "model.");
    snprintf(t->name + used, sizeof t->name - used, pattern, layer);
    t->role = role;
    t->layer = layer;
    t->rows = rows;
    t->cols = cols;
    list->bytes += bytes_of(t);
}

/* Of one role, where family and base have it. */
static esp_code list_role(const lora_merge_run *run, merged_list *list, tensor_role role,
                          uint32_t layer, esp_error *err) {
    const checkpoint *base = run->base;
    role_parts parts;
    if (!run->family->config_tensor_names[role]) return ESP_OK;
    if (role == TENSOR_EMBEDDING || role == TENSOR_OUTPUT) {
        bool wanted = role == TENSOR_EMBEDDING || run->untied;
        if (wanted) add(run, list, role, layer, run->vocab, base->spec.hidden);
        return ESP_OK;
    }
    if (parts_of(role, &parts)) {
        checkpoint_matrix matrix;
        esp_code code = checkpoint_find_matrix(base, role, layer, &matrix, err);
        if (!code && matrix.rows) add(run, list, role, layer, matrix.rows, matrix.cols);
        return code;
    }
    const model_tensor *tensor;
    esp_code code = checkpoint_find(base, role, layer, &tensor, err);
    if (!code && tensor) add(run, list, role, layer, 0, (uint32_t)tensor->dims[0]);
    return code;
}

static esp_code list_all(const lora_merge_run *run, merged_list *list, esp_error *err) {
    uint32_t layers = run->base->spec.layers;
    size_t most = TENSOR_ATTN_NORM + (size_t)layers * (TENSOR_ROLE_COUNT - TENSOR_ATTN_NORM);
    list->at = mem_new(most, sizeof *list->at);
    esp_code code = ESP_OK;
    for (tensor_role role = TENSOR_EMBEDDING; role < TENSOR_ATTN_NORM && !code; role++)
        code = list_role(run, list, role, 0, err);
    for (uint32_t layer = 0; layer < layers && !code; layer++)
        for (tensor_role role = TENSOR_ATTN_NORM; role < TENSOR_ROLE_COUNT && !code; role++)
            code = list_role(run, list, role, layer, err);
    return code;
}

/* ---- writing ---- */

typedef struct merge_writer {
    const lora_merge_run *run;
    FILE *file;
    lora_scratch scratch; /* the adapter's */
    void *rows;           /* the base's */
    float *step;          /* [STEP_ROWS or a head, cols] */
    uint16_t *row;        /* [cols] */
    uint64_t done, total;
    esp_error *err;
} merge_writer;

static void write_row(merge_writer *w, const float *values, uint32_t cols) {
    for (uint32_t c = 0; c < cols; c++)
        w->row[c] = bf16_of_f32(values[c]);
    fwrite(w->row, sizeof *w->row, cols, w->file);
}

static esp_code wrote(merge_writer *w, uint64_t bytes) {
    const lora_merge_options *o = w->run->options;
    w->done += bytes;
    if (o->progress) o->progress(o->progress_arg, w->done, w->total);
    if (!ferror(w->file)) return ESP_OK;
    int number = errno;
    return esp_fail_field(w->err, number == ENOSPC ? ESP_EXHAUSTED : ESP_INTERNAL, "--out",
                          "model.safetensors: cannot write: %s", strerror(number));
}

/* Row `row` of W + scale * B A, times the magnitude. */
static void add_update(const kern_lora_part *part, uint32_t row, float *out, uint32_t cols) {
    for (uint32_t r = 0; r < part->rank; r++)
        lora_add_scaled(out, part->a + (size_t)r * cols,
                        part->scale * part->b[(size_t)row * part->rank + r], cols);
    for (uint32_t c = 0; part->magnitude && c < cols; c++)
        out[c] *= part->magnitude[row];
}

/* The row of the base that belongs at a row of the folder: rows of q and k of some GGUF files lie so that
 * rope's pairs are neighbours, in folders the pairs lie half a head apart. Within one head. */
static uint32_t base_row(const merge_writer *w, lora_site site, uint32_t row) {
    const model_spec *spec = &w->run->base->spec;
    uint32_t half = spec->head_dim / 2, in_head = row % spec->head_dim;
    if (!spec->rope_interleaved || (site != SITE_Q && site != SITE_K)) return row;
    return row - in_head + in_head % half * 2 + in_head / half;
}

/* The rows of one matrix of a linear. */
static esp_code write_part(merge_writer *w, uint32_t layer, lora_site site,
                           const kern_lora_part *part, uint32_t cols) {
    lora_base_rows base;
    uint32_t head = w->run->base->spec.head_dim; /* whole heads, which may be permuted */
    uint32_t step = site == SITE_Q || site == SITE_K ? head : STEP_ROWS;
    esp_code code = lora_base_find(w->run->base, layer, site, &base, w->err);
    for (uint32_t first = 0; first < part->rows && !code; first += step) {
        uint32_t left = part->rows - first, count = left < step ? left : step;
        code = lora_base_read(w->run->base, &base, first, count, &w->rows, w->step, w->err);
        for (uint32_t i = 0; i < count && !code; i++) {
            uint32_t from = base_row(w, site, first + i);
            float *row = w->step + (size_t)(from - first) * cols;
            add_update(part, from, row, cols);
            write_row(w, row, cols);
        }
        if (!code) code = wrote(w, (uint64_t)count * cols * sizeof(uint16_t));
    }
    return code;
}

static esp_code write_linear(merge_writer *w, const merged_tensor *t, role_parts parts) {
    kern_lora_desc desc;
    bool touched;
    esp_code code = lora_file_read(w->run->adapter, t->layer, parts.linear, &w->scratch, &desc,
                                   &touched, w->err);
    for (uint32_t i = 0; i < parts.count && !code; i++)
        code = write_part(w, t->layer, site_of(parts, i), &desc.part[parts.first + i], t->cols);
    return code;
}

static esp_code read_embedding(merge_writer *w, uint32_t first, uint32_t count) {
    const lora_file *adapter = w->run->adapter;
    kern_matrix_desc desc;
    lora_base_rows base;
    if (!adapter->facts.whole_rows[LORA_EMBEDDING]) {
        esp_code code = lora_base_find(w->run->base, 0, SITE_EMBEDDING, &base, w->err);
        return code ? code
                    : lora_base_read(w->run->base, &base, first, count, &w->rows, w->step, w->err);
    }
    esp_code code =
        lora_file_read_whole(adapter, LORA_EMBEDDING, first, count, &w->scratch, &desc, w->err);
    if (!code) dtype_info(desc.dtype)->dequantise(desc.data, w->step, (size_t)count * desc.cols);
    return code;
}

/* embed_tokens, and lm_head with its update. */
static esp_code write_table(merge_writer *w, const merged_tensor *t) {
    const lora_file *adapter = w->run->adapter;
    kern_lora_desc head = {0};
    bool touched = false, output = t->role == TENSOR_OUTPUT;
    /* an update of lm_head stays in the scratch, so the rows below must not use it */
    esp_code code =
        output ? lora_file_read_head(adapter, &w->scratch, &head, &touched, w->err) : ESP_OK;
    for (uint32_t first = 0; first < t->rows && !code; first += STEP_ROWS) {
        uint32_t left = t->rows - first, count = left < STEP_ROWS ? left : STEP_ROWS;
        code = output ? lora_head_rows(adapter, first, count, &w->rows, w->step, w->err)
                      : read_embedding(w, first, count);
        for (uint32_t i = 0; i < count && !code; i++) {
            float *row = w->step + (size_t)i * t->cols;
            if (touched) add_update(&head.part[0], first + i, row, t->cols);
            write_row(w, row, t->cols);
        }
        if (!code) code = wrote(w, (uint64_t)count * t->cols * sizeof(uint16_t));
    }
    return code;
}

/* A bias in the order of the folder's rows, with what the adapter adds. */
static esp_code change_bias(merge_writer *w, const merged_tensor *t, float *values) {
    static const tensor_role roles[] = {TENSOR_Q_BIAS, TENSOR_K_BIAS, TENSOR_V_BIAS};
    kern_lora_desc desc;
    bool touched;
    uint32_t part = 0;
    while (roles[part] != t->role)
        part++;
    esp_code code =
        lora_file_read(w->run->adapter, t->layer, LORA_QKV, &w->scratch, &desc, &touched, w->err);
    const float *bias = code ? NULL : desc.part[part].bias;
    for (uint32_t i = 0; bias && i < t->cols; i++)
        values[i] += bias[i];
    return code;
}

/* Norms that count from 1 in a folder count from 0 in a GGUF file. */
static bool is_centred(const merge_writer *w, tensor_role role) {
    const lora_merge_run *run = w->run;
    return run->family->config_centred_norms && !run->base->centred_norms && !is_bias(role);
}

static esp_code write_vector(merge_writer *w, const merged_tensor *t) {
    const model_tensor *tensor;
    esp_code code = checkpoint_find(w->run->base, t->role, t->layer, &tensor, w->err);
    if (code) return code;
    float *values = mem_new(t->cols, sizeof *values);
    lora_floats(tensor, values);
    for (uint32_t i = 0; i < t->cols && is_centred(w, t->role); i++)
        values[i] -= 1;
    if (is_bias(t->role)) code = change_bias(w, t, values);
    if (!code) {
        fwrite(values, sizeof *values, t->cols, w->file);
        code = wrote(w, t->cols * sizeof *values);
    }
    free(values);
    return code;
}

static esp_code write_one(merge_writer *w, const merged_tensor *t) {
    role_parts parts;
    if (!t->rows) return write_vector(w, t);
    return parts_of(t->role, &parts) ? write_linear(w, t, parts) : write_table(w, t);
}

/* Blanks make the data begin at a multiple of 8. */
static void write_header(const merged_list *list, FILE *file) {
    char *text = NULL;
    size_t bytes = 0;
    uint64_t at = 0, length;
    FILE *header = open_memstream(&text, &bytes);
    ESP_ASSERT(header);
    fprintf(header, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (uint32_t i = 0; i < list->count; i++) {
        const merged_tensor *t = &list->at[i];
        char shape[32];
        snprintf(shape, sizeof shape, t->rows ? "%u,%u" : "%u", t->rows ? t->rows : t->cols,
                 t->cols);
        fprintf(header, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%llu,%llu]}",
                t->name, t->rows ? "BF16" : "F32", shape, (unsigned long long)at,
                (unsigned long long)(at + bytes_of(t)));
        at += bytes_of(t);
    }
    fprintf(header, "}");
    ESP_ASSERT(fflush(header) == 0);
    fprintf(header, "%*s", (int)((8 - bytes % 8) % 8), "");
    ESP_ASSERT(fclose(header) == 0);
    length = bytes;
    fwrite(&length, sizeof length, 1, file);
    fwrite(text, 1, bytes, file);
    free(text);
}

static esp_code write_all(merge_writer *w, const merged_list *list) {
    uint32_t widest = 0, deepest = w->run->base->spec.head_dim;
    if (deepest < STEP_ROWS) deepest = STEP_ROWS;
    for (uint32_t i = 0; i < list->count; i++)
        if (list->at[i].cols > widest) widest = list->at[i].cols;
    w->step = mem_new((size_t)deepest * widest, sizeof *w->step);
    w->row = mem_new(widest, sizeof *w->row);
    w->total = list->bytes;
    write_header(list, w->file);
    esp_code code = ESP_OK;
    for (uint32_t i = 0; i < list->count && !code; i++)
        code = write_one(w, &list->at[i]);
    return code;
}

esp_code lora_merge_tensors(const lora_merge_run *run, FILE *file, esp_error *err) {
    merge_writer w = {.run = run, .file = file, .err = err};
    merged_list list = {0};
    esp_code code = list_all(run, &list, err);
    if (!code) code = write_all(&w, &list);
    lora_scratch_free(&w.scratch);
    free(w.rows);
    free(w.step);
    free(w.row);
    free(list.at);
    return code;
}

/* ---- what has no place ---- */

static esp_code check_biases(const lora_merge_run *run, uint32_t layer, lora_linear which,
                             lora_scratch *scratch, esp_error *err) {
    kern_lora_desc desc;
    bool touched;
    esp_code code = lora_file_read(run->adapter, layer, which, scratch, &desc, &touched, err);
    role_parts parts = {which, 0, desc.part_count};
    for (uint32_t i = 0; !code && i < desc.part_count; i++) {
        float *base = NULL;
        if (!desc.part[i].bias) continue;
        code = lora_base_bias(run->base, layer, site_of(parts, i), &base, err);
        bool found = base != NULL;
        free(base);
        if (!code && !found)
            return esp_fail(err, ESP_UNIMPLEMENTED,
                            "%s: the adapter adds a bias to %s of layer %u, where a %s model has "
                            "none; it can be served, not merged",
                            run->adapter->name, lora_site_name(run->adapter, site_of(parts, i)),
                            layer, run->base->spec.family);
    }
    return code;
}

esp_code lora_merge_check(const lora_merge_run *run, esp_error *err) {
    const lora_file *adapter = run->adapter;
    lora_scratch scratch = {0};
    esp_code code = ESP_OK;
    if (adapter->facts.whole_rows[LORA_SCORE])
        return esp_fail(err, ESP_UNIMPLEMENTED,
                        "%s: the adapter is a sequence classifier; its score head has no place in "
                        "a model that generates",
                        adapter->name);
    if (run->base->spec.encoder)
        return esp_fail(err, ESP_UNIMPLEMENTED,
                        "%s: the base %s is an encoder; merged checkpoints are written of decoders "
                        "only: serve the adapter beside its base",
                        adapter->name, run->base->name);
    if (!run->family->classes)
        return esp_fail(err, ESP_UNIMPLEMENTED, "%s: %s models have no form as a folder",
                        run->base->name, run->base->spec.family);
    bool biases = adapter->config.biases || adapter->config.second_bias;
    for (uint32_t layer = 0; biases && layer < run->base->spec.layers && !code; layer++)
        for (lora_linear which = LORA_QKV; which < LORA_LINEARS && !code; which++)
            code = check_biases(run, layer, which, &scratch, err);
    lora_scratch_free(&scratch);
    return code;
}
