/* adapter_image.c - packing, placing in frames, and the tables. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/adapters/adapter_image_inner.h"
#include "engine/adapters/image_tables.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

/* A piece goes into the first of the last few frames that has room: in sizes as they come, little of a
 * frame is wasted, and no piece is looked at twice. */
enum { OPEN_FRAMES = 8 };

static uint32_t other_count(const adapter_image *image) {
    return image->options.ranks > 1 ? image->options.ranks - 1 : 0;
}

static void open_others(adapter_image *image) {
    uint32_t count = other_count(image);
    image_options o = image->options;
    if (!count) return;
    o.shards = NULL;
    o.ranks = 0;
    image->others = mem_new(count, sizeof(adapter_image *));
    for (uint32_t i = 0; i < count; i++)
        image->others[i] = image_open(&o);
}

adapter_image *image_of_rank(adapter_image *image, uint32_t rank) {
    ESP_ASSERT(rank <= other_count(image));
    return rank ? image->others[rank - 1] : image;
}

adapter_image *image_open(const image_options *options) {
    ESP_ASSERT(options->frame_bytes >= LORA_PIECE_MIN && options->frame_bytes % 64 == 0);
    adapter_image *image = mem_new(1, sizeof *image);
    image->options = *options;
    open_others(image);
    return image;
}

static void give(adapter_image *image, uint64_t bytes) {
    if (image->options.give && bytes) image->options.give(image->options.arg, bytes);
}

static bool take(adapter_image *image, uint64_t bytes) {
    return !image->options.take || image->options.take(image->options.arg, bytes);
}

void image_drop(adapter_image *image) {
    for (uint32_t i = 0; i < image->frame_count; i++) {
        if (!image->frames[i].at) continue;
        image->options.ops->host_give(image->options.dev, image->frames[i].at,
                                      image->options.frame_bytes);
        image->frames[i].at = NULL;
        give(image, image->options.frame_bytes);
    }
    for (uint32_t i = 0; i < other_count(image); i++)
        image_drop(image->others[i]);
}

static void close_wholes(adapter_image *image) {
    for (uint32_t i = 0; i < IMAGE_WHOLES; i++) {
        if (image->whole[i]) image->closer.close(image->closer.arg, image->whole[i]);
        free((void *)image->rows[i].data);
    }
    give(image, image->whole_bytes);
}

void image_close(adapter_image *image) {
    if (!image) return;
    image_drop(image);
    for (uint32_t i = 0; i < other_count(image); i++)
        image_close(image->others[i]);
    close_wholes(image);
    free(image->others);
    free(image->cut.at);
    free(image->tables_out);
    adapter_words_close(&image->words);
    for (uint32_t i = 0; i < MODEL_ADAPTER_LINEARS; i++)
        free(image->tables[i]);
    free(image->frames);
    free(image->places);
    free(image->pieces);
    free(image->linears);
    free(image);
}

/* ---- placing ---- */

static esp_code add_frame(adapter_image *image, esp_error *err) {
    const image_options *o = &image->options;
    if (image->frame_count == o->frames_max)
        return esp_fail_field(err, ESP_EXHAUSTED, "--kv-memory",
                              "the adapter needs more than the %u frames of %zu bytes that one may "
                              "have in the arena; raise --kv-memory",
                              o->frames_max, o->frame_bytes);
    if (!take(image, o->frame_bytes))
        return esp_fail_field(err, ESP_EXHAUSTED, "--adapter-memory",
                              "no room for the adapter in the memory for adapters; unload others "
                              "or raise --adapter-memory");
    uint8_t *at = o->ops->host_take(o->dev, o->frame_bytes);
    if (!at) {
        give(image, o->frame_bytes);
        return esp_fail_field(err, ESP_EXHAUSTED, "--adapter-memory",
                              "this machine has no %zu bytes left for frame %u of the adapter; "
                              "lower --adapter-memory, so that fewer adapters stay in memory, or "
                              "end what else uses it",
                              o->frame_bytes, image->frame_count);
    }
    image->frames = mem_resize(image->frames, image->frame_count + 1, sizeof *image->frames);
    image->frames[image->frame_count++] = (image_frame_room){.at = at};
    return ESP_OK;
}

