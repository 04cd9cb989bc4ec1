/* adapter_follower.c - the adapters of a rank that follows rank 0: what it was sent, by the ids that batches name.
 *
 * Memory is taken and given back between steps, when adapters come and go. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>

#include "engine/adapters/adapter_message.h"
#include "engine/adapters/adapter_send.h"
#include "engine/adapters/image_tables.h"
#include "engine/base/mem.h"

enum { FRAMES_MAX = 1 << 16, FRAME_BYTES_MAX = 1 << 30 };

typedef struct followed {
    adapter_image *image; /* NULL: none of this id */
    uint32_t *places;     /* of its frames in the arena; NULL: in memory of its own */
    uint32_t place_count;
} followed;

/* A whole matrix on its way: its first `at` bytes are here. */
typedef struct coming_whole {
    uint8_t *data; /* NULL: none is */
    uint32_t id, index;
    uint64_t at;
} coming_whole;

struct adapter_follower {
    follower_options options;
    coming_whole coming;
    followed *all; /* [ids_max] */
    void *room;    /* [frame_bytes] a frame on its way to the arena */
};

adapter_follower *adapter_follower_open(const follower_options *options) {
    adapter_follower *f = mem_new(1, sizeof *f);
    f->options = *options;
    f->all = mem_new(options->ids_max, sizeof *f->all);
    f->room = mem_new(options->frame_bytes, 1);
    return f;
}

static void drop_coming(adapter_follower *f) {
    free(f->coming.data);
    f->coming = (coming_whole){0};
}

static void forget(adapter_follower *f, uint32_t id) {
    followed *one = &f->all[id];
    if (f->coming.id == id) drop_coming(f);
    image_close(one->image);
    free(one->places);
    *one = (followed){0};
}

void adapter_follower_close(adapter_follower *f) {
    if (!f) return;
    for (uint32_t id = 0; id < f->options.ids_max; id++)
        forget(f, id);
    free(f->all);
    free(f->room);
    free(f);
}

const model_adapter *adapter_follower_find(const adapter_follower *f, uint32_t id) {
    return id < f->options.ids_max && f->all[id].image ? image_view(f->all[id].image) : NULL;
}

/* ---- receiving ---- */

/* This rank's chunk, whether it wants one or not: the others wait. */
static void receive_chunk(const adapter_follower *f, const adapter_message *m, void *to,
                          uint64_t at) {
    comm *c = f->options.comm;
    comm_part parts[COMM_RANKS_MAX] = {{0}};
    parts[0].receive_bytes = adapter_message_some(m->bytes[c->rank], at);
    if (parts[0].receive_bytes) parts[0].receive = (char *)to + at;
    comm_exchange(c, parts);
}

static void receive(const adapter_follower *f, const adapter_message *m, void *to) {
    uint64_t most = adapter_message_most(m, f->options.comm->size);
    for (uint64_t at = 0; at < most; at += ADAPTER_MESSAGE_CHUNK)
        receive_chunk(f, m, to, at);
}

static esp_code refuse(const adapter_follower *f, const char *what, esp_error *err) {
    return esp_fail(err, ESP_INTERNAL,
                    "rank %u was sent %s that cannot be; start all ranks with the same program and "
                    "options",
                    f->options.comm->rank, what);
}

/* ---- tables ---- */

static bool places_fit(const adapter_follower *f, const followed *one) {
    for (uint32_t i = 0; i < one->place_count; i++)
        if (one->places[i] >= f->options.frame_count) return false;
    return true;
}

static esp_code make_image(adapter_follower *f, const adapter_message *m, const void *tables,
                           followed *one, esp_error *err) {
    const follower_options *o = &f->options;
    image_options options = {.ops = o->ops,
                             .dev = o->dev,
                             .layers = model_get_spec(o->model)->layers,
                             .vocab = model_get_spec(o->model)->vocab,
                             .model = o->model,
                             .frame_bytes = (size_t)m->frame_bytes,
                             .frames_max = one->places ? one->place_count : FRAMES_MAX};
    if (!places_fit(f, one)) return refuse(f, "frames", err);
    size_t bytes = (size_t)m->bytes[o->comm->rank];
    esp_code code = image_read_tables(&one->image, &options, tables, bytes, err);
    if (code != ESP_OK) return code;
    if (!one->places) return image_take_frames(one->image, err);
    image_point_at(one->image, o->arena, one->places);
    return ESP_OK;
}

static bool tables_are_sane(const adapter_follower *f, const adapter_message *m) {
    size_t frame = f->options.frame_bytes;
    if (m->bytes[f->options.comm->rank] > FRAME_BYTES_MAX || f->all[m->id].image) return false;
    if (m->places) return m->frame_bytes == frame && m->places <= f->options.frame_count;
    return m->frame_bytes >= LORA_PIECE_MIN && m->frame_bytes % 64 == 0 &&
           m->frame_bytes <= FRAME_BYTES_MAX;
}

static esp_code take_tables(adapter_follower *f, const adapter_message *m, esp_error *err) {
    comm *c = f->options.comm;
    followed *one = &f->all[m->id];
    esp_error why = {0};
    if (!tables_are_sane(f, m)) return refuse(f, "tables", err);
    void *tables = mem_new(m->bytes[c->rank] + 1, 1);
    receive(f, m, tables);
    if (m->places) {
        one->place_count = m->places;
        one->places = mem_new(m->places, sizeof *one->places);
        comm_broadcast(c, one->places, m->places * sizeof *one->places);
    }
    esp_code code = comm_check(c, err);
    if (code == ESP_OK) {
        code = make_image(f, m, tables, one, &why);
        /* A failure is rank 0's to do something about. */
        if (comm_agree(c, code, &why) != ESP_OK && code != ESP_OK) forget(f, m->id);
        code = comm_check(c, err);
    }
    free(tables);
    return code;
}

