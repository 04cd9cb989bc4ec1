/* weights.c - tensors of a file -> packed matrices on a device. Each byte is read once. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/check.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "engine/base/pool.h"
#include "engine/model/cache/pack_cache.h"
#include "engine/model/cache/quantize_rows.h"
#include "engine/model/checkpoint.h"
#include "engine/model/read_ahead.h"

/* A matrix that a new pack would have. */
typedef struct new_item {
    pack_place place;
    const kern_matrix *matrix;
} new_item;

/* What the loading functions share. */
typedef struct loader {
    model *m;
    const checkpoint *weights;
    void *scratch;     /* of checkpoint_read_rows */
    void *blocks;      /* of quantize_rows */
    void *columns;     /* of shard_columns */
    read_ahead *ahead; /* NULL: a pack has the weights */
    uint64_t done_bytes, total_bytes;
    new_item *packed; /* here, for a new pack */
    uint32_t packed_count, packed_capacity;
    esp_error *err;
} loader;

esp_code model_take_buffer(model *m, uint64_t count, size_t element_bytes, void **out,
                           esp_error *err) {
    uint64_t bytes;
    if (!check_mul(count, element_bytes, &bytes))
        return esp_fail(err, ESP_EXHAUSTED, "model: a buffer of %llu elements cannot be addressed",
                        (unsigned long long)count);
    const model_options *o = &m->options;
    esp_code code = o->ops->alloc(o->dev, bytes, out, err);
    if (code != ESP_OK) return code;
    if (m->buffer_count == m->buffer_capacity) {
        m->buffer_capacity = m->buffer_capacity ? 2 * m->buffer_capacity : 64;
        m->buffers = mem_resize(m->buffers, m->buffer_capacity, sizeof *m->buffers);
    }
    m->buffers[m->buffer_count++] = (device_buffer){*out, bytes};
    return ESP_OK;
}

static void report(loader *l, uint64_t bytes) {
    const model_options *o = &l->m->options;
    l->done_bytes += bytes;
    if (o->progress) o->progress(o->progress_arg, l->done_bytes, l->total_bytes);
}

/* A role's matrix, and where it belongs. */
typedef struct source {
    checkpoint_matrix matrix;
    tensor_role role;
    uint32_t layer;
} source;

static esp_code find_source(loader *l, tensor_role role, uint32_t layer, source *out) {
    out->role = role;
    out->layer = layer;
    return checkpoint_find_matrix(l->weights, role, layer, &out->matrix, l->err);
}

static esp_code quantize(loader *l, const source *from, kern_matrix_desc *desc) {
    const model_options *o = &l->m->options;
    esp_error inner = {0};
    esp_dtype dtype = quantize_dtype(o->quantize_to, desc->dtype, desc->cols);
    if (!o->quantize || dtype == desc->dtype || from->role == TENSOR_POSITIONS ||
        from->role == TENSOR_TOKEN_TYPES)
        return ESP_OK;
    esp_code code = quantize_rows(desc, dtype, o->pool, &l->blocks, &inner);
    if (!code) return ESP_OK;
    const model_tensor *tensor = from->matrix.tensor;
    return esp_fail(l->err, code, "%s: tensor %.*s: %s", tensor->file, (int)tensor->name.bytes,
                    tensor->name.at, inner.message);
}

static bool can_quantize(const loader *l, const source *from) {
    const model_tensor *tensor = from->matrix.tensor;
    esp_dtype to = l->m->options.quantize_to;
    return tensor && quantize_dtype(to, tensor->dtype, from->matrix.cols) != tensor->dtype;
}

/* A model that --quantize leaves as it is was meant for something else. */
static esp_code check_quantize(loader *l) {
    static const tensor_role roles[] = {TENSOR_EMBEDDING, TENSOR_OUTPUT, TENSOR_QKV, TENSOR_Q,
                                        TENSOR_K,         TENSOR_V,      TENSOR_O,   TENSOR_GATE_UP,
                                        TENSOR_GATE,      TENSOR_UP,     TENSOR_DOWN};
    for (uint32_t layer = 0; layer < l->m->spec.layers; layer++)
        for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
            source from;
            esp_code code = find_source(l, roles[i], layer, &from);
            if (code || can_quantize(l, &from)) return code;
        }
    return esp_fail_field(l->err, ESP_INVALID, "--quantize",
                          "%s: no matrix has 16 or 32 bits a weight in rows of whole blocks, so "
                          "--quantize would change nothing; leave it away",
                          l->weights->name);
}

