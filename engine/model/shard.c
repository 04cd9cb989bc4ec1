/* shard.c - which rows and columns a rank takes. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/shard.h"

#include <string.h>

#include "engine/base/mem.h"

shard_range shard_split(uint32_t count, uint32_t unit, uint32_t rank, uint32_t ranks) {
    uint64_t units = ((uint64_t)count + unit - 1) / unit;
    uint64_t begin = units * rank / ranks * unit, end = units * (rank + 1) / ranks * unit;
    if (end > count) end = count;
    return (shard_range){(uint32_t)begin, (uint32_t)(end - begin)};
}

/* ---- the plan ---- */

/* Columns that must stay together in a role's matrix: a block, and what kernels take at a time. 0: the
 * matrix cannot be cut, its columns are in an order of their own. */
static esp_code column_unit(const checkpoint *c, tensor_role role, uint32_t layer, uint32_t *unit,
                            esp_error *err) {
    checkpoint_matrix matrix;
    esp_code code = checkpoint_find_matrix(c, role, layer, &matrix, err);
    if (code != ESP_OK || *unit == 0) return code;
    esp_dtype dtype = matrix.tensor ? matrix.tensor->dtype : matrix.packed.dtype;
    uint32_t block = dtype_info(dtype)->block_elements;
    if (block > *unit) *unit = block;
    if (matrix.packed.ordered) *unit = 0;
    return ESP_OK;
}

static esp_code column_units(const checkpoint *c, tensor_role role, uint32_t *unit,
                             esp_error *err) {
    esp_code code = ESP_OK;
    *unit = SPEC_COLUMNS_MULTIPLE;
    for (uint32_t layer = 0; layer < c->spec.layers && code == ESP_OK; layer++)
        code = column_unit(c, role, layer, unit, err);
    return code;
}

static bool kv_heads_fit(uint32_t kv_heads, uint32_t ranks) {
    return kv_heads % ranks == 0 || ranks % kv_heads == 0;
}

/* Whether so many ranks can share attention, or the MLP. */
static bool attention_fits(const model_spec *spec, uint32_t unit, uint32_t ranks) {
    return spec->heads % ranks == 0 && kv_heads_fit(spec->kv_heads, ranks) && unit > 0 &&
           spec->heads / ranks * spec->head_dim % unit == 0;
}

static bool mlp_fits(const model_spec *spec, uint32_t unit, uint32_t ranks) {
    return unit > 0 && spec->intermediate % unit == 0 && spec->intermediate / unit >= ranks;
}

static void plan_attention(model_shard *s, const model_spec *spec, uint32_t unit) {
    uint32_t heads = spec->heads / s->ranks;
    s->heads = (shard_range){0, spec->heads};
    s->kv_heads = (shard_range){0, spec->kv_heads};
    if (!attention_fits(spec, unit, s->ranks)) return;
    s->attention = true;
    s->heads = (shard_range){s->rank * heads, heads};
    uint32_t kv = spec->kv_heads >= s->ranks ? spec->kv_heads / s->ranks : 1;
    s->kv_heads = (shard_range){(uint32_t)((uint64_t)s->rank * spec->kv_heads / s->ranks), kv};
}

static void plan_mlp(model_shard *s, const model_spec *spec, uint32_t unit) {
    s->middle = (shard_range){0, spec->intermediate};
    if (!mlp_fits(spec, unit, s->ranks)) return;
    s->mlp = true;
    s->middle = shard_split(spec->intermediate, unit, s->rank, s->ranks);
}

/* ---- parts of sums ---- */

/* Columns as `parts` ranks share them in units; false: they would not end as parts have to. */
static bool cut_parts(kern_parts *out, uint32_t cols, uint32_t unit, uint32_t parts) {
    *out = (kern_parts){.whole = parts, .count = parts};
    for (uint32_t i = 0; i < parts; i++) {
        shard_range share = shard_split(cols, unit, i, parts);
        out->end[i] = share.first + share.count;
        if (i + 1 < parts && out->end[i] % KERN_PART_COLUMNS) return false;
    }
    return true;
}

/* Of the whole model. An encoder's biases stand between the sums and what is added to them, so it has none. */
static void plan_parts(model_shard *s, const model_spec *spec, uint32_t of_o, uint32_t of_down) {
    uint32_t q = spec->heads * spec->head_dim, parts;
    for (parts = spec->encoder ? 1 : KERN_PARTS_MAX; parts > 1; parts /= 2)
        if (attention_fits(spec, of_o, parts) && cut_parts(&s->o_parts, q, q / parts, parts)) break;
    if (parts == 1) s->o_parts = (kern_parts){0};
    for (parts = spec->encoder ? 1 : KERN_PARTS_MAX; parts > 1; parts /= 2)
        if (mlp_fits(spec, of_down, parts) &&
            cut_parts(&s->down_parts, spec->intermediate, of_down, parts))
            break;
    if (parts == 1) s->down_parts = (kern_parts){0};
}

