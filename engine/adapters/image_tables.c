/* image_tables.c - writes and reads them; what another rank's image has besides. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/adapters/image_tables.h"

#include <stdlib.h>
#include <string.h>

#include "engine/adapters/adapter_image_inner.h"
#include "engine/base/mem.h"

enum { SIDE_MAX = 1 << 20 }; /* rows and cols of a matrix: what is larger is none */

static size_t tables_bytes(const image_tables_head *head) {
    return sizeof *head + (size_t)head->linear_count * sizeof(image_linear) +
           (size_t)head->piece_count * sizeof(image_place);
}

/* ---- writing ---- */

static void *put(void *to, const void *from, size_t bytes) {
    if (bytes) memcpy(to, from, bytes);
    return (char *)to + bytes;
}

void image_write_tables(adapter_image *image) {
    image_tables_head head = {.linear_count = image->linear_count,
                              .piece_count = image->piece_count,
                              .frame_count = image->frame_count,
                              .vocab = image->view.vocab,
                              .tokens = image->tokens};
    image->tables_bytes = tables_bytes(&head);
    void *at = image->tables_out = mem_new(image->tables_bytes, 1);
    at = put(at, &head, sizeof head);
    at = put(at, image->linears, image->linear_count * sizeof *image->linears);
    put(at, image->places, image->piece_count * sizeof *image->places);
}

const void *image_tables(const adapter_image *image, size_t *bytes) {
    ESP_ASSERT(image->tables_out);
    *bytes = image->tables_bytes;
    return image->tables_out;
}

/* ---- reading ---- */

/* Bytes that are no bool must not be read as one. */
static bool is_flag(const bool *at) {
    uint8_t byte;
    memcpy(&byte, at, sizeof byte);
    return byte <= 1;
}

/* The update without its values; false: there is none of this shape. */
static bool shape_of(const kern_lora *lora, kern_lora_desc *out) {
    static const float there[1];
    if (lora->part_count == 0 || lora->part_count > LINEAR_MATRICES_MAX || lora->cols > SIDE_MAX)
        return false;
    *out = (kern_lora_desc){.cols = lora->cols, .part_count = lora->part_count};
    for (uint32_t i = 0; i < lora->part_count; i++) {
        if (!is_flag(&lora->part[i].bias) || !is_flag(&lora->part[i].magnitude)) return false;
        out->part[i] = (kern_lora_part){.rank = lora->part[i].rank,
                                        .rows = lora->part[i].rows,
                                        .scale = lora->part[i].scale,
                                        .a = there,
                                        .b = there,
                                        .bias = lora->part[i].bias ? there : NULL,
                                        .magnitude = lora->part[i].magnitude ? there : NULL};
        if (lora->part[i].rows > SIDE_MAX) return false;
    }
    return kern_lora_is_sane(out, lora->piece_max);
}

/* Whether a piece of so many bytes lies there in one frame. */
static bool place_is_sane(const adapter_image *image, const image_place *place, size_t bytes) {
    size_t frame = image->options.frame_bytes;
    return place->frame < image->frame_count && place->offset % PIECE_ALIGNMENT == 0 &&
           bytes <= frame && place->offset <= frame - bytes;
}

static bool pieces_are_sane(const adapter_image *image, const image_linear *linear,
                            const kern_lora_desc *shape) {
    const image_options *o = &image->options;
    uint32_t first = linear->first_piece;
    uint32_t count = o->ops->lora_pieces(o->dev, shape, o->frame_bytes, NULL);
    if (count == 0 || first > image->piece_count || count > image->piece_count - first)
        return false;
    size_t *bytes = mem_new(count, sizeof *bytes);
    o->ops->lora_pieces(o->dev, shape, o->frame_bytes, bytes);
    bool sane = true;
    for (uint32_t i = 0; i < count; i++)
        sane &= place_is_sane(image, &image->places[first + i], bytes[i]);
    free(bytes);
    return sane;
}

static bool linear_is_sane(const adapter_image *image, const image_linear *linear) {
    bool of_layer = linear->role >= ROLE_QKV && linear->role <= ROLE_DOWN;
    kern_lora_desc shape;
    if (linear->role != ROLE_HEAD && !(of_layer && linear->layer < image->options.layers))
        return false;
    if (linear->lora.piece_max != image->options.frame_bytes || !shape_of(&linear->lora, &shape) ||
        !pieces_are_sane(image, linear, &shape))
        return false;
    const model *m = image->options.model;
    return !m ||
           model_takes_update(m, linear->role, linear->layer, &linear->lora, image->view.vocab);
}