/* ---- frames ---- */

static esp_code take_frame(adapter_follower *f, const adapter_message *m, esp_error *err) {
    const follower_options *o = &f->options;
    followed *one = &f->all[m->id];
    uint64_t bytes = m->bytes[o->comm->rank];
    size_t room = o->frame_bytes;
    void *to = f->room;
    if (one->image && !one->places) to = image_own_frame(one->image, m->index, &room);
    if (bytes &&
        (!one->image || !to || bytes > room || (one->places && m->index >= one->place_count)))
        return refuse(f, "a frame", err);
    receive(f, m, to);
    esp_code code = comm_check(o->comm, err);
    if (code != ESP_OK || !bytes || !one->places) return code;
    uint8_t *place = (uint8_t *)o->arena + (size_t)one->places[m->index] * o->frame_bytes;
    o->ops->upload(o->dev, place, to, (size_t)bytes);
    return ESP_OK;
}

/* ---- whole matrices ---- */

static void close_whole(void *arg, kern_matrix *matrix) {
    const adapter_follower *f = arg;
    f->options.ops->matrix_close(f->options.dev, matrix);
}

/* The matrix that an adapter brings has a row for each token, here of an output for this rank's: of the base's, and
 * of those it adds. */
static uint32_t rows_here(const adapter_follower *f, const adapter_message *m) {
    const adapter_image *image = f->all[m->id].image;
    const model_shard *shard = model_get_shard(f->options.model);
    uint32_t base = model_get_spec(f->options.model)->vocab, own = image_view(image)->vocab;
    if (m->index == IMAGE_EMBEDDING) return image_tokens(image) ? image_tokens(image) : base;
    return shard_vocab(shard, own ? own : base, shard->rank).count;
}

static bool shape_is_sane(const adapter_follower *f, const adapter_message *m) {
    const dtype_row *info = dtype_info((esp_dtype)m->dtype);
    if (m->cols != model_get_spec(f->options.model)->hidden || m->cols % info->block_elements)
        return false;
    uint64_t row = (uint64_t)m->cols / info->block_elements * info->block_bytes;
    return m->bytes[f->options.comm->rank] == rows_here(f, m) * row;
}

/* The first chunk of one, where none is on its way; or the next of that. */
static bool whole_is_sane(const adapter_follower *f, const adapter_message *m) {
    const coming_whole *w = &f->coming;
    const adapter_image *image = f->all[m->id].image;
    if (!image || m->index > IMAGE_OUTPUT || m->dtype >= DT_COUNT) return false;
    const model_adapter *view = image_view(image);
    bool there = m->index == IMAGE_EMBEDDING ? view->embedding : view->output;
    bool expected = !w->data || (w->id == m->id && w->index == m->index);
    return !there && expected && m->at == w->at && shape_is_sane(f, m);
}

/* The rows at `data`, on this rank's device. */
static esp_code pack_whole(adapter_follower *f, const adapter_message *m, const void *data,
                           esp_error *err) {
    const follower_options *o = &f->options;
    kern_matrix_desc desc = {.dtype = (esp_dtype)m->dtype, .cols = m->cols, .data = data};
    kern_matrix *matrix = NULL;
    desc.rows = (uint32_t)(m->bytes[o->comm->rank] / image_row_bytes(&desc));
    esp_code code = o->ops->pack(o->dev, &desc, &matrix, err);
    if (code != ESP_OK) return code;
    image_set_whole(f->all[m->id].image, (image_whole)m->index, matrix,
                    (image_closer){close_whole, f});
    return o->ops->sync(o->dev, err);
}

static esp_code take_whole(adapter_follower *f, const adapter_message *m, esp_error *err) {
    comm *c = f->options.comm;
    coming_whole *w = &f->coming;
    esp_error why = {0};
    if (!whole_is_sane(f, m)) return refuse(f, "a matrix", err);
    if (!w->data)
        *w = (coming_whole){mem_new(m->bytes[c->rank], 1), .id = m->id, .index = m->index};
    receive_chunk(f, m, w->data, m->at);
    w->at += ADAPTER_MESSAGE_CHUNK;
    esp_code code = comm_check(c, err);
    if (code != ESP_OK || w->at < adapter_message_most(m, c->size)) return code;
    if (adapter_message_agree(c, pack_whole(f, m, w->data, &why), &why) != ESP_OK)
        code = comm_check(c, err);
    drop_coming(f);
    return code;
}

/* ---- the door ---- */

esp_code adapter_follower_take(adapter_follower *f, esp_error *err) {
    adapter_message m = {0};
    comm_broadcast(f->options.comm, &m, sizeof m);
    esp_code code = comm_check(f->options.comm, err);
    if (code != ESP_OK) return code;
    if (m.id >= f->options.ids_max) return refuse(f, "an adapter", err);
    switch (m.kind) {
    case ADAPTER_TABLES:
        return take_tables(f, &m, err);
    case ADAPTER_FRAME:
        return take_frame(f, &m, err);
    case ADAPTER_WHOLE:
        return take_whole(f, &m, err);
    case ADAPTER_OUT:
        forget(f, m.id);
        return ESP_OK;
    default:
        return refuse(f, "a message", err);
    }
}