/* Whether the logits come of it: of several ranks a tied embedding is kept twice. */
static bool gives_logits(loader *l, tensor_role role) {
    source from;
    if (role != TENSOR_EMBEDDING || l->m->shard.ranks) return role == TENSOR_OUTPUT;
    bool tied = find_source(l, TENSOR_OUTPUT, 0, &from) == ESP_OK && from.matrix.rows == 0;
    return tied && l->m->spec.pooling == POOLING_NONE;
}

/* Rows [first, first + count) of a matrix as one of their own, or columns of these. */
static esp_code pack_rows(loader *l, const source *from, uint32_t first, uint32_t count,
                          shard_range cols, kern_matrix **out) {
    const model_options *o = &l->m->options;
    kern_matrix_desc desc;
    esp_code code =
        checkpoint_read_rows(l->weights, &from->matrix, first, count, &l->scratch, &desc, l->err);
    if (code == ESP_OK) shard_columns(&desc, cols, &l->columns);
    if (code == ESP_OK) code = quantize(l, from, &desc);
    if (code == ESP_OK) desc.output = gives_logits(l, from->role);
    if (code == ESP_OK) code = o->ops->pack(o->dev, &desc, out, l->err);
    return code;
}

/* The token types are closed before a pack is written. */
static void remember_packed(loader *l, const source *from, uint32_t first,
                            const kern_matrix *matrix) {
    if (!l->m->cache || from->role == TENSOR_TOKEN_TYPES) return;
    if (l->packed_count == l->packed_capacity) {
        l->packed_capacity = l->packed_capacity ? 2 * l->packed_capacity : 256;
        l->packed = mem_resize(l->packed, l->packed_capacity, sizeof *l->packed);
    }
    l->packed[l->packed_count++] = (new_item){{from->role, from->layer, first}, matrix};
}

/* The files' bytes of these rows will not be asked for again. A packed matrix has parts, whose rows
 * lie anywhere: they are done with its last row. */
static esp_code done_with(loader *l, const checkpoint_matrix *matrix, uint32_t first,
                          uint32_t count) {
    const model_tensor *tensor = matrix->tensor;
    esp_code code = ESP_OK;
    if (tensor) {
        uint64_t row_bytes = matrix->bytes / matrix->rows;
        return read_ahead_done(l->ahead, tensor, (const char *)tensor->data + first * row_bytes,
                               count * row_bytes, l->err);
    }
    for (uint32_t i = 0; i < PACKED_PARTS && first + count == matrix->rows && !code; i++) {
        const model_tensor *part = matrix->packed.part[i];
        if (part) code = read_ahead_done(l->ahead, part, part->data, part->bytes, l->err);
    }
    return code;
}

/* The same out of the pack beside the model; false: it is not there. */
static bool map_rows(loader *l, const source *from, uint32_t first, const shard_cut *cut,
                     kern_matrix **out) {
    const model_options *o = &l->m->options;
    kern_image image;
    pack_place place = {from->role, from->layer, first};
    if (!l->m->cache || !pack_cache_find(l->m->cache, place, &image)) return false;
    image.output = gives_logits(l, from->role);
    return image.rows == cut->rows.count && image.cols == cut->cols.count &&
           o->ops->open_image(o->dev, &image, out, NULL) == ESP_OK;
}

/* What this rank holds of rows [first, first + count), which are those of a role, where they lie in a
 * matrix of several. */
