/* adapter_image_inner.h - the inside of an image, for adapter_image.c, which builds it, and image_tables.c,
 * which writes it down for another rank; nobody else includes it. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_ADAPTER_IMAGE_INNER_H
#define ESPALIER_ADAPTER_IMAGE_INNER_H

#include "engine/adapters/adapter_image.h"
#include "engine/model/shard_lora.h"

enum { PIECE_ALIGNMENT = 64 };

typedef struct image_frame_room {
    uint8_t *at; /* [frame_bytes], or NULL: dropped */
    size_t used;
} image_frame_room;

typedef struct image_place {
    uint32_t frame;
    size_t offset;
} image_place;

/* A packed linear, before the tables are made. */
typedef struct image_linear {
    kern_role role;
    uint32_t layer, first_piece;
    kern_lora lora; /* its pieces are set by image_finish */
} image_linear;

struct adapter_image {
    image_options options;
    image_frame_room *frames; /* [frame_count] */
    uint32_t frame_count;
    image_place *places; /* [piece_count] */
    void **pieces;       /* [piece_count] where they lie now */
    uint32_t piece_count;
    image_linear *linears;
    uint32_t linear_count;
    const kern_lora **tables[MODEL_ADAPTER_LINEARS]; /* [layers], or NULL */
    kern_matrix *whole[IMAGE_WHOLES];
    image_closer closer; /* of all of them */
    bool shared;         /* the output is the embedding */
    adapter_words words;
    uint32_t tokens; /* rows of an embedding of its own, where more than the base's; else 0 */
    uint64_t bytes, whole_bytes;
    model_adapter view;

    /* Of several ranks; else all-zero. */
    adapter_image **others; /* [ranks - 1], rank 1's first */
    shard_lora_room cut;
    kern_matrix_desc rows[IMAGE_WHOLES]; /* the data is the image's own; NULL: none */
    void *tables_out;                    /* of another rank's: what image_tables.c writes, */
    size_t tables_bytes;                 /* as many bytes */
};

#endif
