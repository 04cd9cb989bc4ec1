/* linear_case.h - a linear over matrices that a seed decides: what the tests of every way to compute one share. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_LINEAR_CASE_H
#define ESPALIER_LINEAR_CASE_H

#include "tests/unit/kernel_lab.h"

typedef struct linear_case {
    esp_dtype dtype[3];
    uint32_t rows[3], matrices, cols, tokens;
    kern_epilogue epilogue;
    bool bias;
    uint64_t order[3]; /* seed of the order of each matrix's inputs; 0: their own */
} linear_case;

static inline kern_kind out_kind(const linear_case *c) {
    return kern_gives_act(c->epilogue) ? KIND_ACT : KIND_F32;
}

static inline uint32_t out_cols(const linear_case *c) {
    uint32_t sum = 0;
    for (uint32_t m = 0; m < c->matrices; m++)
        sum += c->rows[m];
    return kern_is_gated(c->epilogue) ? c->rows[0] : sum;
}

/* Matrices of seeds 100, 101, .. and biases of 50, 51, .. into the op. */
static inline void take_matrices(const lab *l, const linear_case *c, kern_linear *op) {
    op->matrix_count = c->matrices;
    for (uint32_t m = 0; m < c->matrices; m++) {
        uint32_t *order = c->order[m] ? lab_shuffle(c->order[m], c->cols) : NULL;
        op->matrix[m] = lab_ordered_matrix(l, c->dtype[m], c->rows[m], c->cols, order, 100 + m);
        free(order);
        if (c->bias) op->bias[m] = lab_upload_random(l, KIND_F32, 50 + m, c->rows[m]);
    }
}

static inline void drop_matrices(const lab *l, const linear_case *c, const kern_linear *op) {
    for (uint32_t m = 0; m < c->matrices; m++) {
        l->ops->matrix_close(l->dev, (kern_matrix *)op->matrix[m]);
        if (c->bias) lab_release(l, KIND_F32, (void *)op->bias[m], c->rows[m]);
    }
}

static inline void assert_same_bits(const float *got, const float *want, size_t count,
                                    const char *what) {
    for (size_t i = 0; i < count; i++)
        if (bits_of_f32(got[i]) != bits_of_f32(want[i]))
            fail_msg("%s: element %zu is %a, not %a", what, i, (double)got[i], (double)want[i]);
}

#endif