static esp_code load_rows(loader *l, const source *from, tensor_role part, uint32_t first,
                          uint32_t count, kern_matrix **out) {
    shard_cut cut = shard_cut_of(&l->m->shard, part, count, from->matrix.cols);
    if (!map_rows(l, from, first, &cut, out)) {
        esp_code code = pack_rows(l, from, first + cut.rows.first, cut.rows.count, cut.cols, out);
        if (code) return code;
        remember_packed(l, from, first, *out);
    }
    l->m->weight_bytes += l->m->options.ops->matrix_bytes(*out);
    report(l, from->matrix.bytes / from->matrix.rows * count);
    return l->ahead ? done_with(l, &from->matrix, first, count) : ESP_OK;
}

static esp_code load_matrix(loader *l, tensor_role role, uint32_t layer, kern_matrix **out) {
    source from;
    esp_code code = find_source(l, role, layer, &from);
    return code || !from.matrix.rows ? code : load_rows(l, &from, role, 0, from.matrix.rows, out);
}

/* Matrices that lie one above the other in one tensor; ends with a part without `out`. */
typedef struct fused_part {
    kern_matrix **out;
    tensor_role role; /* as if it lay alone */
    uint32_t rows;
} fused_part;

static esp_code load_fused(loader *l, tensor_role role, uint32_t layer, const fused_part *part) {
    source from;
    esp_code code = find_source(l, role, layer, &from);
    if (code != ESP_OK || !from.matrix.rows) return code;
    for (uint32_t first = 0; part->out && code == ESP_OK; first += part++->rows)
        code = load_rows(l, &from, part->role, first, part->rows, part->out);
    return code;
}

static esp_code load_vector(loader *l, tensor_role role, uint32_t layer, void **out) {
    float *values;
    uint32_t count;
    esp_code code = checkpoint_read_vector(l->weights, role, layer, &values, &count, l->err);
    if (code != ESP_OK || !values) return code;
    shard_cut cut = shard_cut_of(&l->m->shard, role, count, 1);
    size_t bytes = cut.rows.count * sizeof *values;
    const model_options *o = &l->m->options;
    if (!cut.absent) {
        code = model_take_buffer(l->m, cut.rows.count, sizeof *values, out, l->err);
        if (code == ESP_OK) o->ops->upload(o->dev, *out, values + cut.rows.first, bytes);
        l->m->weight_bytes += bytes;
    }
    free(values);
    report(l, count * sizeof *values);
    return code;
}

static esp_code load_layer(loader *l, uint32_t i) {
    layer_weights *w = &l->m->layers[i];
    const struct {
        tensor_role role;
        kern_matrix **matrix;
        void **vector;
    } parts[] = {
        {TENSOR_ATTN_NORM, NULL, &w->attn_norm},
        {TENSOR_Q, &w->q, NULL},
        {TENSOR_K, &w->k, NULL},
        {TENSOR_V, &w->v, NULL},
        {TENSOR_Q_BIAS, NULL, &w->q_bias},
        {TENSOR_K_BIAS, NULL, &w->k_bias},
        {TENSOR_V_BIAS, NULL, &w->v_bias},
        {TENSOR_Q_NORM, NULL, &w->q_norm},
        {TENSOR_K_NORM, NULL, &w->k_norm},
        {TENSOR_ATTN_POST_NORM, NULL, &w->attn_post_norm},
        {TENSOR_O, &w->o, NULL},
        {TENSOR_MLP_NORM, NULL, &w->mlp_norm},
        {TENSOR_GATE, &w->gate, NULL},
        {TENSOR_UP, &w->up, NULL},
        {TENSOR_DOWN, &w->down, NULL},
        {TENSOR_MLP_POST_NORM, NULL, &w->mlp_post_norm},
        {TENSOR_ATTN_NORM_BIAS, NULL, &w->attn_norm_bias},
        {TENSOR_O_BIAS, NULL, &w->o_bias},
        {TENSOR_MLP_NORM_BIAS, NULL, &w->mlp_norm_bias},
        {TENSOR_UP_BIAS, NULL, &w->up_bias},
        {TENSOR_DOWN_BIAS, NULL, &w->down_bias},
    };
    const model_spec *s = &l->weights->spec;
    uint32_t query = s->heads * s->head_dim, key = s->kv_heads * s->head_dim;
    const fused_part qkv[] = {{&w->q, TENSOR_Q, query},
                              {&w->k, TENSOR_K, key},
                              {&w->v, TENSOR_V, key},
                              {NULL, TENSOR_QKV, 0}};
    const fused_part gate_up[] = {{&w->gate, TENSOR_GATE, s->intermediate},
                                  {&w->up, TENSOR_UP, s->intermediate},
                                  {NULL, TENSOR_GATE_UP, 0}};
    esp_code code = load_fused(l, TENSOR_QKV, i, qkv);
    if (code == ESP_OK) code = load_fused(l, TENSOR_GATE_UP, i, gate_up);
    for (size_t p = 0; p < sizeof parts / sizeof *parts && code == ESP_OK; p++)
        code = parts[p].matrix ? load_matrix(l, parts[p].role, i, parts[p].matrix)
                               : load_vector(l, parts[p].role, i, parts[p].vector);
    return code;
}