static esp_code place(adapter_image *image, size_t bytes, image_place *out, esp_error *err) {
    size_t room = (bytes + PIECE_ALIGNMENT - 1) / PIECE_ALIGNMENT * PIECE_ALIGNMENT;
    ESP_ASSERT(bytes > 0 && room <= image->options.frame_bytes);
    uint32_t i = image->frame_count > OPEN_FRAMES ? image->frame_count - OPEN_FRAMES : 0;
    while (i < image->frame_count && image->frames[i].used + room > image->options.frame_bytes)
        i++;
    if (i == image->frame_count) {
        esp_code code = add_frame(image, err);
        if (code != ESP_OK) return code;
    }
    *out = (image_place){.frame = i, .offset = image->frames[i].used};
    image->frames[i].used += room;
    image->bytes += bytes;
    return ESP_OK;
}

static esp_code place_all(adapter_image *image, const size_t *bytes, uint32_t count,
                          esp_error *err) {
    uint32_t first = image->piece_count;
    image->places = mem_resize(image->places, first + count, sizeof *image->places);
    image->pieces = mem_resize(image->pieces, first + count, sizeof *image->pieces);
    for (uint32_t i = 0; i < count; i++) {
        image_place *at = &image->places[first + i];
        esp_code code = place(image, bytes[i], at, err);
        if (code != ESP_OK) return code;
        image->pieces[first + i] = image->frames[at->frame].at + at->offset;
    }
    image->piece_count += count;
    return ESP_OK;
}

/* ---- adding ---- */

/* Of one rank. */
static esp_code add(adapter_image *image, kern_role role, uint32_t layer,
                    const kern_lora_desc *desc, esp_error *err) {
    const image_options *o = &image->options;
    uint32_t count = o->ops->lora_pieces(o->dev, desc, o->frame_bytes, NULL);
    if (count == 0) return ESP_OK;
    size_t *bytes = mem_new(count, sizeof *bytes);
    o->ops->lora_pieces(o->dev, desc, o->frame_bytes, bytes);
    uint32_t first = image->piece_count;
    esp_code code = place_all(image, bytes, count, err);
    free(bytes);
    if (code != ESP_OK) return code;
    o->ops->lora_pack(o->dev, desc, o->frame_bytes, image->pieces + first);
    image->linears = mem_resize(image->linears, image->linear_count + 1, sizeof *image->linears);
    image->linears[image->linear_count++] =
        (image_linear){.role = role,
                       .layer = layer,
                       .first_piece = first,
                       .lora = kern_lora_of(desc, o->frame_bytes, NULL)};
    return ESP_OK;
}

esp_code image_add(adapter_image *image, kern_role role, uint32_t layer, const kern_lora_desc *desc,
                   esp_error *err) {
    const image_options *o = &image->options;
    ESP_ASSERT(role >= ROLE_QKV && role <= ROLE_HEAD);
    ESP_ASSERT(role == ROLE_HEAD || layer < o->layers);
    if (o->ranks < 2) return add(image, role, layer, desc, err);
    esp_code code = ESP_OK;
    for (uint32_t rank = 0; rank < o->ranks && code == ESP_OK; rank++) {
        kern_lora_desc cut = shard_lora(&o->shards[rank], role, desc, &image->cut);
        code = add(image_of_rank(image, rank), role, layer, &cut, err);
    }
    return code;
}

void image_set_words(adapter_image *image, const adapter_words *words) {
    image->words = *words;
    image->tokens = words->vocab;
    for (uint32_t i = 0; i < other_count(image); i++)
        image->others[i]->tokens = words->vocab;
}

adapter_words image_take_words(adapter_image *image) {
    adapter_words words = image->words;
    image->words = (adapter_words){0};
    memcpy(image->words.from, words.from, sizeof words.from);
    return words;
}

const adapter_words *image_words(const adapter_image *image) { return &image->words; }

void image_set_vocab(adapter_image *image, uint32_t vocab) {
    ESP_ASSERT(vocab - image->options.vocab <= MODEL_ADDED_TOKENS_MAX);
    image->view.vocab = vocab;
    for (uint32_t i = 0; i < other_count(image); i++)
        image_set_vocab(image->others[i], vocab);
}

