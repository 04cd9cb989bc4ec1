/* gpu_matrix.h - random matrices on the device, as many of one shape as wanted: packed once, then uploaded again. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_GPU_MATRIX_H
#define ESPALIER_GPU_MATRIX_H

#include "bench/gpu/gpu_lab.h"

typedef struct gpu_matrix {
    const gpu_lab *lab;
    kern_matrix *first;
    kern_image image; /* of first */
} gpu_matrix;

gpu_matrix gpu_matrix_make(const gpu_lab *lab, esp_dtype dtype, uint32_t rows, uint32_t cols,
                           uint32_t seed);
/* A matrix of its own memory with the same bytes; the caller closes it. */
kern_matrix *gpu_matrix_again(const gpu_lab *lab, const gpu_matrix *matrix);
uint64_t gpu_matrix_bytes(const gpu_matrix *matrix);
void gpu_matrix_free(gpu_matrix *matrix);

#endif
