/* forward.c - one step batch through any decoder that a model_spec describes.
 *
 *   x = embed(ids)
 *   each layer:  x += [norm] O . attention(rope([norm] QKV . norm(x)))
 *                x += [norm] Down . (act(Gate . n) * (Up . n)),  n = norm(x)
 *   logits = [cap] Output . norm(x[rows])
 *
 * What stands in brackets is there when the spec or the weights say so; act is silu or gelu.
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

/* x += matrix . in; with a post norm x += norm(matrix . in). */
static void add_branch(model *m, const kern_matrix *matrix, const void *in, uint32_t t,
                       const void *post_norm) {
    const kern_ops *ops = m->options.ops;
    kern_device *dev = m->options.dev;
    ops->linear(dev, &(kern_linear){.in = in,
                                    .token_count = t,
                                    .matrix = {matrix},
                                    .matrix_count = 1,
                                    .epilogue = post_norm ? EPI_STORE : EPI_RESIDUAL,
                                    .out = post_norm ? m->branch : m->x});
    if (post_norm)
        ops->norm(dev, &(kern_norm){.in = m->branch,
                                    .count = t,
                                    .width = m->spec.hidden,
                                    .weight = post_norm,
                                    .eps = m->spec.norm_eps,
                                    .residual = true,
                                    .out = m->x});
}

static void rope_store(model *m, const layer_weights *w, bool slides, const step_batch *batch,
                       const kern_kv_layer *kv) {
    const model_spec *s = &m->spec;
    bool local = slides && s->rope_local;
    m->options.ops->rope_store(m->options.dev,
                               &(kern_rope_store){.batch = batch,
                                                  .qkv = m->qkv,
                                                  .heads = s->heads,
                                                  .rotary = s->rotary,
                                                  .interleaved = s->rope_interleaved,
                                                  .cos_sin = local ? m->rope_local : m->rope,
                                                  .long_cos_sin = m->rope_long,
                                                  .q_norm = w->q_norm,
                                                  .k_norm = w->k_norm,
                                                  .norm_eps = s->norm_eps,
                                                  .kv = *kv});
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
                        .group = m->groups.group_of[layer],
                        .layer = m->groups.index_of[layer]};

    norm(m, m->x, NULL, t, w->attn_norm, m->act);
    ops->linear(dev, &(kern_linear){.in = m->act,
                                    .token_count = t,
                                    .matrix = {w->q, w->k, w->v},
                                    .bias = {w->q_bias, w->k_bias, w->v_bias},
                                    .matrix_count = 3,
                                    .epilogue = EPI_STORE,
                                    .out = m->qkv});
    rope_store(m, w, s->slides[layer], batch, &kv);
    ops->attention(dev, &(kern_attention){.batch = batch,
                                          .qkv = m->qkv,
                                          .heads = s->heads,
                                          .scale = s->attention_scale,
                                          .softcap = s->attention_softcap,
                                          .window = s->slides[layer] ? s->window : 0,
                                          .kv = kv,
                                          .out = m->act});
    add_branch(m, w->o, m->act, t, w->attn_post_norm);
}

static void mlp(model *m, const layer_weights *w, uint32_t t) {
    const kern_ops *ops = m->options.ops;
    kern_device *dev = m->options.dev;
    bool gelu = m->spec.activation == ACTIVATION_GELU_TANH;
    norm(m, m->x, NULL, t, w->mlp_norm, m->act);
    ops->linear(dev, &(kern_linear){.in = m->act,
                                    .token_count = t,
                                    .matrix = {w->gate, w->up},
                                    .matrix_count = 2,
                                    .epilogue = gelu ? EPI_GELU_MUL : EPI_SILU_MUL,
                                    .out = m->mid});
    add_branch(m, w->down, m->mid, t, w->mlp_post_norm);
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
                                    .epilogue = m->spec.logit_softcap > 0 ? EPI_SOFTCAP : EPI_STORE,
                                    .softcap = m->spec.logit_softcap,
                                    .out = m->logits});
    *logits = m->logits; /* ref and cpu buffers are host memory */
    return ops->sync(dev, err);
}