static esp_code take_whole(adapter_image *image, uint64_t bytes, esp_error *err) {
    if (!take(image, bytes))
        return esp_fail_field(err, ESP_EXHAUSTED, "--adapter-memory",
                              "the adapter brings a whole matrix of %llu bytes, for which the "
                              "memory for adapters has no room; raise --adapter-memory",
                              (unsigned long long)bytes);
    image->whole_bytes += bytes;
    return ESP_OK;
}

esp_code image_add_whole(adapter_image *image, image_whole which, kern_matrix *matrix,
                         image_closer closer, esp_error *err) {
    ESP_ASSERT(!image->whole[which]);
    esp_code code = take_whole(image, image->options.ops->matrix_bytes(matrix), err);
    if (code != ESP_OK) {
        closer.close(closer.arg, matrix);
        return code;
    }
    image->closer = closer;
    image->whole[which] = matrix;
    return ESP_OK;
}

void image_share_embedding(adapter_image *image) { image->shared = true; }

esp_code image_add_rows(adapter_image *image, image_whole which, const kern_matrix_desc *desc,
                        esp_error *err) {
    ESP_ASSERT(!image->rows[which].data && !desc->order);
    uint64_t bytes = desc->rows * image_row_bytes(desc);
    esp_code code = take_whole(image, bytes, err);
    if (code != ESP_OK) return code;
    void *copy = mem_new(bytes, 1);
    memcpy(copy, desc->data, bytes);
    image->rows[which] = *desc;
    image->rows[which].data = copy;
    return ESP_OK;
}

void image_finish(adapter_image *image) {
    for (uint32_t i = 0; i < image->linear_count; i++) {
        image_linear *linear = &image->linears[i];
        linear->lora.pieces = image->pieces + linear->first_piece;
        if (linear->role == ROLE_HEAD) {
            image->view.head = &linear->lora;
            continue;
        }
        const kern_lora ***table = &image->tables[linear->role - ROLE_QKV];
        if (!*table) *table = mem_new(image->options.layers, sizeof **table);
        (*table)[linear->layer] = &linear->lora;
    }
    for (uint32_t i = 0; i < MODEL_ADAPTER_LINEARS; i++)
        image->view.linears[i] = image->tables[i];
    image->view.embedding = image->whole[IMAGE_EMBEDDING];
    image->view.output = image->whole[image->shared ? IMAGE_EMBEDDING : IMAGE_OUTPUT];
    image->view.score = image->whole[IMAGE_SCORE];
    for (uint32_t i = 0; i < other_count(image); i++)
        image_write_tables(image->others[i]);
}

/* ---- reading and moving ---- */

uint32_t image_tokens(const adapter_image *image) { return image->tokens; }
const model_adapter *image_view(const adapter_image *image) { return &image->view; }

uint32_t image_frame_count(const adapter_image *image) {
    uint32_t most = image->frame_count;
    for (uint32_t i = 0; i < other_count(image); i++)
        if (image->others[i]->frame_count > most) most = image->others[i]->frame_count;
    return most;
}

uint64_t image_bytes(const adapter_image *image) {
    uint64_t bytes = image->bytes + image->whole_bytes;
    for (uint32_t i = 0; i < other_count(image); i++)
        bytes += image->others[i]->bytes;
    return bytes;
}

bool image_is_home(const adapter_image *image) {
    for (uint32_t i = 0; i < other_count(image); i++)
        if (!image_is_home(image->others[i])) return false;
    return image->frame_count == 0 || image->frames[0].at != NULL;
}

const void *image_frame(const adapter_image *image, uint32_t i, size_t *bytes) {
    *bytes = 0;
    if (i >= image->frame_count) return NULL;
    ESP_ASSERT(image->frames[i].at);
    *bytes = image->frames[i].used;
    return image->frames[i].at;
}

void image_point_at(adapter_image *image, void *arena, const uint32_t *at) {
    for (uint32_t i = 0; i < image->piece_count; i++) {
        const image_place *p = &image->places[i];
        image->pieces[i] = (uint8_t *)arena + at[p->frame] * image->options.frame_bytes + p->offset;
    }
}

void image_point_home(adapter_image *image) {
    for (uint32_t i = 0; i < image->piece_count; i++) {
        const image_place *p = &image->places[i];
        image->pieces[i] = image->frames[p->frame].at + p->offset;
    }
}
