/* cuda_tiles.h - a matrix's blocks, as in its file, become tiles (cuda_matrix.h) in host memory.
 *
 * Nothing here knows a device. Formats keep their codes as they are, or, where those have 5 or 6 bits or are
 * indices of a table, take bytes:
 *   F32, F16, BF16                   bf16
 *   Q4_0 Q4_1 Q4_K Q2_K Q3_K         codes of 4 bits
 *   Q5_0 Q5_1 Q5_K Q6_K Q8_0 IQ4_NL IQ4_XS   bytes, of IQ4 the table's values
 *   G2 G3 G4                         codes of 4 bits; scales become halves if all of them are halves, one each 64
 *                                    columns if neighbours are alike, and zero points of 8 vanish in
 *                                    the codes
 *   G8                               bytes, 128 less; so is the zero point
 *   F8_E4M3                          as they are
 * Thread  any; functions share nothing but what they are given. */
// SPDX-License-Identifier: Apache-2.0
#ifndef CUDA_TILES_H
#define CUDA_TILES_H

#include "kernels/cuda/cuda_matrix.h"

struct thread_pool;

/* Which format a matrix takes; of G2 to G4 it depends on all of the scales. On the pool. */
cuda_format cuda_tiles_format(const kern_matrix_desc *desc, struct thread_pool *pool);

/* Whether an image of that format may be of that dtype. */
bool cuda_tiles_fits(cuda_format format, esp_dtype dtype);

/* The view of a matrix of rows x cols, both above 0, without memory, and the bytes of its image. False: there is no
 * such number. */
bool cuda_tiles_shape(cuda_format format, uint32_t rows, uint32_t cols, cuda_matrix_view *out,
                      uint64_t *image_bytes);

/* Tiles of the rows of tiles [first, first + count), which fit into `out` one after another; on the pool.
 * Padding is weights of 0. */
void cuda_tiles_fill(const kern_matrix_desc *desc, const cuda_matrix_view *shape, uint32_t first,
                     uint32_t count, uint8_t *out, struct thread_pool *pool);

#endif
