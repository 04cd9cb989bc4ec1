/* adapter_image.h - one adapter as the kernels want it: its updates packed in pieces, the pieces laid
 * out in frames, and the tables through which a forward pass finds them (model_adapter).
 *
 *   frame 0                     frame 1                          .. frame_count - 1
 *   | piece | piece | piece | - | piece | piece |  ...  |  -  |
 *
 * A frame's bytes lie in memory of the image's own and, as a copy, wherever the caller put them; the
 * tables point at one of the two. Whole matrices (an embedding, an output) are no part of frames.
 *
 * In a replica of several ranks rank 0's image has the other ranks' parts, too: an image for each, cut as
 * shard_lora.h says, whose frames have the same numbers as rank 0's (adapter_send.h).
 *
 * Thread  one at a time builds or moves it; between, forward may read. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_ADAPTER_IMAGE_H
#define ESPALIER_ADAPTER_IMAGE_H

#include "engine/adapters/adapter_words.h"
#include "engine/model/model.h"
#include "engine/model/shard.h"

typedef struct image_options {
    const kern_ops *ops;
    const kern_device *dev;
    uint32_t layers, vocab; /* of the base */
    size_t frame_bytes; /* >= LORA_PIECE_MIN, a multiple of 64 */
    uint32_t frames_max;
    /* Asked before memory is taken, told when it is given back; false: there is no room. */
    bool (*take)(void *arg, uint64_t bytes);
    void (*give)(void *arg, uint64_t bytes);
    void *arg;
    const model_shard *shards; /* [ranks], borrowed; NULL: there is one */
    uint32_t ranks;
    /* What tables that another rank sent are held against (image_tables.h); NULL: nothing. */
    const model *model;
} image_options;

typedef struct adapter_image adapter_image;

/* Empty; never NULL. */
adapter_image *image_open(const image_options *options);
/* NULL is fine. */
void image_close(adapter_image *image);

/* Packs the update of a layer's linear, or with role ROLE_HEAD of the output matrix. A desc that touches
 * nothing adds nothing. ESP_EXHAUSTED: no room for it, as `take` or frames_max says. */
ESP_CHECKED esp_code image_add(adapter_image *image, kern_role role, uint32_t layer,
                               const kern_lora_desc *desc, esp_error *err);
typedef enum image_whole { IMAGE_EMBEDDING, IMAGE_OUTPUT, IMAGE_SCORE, IMAGE_WHOLES } image_whole;
/* How a whole matrix is closed one day, by any thread. */
typedef struct image_closer {
    void (*close)(void *arg, kern_matrix *matrix);
    void *arg;
} image_closer;
/* Takes the matrix over. ESP_EXHAUSTED: then it is closed already. */
ESP_CHECKED esp_code image_add_whole(adapter_image *image, image_whole which, kern_matrix *matrix,
                                     image_closer closer, esp_error *err);
/* The output is the embedding's matrix. */
void image_share_embedding(adapter_image *image);
/* What other ranks hold of such a matrix: a copy of all its rows, from which theirs are cut. */
ESP_CHECKED esp_code image_add_rows(adapter_image *image, image_whole which,
                                    const kern_matrix_desc *desc, esp_error *err);
/* Takes what they own over. */
void image_set_words(adapter_image *image, const adapter_words *words);
/* Gives them away; words.from stays. */
adapter_words image_take_words(adapter_image *image);
const adapter_words *image_words(const adapter_image *image);
/* The output of the adapter has so many rows, of all ranks together: more than the base's. */
void image_set_vocab(adapter_image *image, uint32_t vocab);
/* Nothing is added any more: makes the tables, over the image's own memory. */
void image_finish(adapter_image *image);

const model_adapter *image_view(const adapter_image *image);
/* Rows of an embedding of its own, where it adds tokens to the base's; else 0. */
uint32_t image_tokens(const adapter_image *image);
uint32_t image_frame_count(const adapter_image *image); /* of the rank that needs the most */
uint64_t
image_bytes(const adapter_image *image); /* of all pieces and whole matrices, of all ranks */
/* A rank's image among those of all; 0: the image itself. */
adapter_image *image_of_rank(adapter_image *image, uint32_t rank);

/* The bytes of frame i that are used, in the image's own memory; *bytes of them. 0: this rank needs fewer. */
const void *image_frame(const adapter_image *image, uint32_t i, size_t *bytes);
/* Points the tables at copies of the frames; frame i lies at arena + at[i] * frame_bytes. */
void image_point_at(adapter_image *image, void *arena, const uint32_t *at);
/* Points them at the image's own memory again. */
void image_point_home(adapter_image *image);

/* Gives the own memory of the frames back; tables and whole matrices stay. */
void image_drop(adapter_image *image);
bool image_is_home(const adapter_image *image); /* it has its own memory */

#endif
