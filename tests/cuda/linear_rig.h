/* linear_rig.h - a linear of the CUDA backend at its launcher, and what it should give, in double. */
// SPDX-License-Identifier: Apache-2.0
#ifndef LINEAR_RIG_H
#define LINEAR_RIG_H

#include <cuda_runtime_api.h>
#include <math.h>

#include "kernels/cuda/cuda_launch.h"
#include "kernels/cuda/cuda_tiles.h"
#include "tests/unit/kernel_lab.h"

#define RIG_OK(call)                                                                               \
    do {                                                                                           \
        int rig_code = (int)(call);                                                                \
        if (rig_code) fail_msg("%s: %s", #call, cudaGetErrorString((enum cudaError)rig_code));     \
    } while (0)

/* Device memory with these bytes; NULL: unwritten. */
static inline void *rig_put(const void *from, size_t bytes) {
    void *at = NULL;
    RIG_OK(cudaMalloc(&at, bytes));
    if (from) RIG_OK(cudaMemcpy(at, from, bytes, cudaMemcpyHostToDevice));
    return at;
}

static inline void rig_take(void *to, const void *from, size_t bytes) {
    RIG_OK(cudaDeviceSynchronize());
    RIG_OK(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost));
}

/* A matrix there, and its weights by input here. */
typedef struct rig_matrix {
    cuda_matrix_view view;
    void *memory, *order_there;
    uint32_t *order;
    float *weights; /* [rows, cols] */
} rig_matrix;

typedef struct rig_shape {
    esp_dtype dtype;
    uint32_t rows, cols;
    uint64_t seed, order; /* order: a seed, 0: none */
} rig_shape;

/* Like weights of its blocks; for DT_G2 to DT_G4: scales that are halves, alike within `group` columns, and
 * the zero point `zero`, or random. */
typedef struct rig_groups {
    uint32_t group; /* columns; 0: as lab_blocks has them */
    int zero;       /* -1: random */
} rig_groups;

static inline void rig_regroup(uint8_t *blocks, const rig_shape *s, rig_groups groups) {
    size_t bytes = dtype_info(s->dtype)->block_bytes, per_row = s->cols / QUANT_PIECE;
    for (size_t b = 0; groups.group && b < per_row * s->rows; b++) {
        size_t leader = b / per_row * per_row +
                        b % per_row * QUANT_PIECE / groups.group * groups.group / QUANT_PIECE;
        float scale;
        memcpy(&scale, blocks + leader * bytes, sizeof scale);
        scale = f32_of_f16(f16_of_f32(scale));
        uint16_t zero = (uint16_t)groups.zero;
        if (groups.zero < 0) memcpy(&zero, blocks + leader * bytes + 4, sizeof zero);
        memcpy(blocks + b * bytes, &scale, sizeof scale);
        memcpy(blocks + b * bytes + 4, &zero, sizeof zero);
    }
}

static inline rig_matrix rig_pack(thread_pool *pool, const rig_shape *s, const uint8_t *blocks) {
    rig_matrix m = {.order = s->order ? lab_shuffle(s->order, s->cols) : NULL};
    kern_matrix_desc desc = {
        .dtype = s->dtype, .rows = s->rows, .cols = s->cols, .data = blocks, .order = m.order};
    size_t count = (size_t)s->rows * s->cols;
    uint64_t bytes;
    bool good = cuda_tiles_shape(cuda_tiles_format(&desc, pool), s->rows, s->cols, &m.view, &bytes);
    assert_true(good);
    uint8_t *tiles = mem_new(1, bytes);
    cuda_tiles_fill(&desc, &m.view, 0, (s->rows - 1) / CUDA_TILE_ROWS + 1, tiles, pool);
    m.memory = rig_put(tiles, bytes - CUDA_HEAD_BYTES);
    m.view.tiles = m.memory;
    free(tiles);
    if (m.order) m.view.order = m.order_there = rig_put(m.order, s->cols * sizeof *m.order);
    float *own = mem_new(count, sizeof *own);
    m.weights = mem_new(count, sizeof *m.weights);
    dtype_info(s->dtype)->dequantise(blocks, own, count);
    for (size_t i = 0; i < count; i++)
        m.weights[i / s->cols * s->cols + (m.order ? m.order[i % s->cols] : i % s->cols)] = own[i];
    free(own);
    return m;
}

static inline rig_matrix rig_matrix_of(thread_pool *pool, const rig_shape *s, rig_groups groups) {
    uint8_t *blocks = lab_blocks(s->dtype, s->rows, s->cols, s->seed);
    rig_regroup(blocks, s, groups);
    rig_matrix m = rig_pack(pool, s, blocks);
    free(blocks);
    return m;
}

static inline void rig_matrix_free(rig_matrix *m) {
    (void)cudaFree(m->memory);
    if (m->order_there) (void)cudaFree(m->order_there);
    free(m->order);
    free(m->weights);
}

/* [count] random values as bf16. */
static inline uint16_t *rig_inputs(uint64_t seed, size_t count) {
    uint16_t *x = mem_new(count, sizeof *x);
    for (size_t i = 0; i < count; i++)
        x[i] = bf16_of_f32(lab_value(seed, i));
    return x;
}

/* y of a row and a token, and the sum of its terms' magnitudes, which bounds its rounding. */
static inline double rig_dot(const rig_matrix *m, uint32_t row, const uint16_t *x,
                             double *magnitude) {
    double sum = 0;
    *magnitude = 0;
    for (uint32_t k = 0; k < m->view.cols; k++) {
        double term = (double)m->weights[(size_t)row * m->view.cols + k] * f32_of_bf16(x[k]);
        sum += term;
        *magnitude += fabs(term);
    }
    return sum;
}

#endif