static bool is_sane(const adapter_image *image) {
    for (uint32_t i = 0; i < image->piece_count; i++) /* none of them is pointed at elsewhere */
        if (!place_is_sane(image, &image->places[i], 0)) return false;
    for (uint32_t i = 0; i < image->linear_count; i++)
        if (!linear_is_sane(image, &image->linears[i])) return false;
    return true;
}

static const void *take(const void *from, void *to, size_t bytes) {
    if (bytes) memcpy(to, from, bytes);
    return (const char *)from + bytes;
}

static void read_arrays(adapter_image *image, const void *at) {
    image->frames = mem_new(image->frame_count + 1, sizeof *image->frames);
    image->linears = mem_new(image->linear_count + 1, sizeof *image->linears);
    image->places = mem_new(image->piece_count + 1, sizeof *image->places);
    image->pieces = mem_new(image->piece_count + 1, sizeof *image->pieces);
    at = take(at, image->linears, image->linear_count * sizeof *image->linears);
    take(at, image->places, image->piece_count * sizeof *image->places);
}

static bool vocab_is_sane(const image_options *options, uint32_t vocab) {
    return vocab == 0 ||
           (vocab > options->vocab && vocab - options->vocab <= MODEL_ADDED_TOKENS_MAX);
}

esp_code image_read_tables(adapter_image **out, const image_options *options, const void *bytes,
                           size_t count, esp_error *err) {
    image_tables_head head = {0};
    if (count >= sizeof head) memcpy(&head, bytes, sizeof head);
    if (count < sizeof head || tables_bytes(&head) != count ||
        head.frame_count > options->frames_max || !vocab_is_sane(options, head.vocab) ||
        !vocab_is_sane(options, head.tokens))
        return esp_fail(err, ESP_INTERNAL, "an adapter's tables of %zu bytes are not whole", count);
    adapter_image *image = image_open(options);
    image->linear_count = head.linear_count;
    image->piece_count = head.piece_count;
    image->frame_count = head.frame_count;
    image->view.vocab = head.vocab;
    image->tokens = head.tokens;
    read_arrays(image, (const char *)bytes + sizeof head);
    if (!is_sane(image)) {
        image_close(image);
        return esp_fail(err, ESP_INTERNAL,
                        "an adapter's tables are not of this model; start all ranks with the same "
                        "program and options");
    }
    image_finish(image);
    *out = image;
    return ESP_OK;
}

/* ---- whole matrices ---- */

size_t image_row_bytes(const kern_matrix_desc *desc) {
    const dtype_row *info = dtype_info(desc->dtype);
    return (size_t)desc->cols / info->block_elements * info->block_bytes;
}

/* The embedding is whole on each rank; scores are rank 0's alone. */
kern_matrix_desc image_rows_of(const adapter_image *image, image_whole which, uint32_t rank) {
    kern_matrix_desc desc = image->rows[which];
    if (!desc.data || which == IMAGE_EMBEDDING) return desc;
    shard_range rows = shard_vocab(&image->options.shards[rank], desc.rows, rank);
    desc.data = (const char *)desc.data + rows.first * image_row_bytes(&desc);
    desc.rows = rows.count;
    return desc;
}

void image_set_whole(adapter_image *image, image_whole which, kern_matrix *matrix,
                     image_closer closer) {
    ESP_ASSERT(!image->whole[which]);
    image->whole[which] = matrix;
    image->closer = closer;
    if (which == IMAGE_EMBEDDING) image->view.embedding = matrix;
    if (which == IMAGE_OUTPUT) image->view.output = matrix;
}

/* ---- frames ---- */

esp_code image_take_frames(adapter_image *image, esp_error *err) {
    const image_options *o = &image->options;
    for (uint32_t i = 0; i < image->frame_count; i++) {
        ESP_ASSERT(!image->frames[i].at);
        if (!(image->frames[i].at = o->ops->host_take(o->dev, o->frame_bytes)))
            return esp_fail(err, ESP_EXHAUSTED, "no memory for an adapter");
    }
    image_point_home(image);
    return ESP_OK;
}

void *image_own_frame(adapter_image *image, uint32_t i, size_t *bytes) {
    *bytes = image->options.frame_bytes;
    return i < image->frame_count ? image->frames[i].at : NULL;
}