/* The row of token type 0 as a vector: one text has one type. */
static esp_code load_token_type(loader *l) {
    const model_options *o = &l->m->options;
    kern_matrix *types = NULL;
    esp_code code = load_matrix(l, TENSOR_TOKEN_TYPES, 0, &types);
    if (code || !types) return code;
    code = model_take_buffer(l->m, l->m->spec.hidden, sizeof(float), &l->m->token_type, l->err);
    const int32_t first = 0;
    if (code == ESP_OK)
        o->ops->embed(o->dev, &(kern_embed){.table = types,
                                            .ids = &first,
                                            .token_count = 1,
                                            .scale = 1,
                                            .out = l->m->token_type});
    l->m->weight_bytes -= o->ops->matrix_bytes(types);
    o->ops->matrix_close(o->dev, types);
    return code;
}

/* Positions from the first that a token can have. */
static esp_code load_positions(loader *l) {
    const model_spec *s = &l->m->spec;
    source from;
    esp_code code = find_source(l, TENSOR_POSITIONS, 0, &from);
    if (code || !from.matrix.rows) return code;
    return load_rows(l, &from, TENSOR_POSITIONS, s->position_offset, s->context, &l->m->positions);
}

static esp_code load_embedding(loader *l) {
    model *m = l->m;
    esp_code code = load_matrix(l, TENSOR_EMBEDDING, 0, &m->embedding);
    if (code == ESP_OK) code = load_positions(l);
    if (code == ESP_OK) code = load_token_type(l);
    if (code == ESP_OK) code = load_vector(l, TENSOR_EMBEDDING_NORM, 0, &m->embedding_norm);
    if (code == ESP_OK)
        code = load_vector(l, TENSOR_EMBEDDING_NORM_BIAS, 0, &m->embedding_norm_bias);
    return code;
}

/* Of tied embeddings: the embedding, or of several ranks each one's rows once more. */
static esp_code load_output(loader *l) {
    model *m = l->m;
    source from;
    esp_code code = load_matrix(l, TENSOR_OUTPUT, 0, &m->output);
    if (code != ESP_OK || m->output) return code;
    if (!m->shard.ranks) {
        m->output = m->embedding;
        return ESP_OK;
    }
    code = find_source(l, TENSOR_EMBEDDING, 0, &from);
    if (code != ESP_OK) return code;
    from.role = TENSOR_OUTPUT; /* a place of its own in a pack */
    return load_rows(l, &from, TENSOR_OUTPUT, 0, from.matrix.rows, &m->output);
}

static esp_code load_weights(loader *l) {
    model *m = l->m;
    esp_code code = load_embedding(l);
    if (code == ESP_OK) code = load_vector(l, TENSOR_FINAL_NORM, 0, &m->final_norm);
    if (code == ESP_OK && m->spec.pooling == POOLING_NONE) code = load_output(l);
    for (uint32_t i = 0; i < m->spec.layers && code == ESP_OK; i++)
        code = load_layer(l, i);
    return code;
}

