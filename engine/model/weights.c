/* weights.c - tensors of a file -> packed matrices on a device. Each byte is read once. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/weights.h"

#include <math.h>
#include <stdlib.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/model/family.h"

/* What the loading functions share. */
typedef struct loader {
    model *m;
    const gguf_file *file;
    const model_family *family;
    uint64_t done_bytes, total_bytes;
    esp_error *err;
} loader;

static esp_code take_buffer(model *m, uint64_t count, size_t element_bytes, void **out,
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

static esp_code load_matrix(loader *l, tensor_role role, uint32_t layer, kern_matrix **out) {
    const gguf_tensor *t = NULL;
    esp_code code = family_tensor(l->family, l->file, &l->m->spec, role, layer, &t, l->err);
    if (code != ESP_OK || !t) return code;
    const model_options *o = &l->m->options;
    code = o->ops->pack(o->dev,
                        &(kern_matrix_desc){.dtype = t->dtype,
                                            .rows = (uint32_t)t->dims[1],
                                            .cols = (uint32_t)t->dims[0],
                                            .data = t->data},
                        out, l->err);
    if (code != ESP_OK) return code;
    l->m->weight_bytes += o->ops->matrix_bytes(*out);
    report(l, t->bytes);
    return ESP_OK;
}

static esp_code load_vector(loader *l, tensor_role role, uint32_t layer, void **out) {
    const gguf_tensor *t = NULL;
    esp_code code = family_tensor(l->family, l->file, &l->m->spec, role, layer, &t, l->err);
    if (code != ESP_OK || !t) return code;
    code = take_buffer(l->m, t->dims[0], sizeof(float), out, l->err);
    if (code != ESP_OK) return code;
    const model_options *o = &l->m->options;
    o->ops->upload(o->dev, *out, t->data, t->dims[0] * sizeof(float));
    l->m->weight_bytes += t->dims[0] * sizeof(float);
    report(l, t->bytes);
    return ESP_OK;
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
        {TENSOR_O, &w->o, NULL},
        {TENSOR_MLP_NORM, NULL, &w->mlp_norm},
        {TENSOR_GATE, &w->gate, NULL},
        {TENSOR_UP, &w->up, NULL},
        {TENSOR_DOWN, &w->down, NULL},
    };
    esp_code code = ESP_OK;
    for (size_t p = 0; p < sizeof parts / sizeof *parts && code == ESP_OK; p++)
        code = parts[p].matrix ? load_matrix(l, parts[p].role, i, parts[p].matrix)
                               : load_vector(l, parts[p].role, i, parts[p].vector);
    return code;
}

static esp_code load_weights(loader *l) {
    model *m = l->m;
    esp_code code = load_matrix(l, TENSOR_EMBEDDING, 0, &m->embedding);
    if (code == ESP_OK) code = load_vector(l, TENSOR_FINAL_NORM, 0, &m->final_norm);
    if (code == ESP_OK) code = load_matrix(l, TENSOR_OUTPUT, 0, &m->output);
    if (code == ESP_OK && !m->output) m->output = m->embedding;
    for (uint32_t i = 0; i < m->spec.layers && code == ESP_OK; i++)
        code = load_layer(l, i);
    return code;
}

/* cos and sin of p * theta^(-2i/rotary), in double, rounded once. */
static esp_code prepare_rope(model *m, esp_error *err) {
    const model_spec *s = &m->spec;
    uint32_t pairs = s->rotary / 2, positions = m->options.context_max;
    uint64_t count = 2ull * pairs * positions;
    esp_code code = take_buffer(m, count, sizeof(float), &m->cos_sin, err);
    if (code != ESP_OK) return code;
    float *table = mem_new(count, sizeof(float));
    for (uint32_t i = 0; i < pairs; i++) {
        /* The frequency is rounded to float32 first, as the reference implementation has it. */
        float frequency = (float)pow(s->rope_theta, -2.0 * i / s->rotary);
        for (uint32_t p = 0; p < positions; p++) {
            double angle = (double)((float)p * frequency);
            table[2 * ((size_t)p * pairs + i)] = (float)cos(angle);
            table[2 * ((size_t)p * pairs + i) + 1] = (float)sin(angle);
        }
    }
    m->options.ops->upload(m->options.dev, m->cos_sin, table, count * sizeof(float));
    free(table);
    return ESP_OK;
}

static esp_code take_workspace(model *m, esp_error *err) {
    const model_spec *s = &m->spec;
    const model_options *o = &m->options;
    size_t f32 = o->ops->element_bytes(o->dev, KIND_F32);
    size_t act = o->ops->element_bytes(o->dev, KIND_ACT);
    uint64_t t = o->tokens_max, q_width = (uint64_t)s->heads * s->head_dim;
    uint64_t qkv_width = q_width + 2ull * s->kv_heads * s->head_dim;
    const struct {
        uint64_t count;
        size_t bytes;
        void **out;
    } buffers[] = {
        {t * s->hidden, f32, &m->x},
        {t * (s->hidden > q_width ? s->hidden : q_width), act, &m->act},
        {t * qkv_width, f32, &m->qkv},
        {t * s->intermediate, act, &m->mid},
        {(uint64_t)o->rows_max * s->hidden, act, &m->picked},
        {(uint64_t)MODEL_LOGITS_ROWS * s->vocab, f32, &m->logits},
    };
    esp_code code = ESP_OK;
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers && code == ESP_OK; i++)
        code = take_buffer(m, buffers[i].count, buffers[i].bytes, buffers[i].out, err);
    return code;
}

esp_code model_open(model **out, const model_file *file, const model_options *options,
                    esp_error *err) {
    ESP_ASSERT(out && file && options && options->tokens_max && options->rows_max);
    model *m = mem_new(1, sizeof *m);
    m->spec = *model_file_spec(file);
    m->options = *options;
    m->layers = mem_new(m->spec.layers, sizeof *m->layers);
    m->kv_shape = (kern_kv_shape){m->spec.layers, m->spec.kv_heads, m->spec.head_dim};

    loader l = {.m = m, .file = model_file_gguf(file), .err = err};
    for (uint64_t i = 0; i < gguf_tensor_count(l.file); i++)
        l.total_bytes += gguf_tensor_at(l.file, i)->bytes;
    esp_code code = family_find(l.file, &l.family, err);
    if (code == ESP_OK) code = load_weights(&l);
    if (code == ESP_OK) code = prepare_rope(m, err);
    if (code == ESP_OK) code = take_workspace(m, err);
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
    for (uint32_t i = 0; m->layers && i < m->spec.layers; i++) {
        layer_weights *w = &m->layers[i];
        kern_matrix *all[] = {w->q, w->k, w->v, w->o, w->gate, w->up, w->down};
        for (size_t j = 0; j < sizeof all / sizeof *all; j++)
            ops->matrix_close(dev, all[j]);
    }
    if (m->output != m->embedding) ops->matrix_close(dev, m->output);
    ops->matrix_close(dev, m->embedding);
    for (uint32_t i = 0; i < m->buffer_count; i++)
        ops->release(dev, m->buffers[i].at, m->buffers[i].bytes);
    free(m->buffers);
    free(m->layers);
    free(m);
}

const model_spec *model_get_spec(const model *m) { return &m->spec; }
size_t model_weight_bytes(const model *m) { return m->weight_bytes; }
uint32_t model_kv_groups(const model *m) {
    (void)m;
    return 1; /* every layer attends fully; window layers will make a second group */
}
const kern_kv_shape *model_kv_shape(const model *m) { return &m->kv_shape; }
