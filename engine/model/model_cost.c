/* model_cost.c - see model_cost.h. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/model_cost.h"

#include "engine/model/weights.h"
#include "kernels/op_cost.h"

/* Counts one matrix, if it is there, into bytes and flops for each input. */
static void count_matrix(const model *m, const kern_matrix *matrix, uint64_t *bytes,
                         uint64_t *flops) {
    if (!matrix) return;
    kern_matrix_shape shape = m->options.ops->shape(matrix);
    *bytes += m->options.ops->matrix_bytes(matrix);
    *flops += 2ull * shape.rows * shape.cols;
}

model_cost model_cost_of(const model *m) {
    model_cost cost = {.whole_codes = true};
    for (uint32_t i = 0; i < m->spec.layers; i++) {
        const layer_weights *w = &m->layers[i];
        const kern_matrix *matrices[] = {w->q, w->k, w->v, w->o, w->gate, w->up, w->down};
        for (size_t k = 0; k < sizeof matrices / sizeof *matrices; k++) {
            count_matrix(m, matrices[k], &cost.step_bytes, &cost.token_flops);
            if (matrices[k] && !dtype_has_whole_codes(m->options.ops->shape(matrices[k]).dtype))
                cost.whole_codes = false;
        }
    }
    count_matrix(m, m->output, &cost.step_bytes, &cost.row_flops);
    return cost;
}

double model_attention_flops(const model_spec *spec, uint32_t first, uint32_t count) {
    double seen = 0;
    for (uint32_t i = 0; i < spec->layers; i++)
        seen += spec->encoder ? (double)count * count
                              : op_cost_seen(first, count, spec->slides[i] ? spec->window : 0);
    return 4 * seen * spec->heads * spec->head_dim;
}