/* The widest row of logits: of an adapter that adds tokens, where there may be adapters. */
static uint64_t widest_vocab(const model *m) {
    return m->whole.vocab + (m->options.no_adapters ? 0ull : MODEL_ADDED_TOKENS_MAX);
}

/* A rank's part of it, however the rows are shared out. */
static uint64_t widest_own(const model *m) {
    return m->spec.vocab + (widest_vocab(m) - m->whole.vocab) + (m->shard.ranks ? VOCAB_UNIT : 0);
}

static esp_code take_workspace(model *m, esp_error *err) {
    const model_spec *s = &m->spec;
    const model_options *o = &m->options;
    size_t f32 = o->ops->element_bytes(o->dev, KIND_F32);
    size_t act = o->ops->element_bytes(o->dev, KIND_ACT);
    bool embeds = s->pooling != POOLING_NONE;
    uint64_t pooled_rows = embeds ? o->rows_max : 0, logit_rows = embeds ? 0 : MODEL_LOGITS_ROWS;
    uint64_t joined = m->shard.ranks && m->shard.rank == 0 ? logit_rows * widest_vocab(m) : 0;
    uint64_t t = o->tokens_max, q_width = (uint64_t)s->heads * s->head_dim;
    uint64_t qkv_width = q_width + 2ull * s->kv_heads * s->head_dim;
    const struct {
        uint64_t count;
        size_t bytes;
        void **out;
    } buffers[] = {
        {t * s->hidden, f32, &m->x},
        {t * (s->hidden > q_width ? s->hidden : q_width), act, &m->act},
        {t * s->hidden, f32, &m->branch},
        {t * qkv_width, f32, &m->qkv},
        {t * s->intermediate, act, &m->mid},
        {(uint64_t)o->rows_max * s->hidden, act, &m->picked},
        {logit_rows * widest_own(m), f32, &m->own_logits},
        {joined, f32, &m->logits},
        {joined, f32, &m->logit_pieces},
        {pooled_rows * s->hidden, f32, &m->pooled},
    };
    esp_code code = ESP_OK;
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers && code == ESP_OK; i++)
        if (buffers[i].count > 0)
            code = model_take_buffer(m, buffers[i].count, buffers[i].bytes, buffers[i].out, err);
    if (!m->logits) m->logits = m->own_logits;
    if (code == ESP_OK && m->shard.ranks)
        code = rank_sum_open(&m->sum, o->comm, o->ops, o->dev, t * s->hidden, err);
    return code;
}

static uint64_t most(uint64_t a, uint64_t b) { return a > b ? a : b; }

static esp_code no_results(const model *m, esp_error *err) {
    const char *mends = m->pooled
                            ? "lower --max-seqs"
                            : "raise what may be locked (ulimit -l) or use --device cpu, if it "
                              "is a GPU's results";
    return esp_fail_field(err, ESP_EXHAUSTED, m->pooled ? "--max-seqs" : "--device",
                          "model: this machine has no %llu bytes left for the results of a step; "
                          "end what else uses its memory, or %s",
                          (unsigned long long)m->seen_bytes, mends);
}

