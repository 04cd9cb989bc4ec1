/* adapter_fit.c - whether an update that another rank sent is of the matrices that this one has. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/weights.h"

/* Those of a linear as the forward pass has them; returns how many. */
static uint32_t matrices_of(const model *m, kern_role role, uint32_t layer,
                            const kern_matrix *out[LINEAR_MATRICES_MAX]) {
    const layer_weights *w = role == ROLE_HEAD ? NULL : &m->layers[layer];
    uint32_t count = 0;
    switch (role) {
    case ROLE_QKV:
        out[count++] = w->q, out[count++] = w->k, out[count++] = w->v;
        break;
    case ROLE_ATTENTION_OUT:
        out[count++] = w->o;
        break;
    case ROLE_GATE_UP:
        if (!m->spec.encoder) out[count++] = w->gate;
        out[count++] = w->up;
        break;
    case ROLE_DOWN:
        out[count++] = w->down;
        break;
    case ROLE_HEAD:
        if (m->output) out[count++] = m->output;
        break;
    case ROLE_NONE:
        break;
    }
    return count;
}

bool model_takes_update(const model *m, kern_role role, uint32_t layer, const kern_lora *lora,
                        uint32_t vocab) {
    const kern_matrix *matrix[LINEAR_MATRICES_MAX];
    uint32_t rows[LINEAR_MATRICES_MAX], cols = 0;
    ESP_ASSERT(role == ROLE_HEAD || layer < m->spec.layers);
    uint32_t count = matrices_of(m, role, layer, matrix);
    for (uint32_t i = 0; i < count; i++) {
        kern_matrix_shape shape = m->options.ops->shape(matrix[i]);
        rows[i] = shape.rows;
        cols = shape.cols;
    }
    if (role == ROLE_HEAD && vocab) rows[0] = shard_vocab(&m->shard, vocab, m->shard.rank).count;
    const kern_lora_segment segment = {.count = 1, .lora = lora};
    return count > 0 && kern_lora_fits(&(kern_linear){.token_count = 1,
                                                      .matrix_count = count,
                                                      .lora = &segment,
                                                      .lora_count = 1},
                                       rows, cols);
}
