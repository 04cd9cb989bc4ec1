/* gpu_linears.h - the linears of a layer with random weights, as many layers as wanted. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_GPU_LINEARS_H
#define ESPALIER_GPU_LINEARS_H

#include "bench/gpu/gpu_matrix.h"
#include "engine/model/synthetic/synthetic.h"

enum { GPU_LINEAR_PARTS = 4, GPU_LINEAR_COPIES_MAX = 64 };

typedef struct gpu_linear_part {
    const char *name; /* "gate_up" */
    uint32_t rows[LINEAR_MATRICES_MAX], matrices, cols;
    kern_epilogue epilogue;
    kern_role role;
} gpu_linear_part;

typedef struct gpu_linears {
    gpu_linear_part part[GPU_LINEAR_PARTS];
    kern_linear op[GPU_LINEAR_PARTS][GPU_LINEAR_COPIES_MAX];
    uint32_t copies;
    double bytes[GPU_LINEAR_PARTS]; /* packed weights of one copy */
    void *in, *out;                 /* of all */
    size_t in_bytes, out_bytes;
} gpu_linears;

/* Outputs before a gate joins them. */
uint32_t gpu_linear_rows(const gpu_linear_part *part);

/* copies 0: as many as fill the L2 several times with each part. */
void gpu_linears_make(const gpu_lab *lab, const synthetic_shape *shape, esp_dtype dtype,
                      uint32_t tokens_max, uint32_t copies, gpu_linears *out);
/* Of all ops. */
void gpu_linears_tokens(gpu_linears *linears, uint32_t tokens);
void gpu_linears_drop(const gpu_lab *lab, gpu_linears *linears);

#endif