/* What the steps will need besides: the device's own workspace, and host memory for rows to be read. */
static esp_code reserve(model *m, esp_error *err) {
    const model_spec *s = &m->spec;
    const model_options *o = &m->options;
    uint64_t q_width = (uint64_t)s->heads * s->head_dim;
    uint64_t qkv_width = q_width + 2ull * s->kv_heads * s->head_dim;
    uint64_t logits = MODEL_LOGITS_ROWS * widest_own(m);
    kern_reserve at_most = {
        .tokens = o->tokens_max,
        .seqs = o->seqs_max ? o->seqs_max : o->tokens_max,
        .rows = o->rows_max,
        .groups = m->groups.count,
        .table_stride = (o->context_max + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS,
        .heads = s->heads,
        .kv_heads = s->kv_heads,
        .head_dim = s->head_dim,
        .lora_outputs = most(o->tokens_max * most(qkv_width, 2ull * s->intermediate), logits),
        .lora_cols = (uint32_t)most(most(s->hidden, q_width), s->intermediate),
    };
    if (o->no_adapters) at_most.lora_outputs = 0;
    if (m->shard.o_parts.whole || m->shard.down_parts.whole) at_most.part_rows = s->hidden;
    if (m->logits)
        at_most.logit_rows = MODEL_LOGITS_ROWS, at_most.vocab = (uint32_t)widest_vocab(m);
    uint64_t seen = MODEL_LOGITS_ROWS * widest_vocab(m);
    m->seen_bytes = (m->pooled ? (uint64_t)o->rows_max * s->hidden : seen) * sizeof(float);
    m->seen = o->ops->host_take(o->dev, m->seen_bytes);
    if (!m->seen) return no_results(m, err);
    return o->ops->reserve(o->dev, &at_most, err);
}

/* --- packs ----------------------------------------------------------------------------------- */

/* Packing that takes less of a start is not worth a file as large as the model. */
static const double PACKING_WORTH_SECONDS = 0.5;

static bool digest_of(const char *model_path, char out[MODEL_DIGEST_CHARS]) {
    model_file *file = NULL;
    if (model_file_open(&file, model_path, NULL) != ESP_OK) return false;
    memcpy(out, model_file_digest(file), MODEL_DIGEST_CHARS);
    model_file_close(file);
    return true;
}

/* A rank's pack holds its part of each matrix, so it is of no use to others. */
static void name_layout(model *m) {
    const model_shard *s = &m->shard;
    const char *own = m->options.ops->layout(m->options.dev);
    if (s->ranks)
        snprintf(m->pack_layout, sizeof m->pack_layout, "%s,rank%uof%u", own, s->rank, s->ranks);
    else
        snprintf(m->pack_layout, sizeof m->pack_layout, "%s", own);
}

static void open_cache(model *m, const model_file *file) {
    const model_options *o = &m->options;
    const char *formats[DT_COUNT] = {[DT_Q8_0] = "q8_0", [DT_Q4_K] = "q4_k"};
    if (o->packs == PACKS_OFF) return;
    name_layout(m);
    m->cache = pack_cache_open(&(pack_cache_options){
        .model_path = o->model_path,
        .identity = model_file_identity(file),
        .format = o->quantize ? formats[o->quantize_to] : "",
        .layout = m->pack_layout,
        .folder = o->pack_folder,
        .spare = o->cache_folder,
        .pool = o->pool,
        .digest = digest_of,
    });
}

static double cpu_seconds(void) {
    struct timespec spent;
    ESP_ASSERT(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent) == 0);
    return (double)spent.tv_sec + (double)spent.tv_nsec * 1e-9;
}

/* packing: what it took of each thread's time. Waiting for the disk is not in it: from a cold disk a
 * pack comes no faster than the model. */
static void keep_pack(loader *l, double packing) {
    const model_options *o = &l->m->options;
    bool pays = o->packs == PACKS_KEEP ||
                (o->packs == PACKS_KEEP_IF_WORTH && packing >= PACKING_WORTH_SECONDS);
    if (!l->m->cache || pack_cache_was_found(l->m->cache) || !pays) return;
    /* Images are asked for now that they are wanted: a device with memory of its own copies them. */
    pack_item *items = mem_new(l->packed_count, sizeof *items);
    esp_code code = ESP_OK;
    esp_error why = {0};
    for (uint32_t i = 0; i < l->packed_count && code == ESP_OK; i++) {
        items[i].place = l->packed[i].place;
        code = o->ops->image(l->packed[i].matrix, &items[i].image, &why);
    }
    if (code == ESP_OK)
        pack_cache_keep(l->m->cache, items, l->packed_count, o->packs_behind);
    else /* nothing of packs fails a start */
        log_event(LOG_INFO, "pack_not_kept", "reason=\"%s\"", why.message);
    free(items);
}

/* --- the door -------------------------------------------------------------------------------- */