/* Those of one of several ranks that share the columns; none where they cannot be dealt out. */
static void take_parts(kern_parts *parts, uint32_t rank, uint32_t ranks) {
    kern_parts all = *parts;
    *parts = (kern_parts){0};
    if (all.whole % ranks || all.whole == 0) return;
    uint32_t count = all.whole / ranks, first = rank * count;
    *parts = (kern_parts){.whole = all.whole, .count = count};
    for (uint32_t i = 0; i < count; i++)
        parts->end[i] = all.end[first + i] - (first ? all.end[first - 1] : 0);
}

/* ---- a rank ---- */

shard_range shard_vocab(const model_shard *shard, uint32_t vocab, uint32_t rank) {
    uint32_t unit = vocab / shard->ranks >= VOCAB_UNIT ? VOCAB_UNIT : 1;
    return shard_split(vocab, unit, rank, shard->ranks);
}

static esp_code check(const model_shard *s, const model_spec *spec, esp_error *err) {
    if (!s->attention && !s->mlp)
        return esp_fail_field(
            err, ESP_INVALID, "--tp",
            "--tp %u: neither the %u heads (%u of keys) nor the MLP's %u columns of "
            "this model can be shared by %u ranks in whole blocks; use another --tp",
            s->ranks, spec->heads, spec->kv_heads, spec->intermediate, s->ranks);
    if (spec->vocab < s->ranks)
        return esp_fail_field(err, ESP_INVALID, "--tp",
                              "--tp %u: the vocabulary has %u tokens; use fewer ranks", s->ranks,
                              spec->vocab);
    return ESP_OK;
}

esp_code shard_plan(model_shard *out, const checkpoint *c, uint32_t rank, uint32_t ranks,
                    esp_error *err) {
    ESP_ASSERT(rank < ranks);
    *out = (model_shard){0};
    uint32_t of_o, of_down;
    esp_code code = column_units(c, TENSOR_O, &of_o, err);
    if (code == ESP_OK) code = column_units(c, TENSOR_DOWN, &of_down, err);
    if (code != ESP_OK) return code;
    plan_parts(out, &c->spec, of_o, of_down);
    if (ranks == 1) return ESP_OK;
    out->rank = rank;
    out->ranks = ranks;
    out->head_dim = c->spec.head_dim;
    plan_attention(out, &c->spec, of_o);
    plan_mlp(out, &c->spec, of_down);
    if (out->attention) take_parts(&out->o_parts, rank, ranks);
    if (out->mlp) take_parts(&out->down_parts, rank, ranks);
    out->vocab = shard_vocab(out, c->spec.vocab, rank);
    return check(out, &c->spec, err);
}

void shard_narrow(const model_shard *shard, model_spec *spec) {
    if (!shard->ranks) return;
    spec->heads = shard->heads.count;
    spec->kv_heads = shard->kv_heads.count;
    spec->intermediate = shard->middle.count;
    spec->vocab = shard->vocab.count;
}

/* ---- cutting ---- */

static shard_range times(shard_range heads, uint32_t head_dim) {
    return (shard_range){heads.first * head_dim, heads.count * head_dim};
}

shard_cut shard_cut_of(const model_shard *s, tensor_role role, uint32_t rows, uint32_t cols) {
    shard_cut cut = {.rows = {0, rows}, .cols = {0, cols}};
    if (!s->ranks) return cut;
    switch (role) {
    case TENSOR_Q:
    case TENSOR_Q_BIAS:
        cut.rows = times(s->heads, s->head_dim);
        break;
    case TENSOR_K:
    case TENSOR_K_BIAS:
    case TENSOR_V:
    case TENSOR_V_BIAS:
        cut.rows = times(s->kv_heads, s->head_dim);
        break;
    case TENSOR_O:
        cut.cols = times(s->heads, s->head_dim);
        break;
    case TENSOR_O_BIAS:
        cut.absent = s->attention && s->rank > 0;
        break;
    case TENSOR_GATE:
    case TENSOR_UP:
    case TENSOR_UP_BIAS:
        cut.rows = s->middle;
        break;
    case TENSOR_DOWN:
        cut.cols = s->middle;
        break;
    case TENSOR_DOWN_BIAS:
        cut.absent = s->mlp && s->rank > 0;
        break;
    case TENSOR_OUTPUT:
        cut.rows = shard_vocab(s, rows, s->rank); /* an adapter's may be more than the base's */
        break;
    default:
        break;
    }
    ESP_ASSERT((uint64_t)cut.rows.first + cut.rows.count <= rows &&
               (uint64_t)cut.cols.first + cut.cols.count <= cols);
    return cut;
}

void shard_columns(kern_matrix_desc *desc, shard_range cols, void **room) {
    if (cols.count == desc->cols) return;
    const dtype_row *info = dtype_info(desc->dtype);
    uint32_t block = info->block_elements;
    ESP_ASSERT(!desc->order && cols.first % block == 0 && cols.count % block == 0);
    size_t row = (size_t)desc->cols / block * info->block_bytes;
    size_t own = (size_t)cols.count / block * info->block_bytes;
    const char *from = (const char *)desc->data + (size_t)cols.first / block * info->block_bytes;
    *room = mem_resize(*room, desc->rows, own);
    for (uint32_t r = 0; r < desc->rows; r++)
        memcpy((char *)*room + r * own, from + r * row, own);
    desc->data = *room;
    desc->cols = cols.count;
}
