/* image_tables.h - an image's tables as bytes, from rank 0 to the rank whose part of an adapter they are of:
 *
 *   image_tables_head | image_linear[linear_count] | image_place[piece_count]
 *
 * Structs as they lie in memory: all ranks run the same program. Frames and whole matrices come after them
 * (adapter_send.h). */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_IMAGE_TABLES_H
#define ESPALIER_IMAGE_TABLES_H

#include <assert.h>

#include "engine/adapters/adapter_image.h"

typedef struct image_tables_head {
    uint32_t linear_count, piece_count, frame_count;
    uint32_t vocab;  /* model_adapter.vocab */
    uint32_t tokens; /* image_tokens */
    uint32_t unused; /* linears begin at a multiple of 8 */
} image_tables_head;
static_assert(sizeof(image_tables_head) % 8 == 0, "linears lie as they do in memory");

/* Of an image that gets no more pieces; the bytes are the image's. */
void image_write_tables(adapter_image *image);
const void *image_tables(const adapter_image *image, size_t *bytes);

/* An image without memory of its own for its frames. ESP_INTERNAL: the bytes are no tables for these
 * options. image_finish has been called. */
ESP_CHECKED esp_code image_read_tables(adapter_image **out, const image_options *options,
                                       const void *bytes, size_t count, esp_error *err);

/* Bytes of a row of a matrix as it comes in files. */
size_t image_row_bytes(const kern_matrix_desc *desc);
/* The rows of a whole matrix for another rank; data NULL: there are none for it. */
kern_matrix_desc image_rows_of(const adapter_image *image, image_whole which, uint32_t rank);

/* A rank that has them on its own device: the matrix is the image's from here on. */
void image_set_whole(adapter_image *image, image_whole which, kern_matrix *matrix,
                     image_closer closer);
/* Memory of the image's own for all frames, where none is in an arena; ESP_EXHAUSTED. */
ESP_CHECKED esp_code image_take_frames(adapter_image *image, esp_error *err);
/* Where frame i lies then; *bytes: those that it may have. */
void *image_own_frame(adapter_image *image, uint32_t i, size_t *bytes);

#endif