static esp_code load(model *m, model_file *file, esp_error *err) {
    const model_options *o = &m->options;
    loader l = {.m = m, .weights = model_file_weights(file), .err = err};
    double began = cpu_seconds();
    esp_code code = o->quantize ? check_quantize(&l) : ESP_OK;
    if (code) return code;
    l.total_bytes = checkpoint_bytes(l.weights);
    open_cache(m, file);
    /* One rank walks through the files for all. */
    if (m->shard.rank == 0 && (!m->cache || !pack_cache_was_found(m->cache)))
        l.ahead = read_ahead_open(&l.weights->tensors, l.weights->mapped);
    code = load_weights(&l);
    if (code == ESP_OK && l.ahead) code = read_ahead_finish(l.ahead, err);
    read_ahead_close(l.ahead);
    free(l.scratch);
    free(l.blocks);
    free(l.columns);
    if (code == ESP_OK && o->pool) keep_pack(&l, (cpu_seconds() - began) / pool_threads(o->pool));
    free(l.packed);
    return code;
}

/* The rank's part of the model; alone it has all. */
static esp_code take_shard(model *m, const model_file *file, esp_error *err) {
    const comm *c = m->options.comm;
    uint32_t rank = c ? c->rank : 0, ranks = c ? c->size : 1;
    esp_code code = shard_plan(&m->shard, model_file_weights(file), rank, ranks, err);
    if (code == ESP_OK) shard_narrow(&m->shard, &m->spec);
    return code;
}

esp_code model_open(model **out, model_file *file, const model_options *options, esp_error *err) {
    ESP_ASSERT(out && file && options && options->tokens_max && options->rows_max);
    model *m = mem_new(1, sizeof *m);
    m->spec = m->whole = *model_file_spec(file);
    m->options = *options;
    m->layers = mem_new(m->spec.layers, sizeof *m->layers);
    esp_code code = take_shard(m, file, err);
    page_groups_plan(&m->groups, &m->spec, options->context_max, options->keep_pages);
    m->kv_shape = (kern_kv_shape){m->groups.layers, m->spec.kv_heads, m->spec.head_dim};

    if (code == ESP_OK) code = options->ops->check_layers(options->dev, &m->kv_shape, err);
    if (code == ESP_OK) code = load(m, file, err);
    if (code == ESP_OK) code = model_prepare_rope(m, err);
    if (code == ESP_OK) code = take_workspace(m, err);
    if (code == ESP_OK) code = reserve(m, err);
    segments_open(&m->segments, options->tokens_max, options->rows_max);
    if (code != ESP_OK) {
        model_close(m);
        return code;
    }
    *out = m;
    return ESP_OK;
}

void model_close(model *m) {
    if (!m) return;
    const kern_ops *ops = m->options.ops;
    kern_device *dev = m->options.dev;
    pack_cache_stop(m->cache);
    for (uint32_t i = 0; m->layers && i < m->spec.layers; i++) {
        layer_weights *w = &m->layers[i];
        kern_matrix *all[] = {w->q, w->k, w->v, w->o, w->gate, w->up, w->down};
        for (size_t j = 0; j < sizeof all / sizeof *all; j++)
            ops->matrix_close(dev, all[j]);
    }
    if (m->output != m->embedding) ops->matrix_close(dev, m->output);
    ops->matrix_close(dev, m->positions);
    ops->matrix_close(dev, m->embedding);
    for (uint32_t i = 0; i < m->buffer_count; i++)
        ops->release(dev, m->buffers[i].at, m->buffers[i].bytes);
    rank_sum_close(&m->sum);
    segments_close(&m->segments);
    if (m->seen) ops->host_give(dev, m->seen, m->seen_bytes);
    free(m->buffers);
    pack_cache_close(m->cache);
    free(m->layers);
    free(m);
}

const model_spec *model_get_spec(const model *m) { return &m->whole; }
const model_shard *model_get_shard(const model *m) { return &m->shard; }
size_t model_weight_bytes(const model *m) { return m->weight_bytes; }
const page_groups *model_page_groups(const model *m) { return &m->groups; }
const kern_kv_shape *model_kv_shape(const model *m) { return &m->kv_shape; }
