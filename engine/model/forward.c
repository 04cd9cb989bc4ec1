/* forward.c - one step batch through any decoder that a model_spec describes.
 *
 *   x = embed(ids)
 *   each layer:  x += O . attention(rope(QKV . norm(x)))
 *                x += Down . (silu(Gate . n) * (Up . n)),  n = norm(x)
 *   logits = Output . norm(x[rows])
 *
 * Only sequence and shapes live here; all arithmetic is the backend's. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/weights.h"

static void norm(model *m, const void *in, const uint32_t *rows, uint32_t count, const void *weight,
                 void *out) {
    m->options.ops->norm(m->options.dev, &(kern_norm){.in = in,
                                                      .rows = rows,
                                                      .count = count,
                                                      .width = m->spec.hidden,
                                                      .weight = weight,
                                                      .eps = m->spec.norm_eps,
                                                      .out = out});
}

static void attention(model *m, const layer_weights *w, uint32_t layer, const step_batch *batch,
                      void *arena) {
    const kern_ops *ops = m->options.ops;
    kern_device *dev = m->options.dev;
    const model_spec *s = &m->spec;
    uint32_t t = batch->token_count;
    kern_kv_layer kv = {.arena = arena,
                        .frame_bytes = ops->frame_bytes(dev, &m->kv_shape),
                        .shape = &m->kv_shape,
                        .group = 0,
                        .layer = layer};

    norm(m, m->x, NULL, t, w->attn_norm, m->act);
    ops->linear(dev, &(kern_linear){.in = m->act,
                                    .token_count = t,
                                    .matrix = {w->q, w->k, w->v},
                                    .matrix_count = 3,
                                    .epilogue = EPI_STORE,
                                    .out = m->qkv});
    ops->rope_store(dev, &(kern_rope_store){.batch = batch,
                                            .qkv = m->qkv,
                                            .heads = s->heads,
                                            .rotary = s->rotary,
                                            .interleaved = s->rope_interleaved,
                                            .cos_sin = m->cos_sin,
                                            .kv = kv});
    ops->attention(dev, &(kern_attention){.batch = batch,
                                          .qkv = m->qkv,
                                          .heads = s->heads,
                                          .scale = s->attention_scale,
                                          .window = 0,
                                          .kv = kv,
                                          .out = m->act});
    ops->linear(dev, &(kern_linear){.in = m->act,
                                    .token_count = t,
                                    .matrix = {w->o},
                                    .matrix_count = 1,
                                    .epilogue = EPI_RESIDUAL,
                                    .out = m->x});
}

static void mlp(model *m, const layer_weights *w, uint32_t t) {
    const kern_ops *ops = m->options.ops;
    kern_device *dev = m->options.dev;
    norm(m, m->x, NULL, t, w->mlp_norm, m->act);
    ops->linear(dev, &(kern_linear){.in = m->act,
                                    .token_count = t,
                                    .matrix = {w->gate, w->up},
                                    .matrix_count = 2,
                                    .epilogue = EPI_SILU_MUL,
                                    .out = m->mid});
    ops->linear(dev, &(kern_linear){.in = m->mid,
                                    .token_count = t,
                                    .matrix = {w->down},
                                    .matrix_count = 1,
                                    .epilogue = EPI_RESIDUAL,
                                    .out = m->x});
}

esp_code model_forward(model *m, const step_batch *batch, void *arena, esp_error *err) {
    const kern_ops *ops = m->options.ops;
    kern_device *dev = m->options.dev;
    ESP_ASSERT(batch->token_count <= m->options.tokens_max);
    ESP_ASSERT(batch->row_count <= m->options.rows_max);

    ops->embed(dev, &(kern_embed){.table = m->embedding,
                                  .ids = batch->ids,
                                  .token_count = batch->token_count,
                                  .scale = m->spec.embedding_scale,
                                  .out = m->x});
    for (uint32_t i = 0; i < m->spec.layers; i++) {
        attention(m, &m->layers[i], i, batch, arena);
        mlp(m, &m->layers[i], batch->token_count);
    }
    if (batch->row_count) norm(m, m->x, batch->rows, batch->row_count, m->final_norm, m->picked);
    return ops->sync(dev, err);
}

esp_code model_logits(model *m, uint32_t first, uint32_t count, const float **logits,
                      esp_error *err) {
    const kern_ops *ops = m->options.ops;
    kern_device *dev = m->options.dev;
    ESP_ASSERT(count <= MODEL_LOGITS_ROWS && first + count <= m->options.rows_max);
    size_t row_bytes = m->spec.hidden * ops->element_bytes(dev, KIND_ACT);
    ops->linear(dev, &(kern_linear){.in = (const char *)m->picked + first * row_bytes,
                                    .token_count = count,
                                    .matrix = {m->output},
                                    .matrix_count = 1,
                                    .epilogue = EPI_STORE,
                                    .out = m->logits});
    *logits = m->logits; /* ref and cpu buffers are host memory */
    return ops->sync(dev, err);
}
