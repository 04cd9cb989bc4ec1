/* synthetic.c - a random checkpoint: room for it asked first, then shard after shard. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/synthetic/synthetic.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "engine/base/mem.h"
#include "engine/model/new_folder.h"
#include "engine/model/synthetic/synthetic_inner.h"

enum {
    PIECE = 1 << 20,
    SPARE_BYTES = 1 << 24
}; /* values made at a time; room for the small files */

typedef struct writing {
    const synthetic_options *options;
    synthetic_tensor *tensors;
    uint32_t *shard; /* [count]: which file has it, from 0 */
    uint32_t count, shards;
    uint64_t done, total; /* bytes */
    uint16_t *piece;      /* [PIECE] */
    uint32_t now;         /* shard that is written */
} writing;

static uint64_t bytes_of(const synthetic_tensor *t) {
    return synthetic_count(t) * sizeof(uint16_t);
}

static void deal_into_shards(writing *w) {
    uint64_t filled = 0;
    uint32_t shard = 0;
    for (uint32_t i = 0; i < w->count; i++) {
        uint64_t bytes = bytes_of(&w->tensors[i]);
        if (filled && filled + bytes > w->options->shard_bytes) shard++, filled = 0;
        filled += bytes;
        w->shard[i] = shard;
        w->total += bytes;
    }
    w->shards = shard + 1;
}

static void name_shard(const writing *w, uint32_t shard, char *out, size_t bytes) {
    if (w->shards == 1)
        snprintf(out, bytes, "model.safetensors");
    else
        snprintf(out, bytes, "model-%05u-of-%05u.safetensors", shard + 1, w->shards);
}

/* ---- one file: 8 bytes of length, the header, the tensors ---- */

static json_t *shard_header(const writing *w) {
    json_t *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    uint64_t at = 0;
    for (uint32_t i = 0; i < w->count; i++) {
        const synthetic_tensor *t = &w->tensors[i];
        if (w->shard[i] != w->now) continue;
        json_t *shape = json_array();
        if (t->rows) json_array_append_new(shape, json_integer(t->rows));
        json_array_append_new(shape, json_integer(t->cols));
        json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", "BF16", "shape", shape,
                                  "data_offsets", (json_int_t)at, (json_int_t)(at + bytes_of(t)));
        json_object_set_new(header, t->name, entry);
        at += bytes_of(t);
    }
    return header;
}

static void write_header(const writing *w, FILE *file) {
    json_t *header = shard_header(w);
    char *text = json_dumps(header, JSON_COMPACT);
    ESP_ASSERT(text);
    uint64_t used = strlen(text), bytes = (used + 7) / 8 * 8;
    fwrite(&bytes, sizeof bytes, 1, file);
    fprintf(file, "%s%*s", text, (int)(bytes - used), "");
    free(text);
    json_decref(header);
}

static void write_tensor(writing *w, uint32_t index, FILE *file) {
    const synthetic_tensor *t = &w->tensors[index];
    const synthetic_options *o = w->options;
    static_assert(PIECE % 4 == 0, "pieces begin where synthetic_values may");
    synthetic_table table;
    uint64_t count = synthetic_count(t), key = (o->seed << 20) + index;
    synthetic_table_fill(&table, t->mean, t->deviation);
    for (uint64_t i = 0; i < count && !ferror(file); i += PIECE) {
        size_t part = count - i < PIECE ? (size_t)(count - i) : PIECE;
        synthetic_values(&table, key, i, w->piece, part);
        fwrite(w->piece, sizeof *w->piece, part, file);
        w->done += part * sizeof *w->piece;
        if (o->progress) o->progress(o->progress_arg, w->done, w->total);
    }
}

static esp_code write_shard(void *arg, FILE *file, esp_error *err) {
    writing *w = arg;
    (void)err; /* of the stream: new_folder_file sees it */
    write_header(w, file);
    for (uint32_t i = 0; i < w->count; i++)
        if (w->shard[i] == w->now) write_tensor(w, i, file);
    return ESP_OK;
}

/* ---- the folder ---- */

static json_t *shard_index(const writing *w) {
    json_t *map = json_object();
    for (uint32_t i = 0; i < w->count; i++) {
        char name[48];
        name_shard(w, w->shard[i], name, sizeof name);
        json_object_set_new(map, w->tensors[i].name, json_string(name));
    }
    return json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)w->total, "weight_map",
                     map);
}

/* Takes the reference. */
static esp_code write_json(const new_folder *folder, const char *name, json_t *value,
                           esp_error *err) {
    char *text = json_dumps(value, JSON_INDENT(2));
    ESP_ASSERT(text);
    esp_code code = new_folder_bytes(folder, name, text, strlen(text), err);
    free(text);
    json_decref(value);
    return code;
}

static esp_code check_room(const writing *w, const new_folder *folder, esp_error *err) {
    struct statvfs disk;
    if (statvfs(folder->made, &disk) != 0) return ESP_OK; /* then writing will tell */
    double room = (double)disk.f_bavail * (double)disk.f_frsize;
    if (room >= (double)w->total + SPARE_BYTES) return ESP_OK;
    return esp_fail_field(err, ESP_EXHAUSTED, "--out",
                          "the disk has %.1f GB left, and %s takes %.1f GB; choose another folder "
                          "or a smaller --shape",
                          room * 1e-9, w->options->shape->name, (double)w->total * 1e-9);
}

static esp_code fill_folder(writing *w, const new_folder *folder, esp_error *err) {
    esp_code code = check_room(w, folder, err);
    const synthetic_shape *shape = w->options->shape;
    if (!code) code = write_json(folder, "config.json", synthetic_config(shape), err);
    if (!code) code = write_json(folder, "tokenizer.json", synthetic_tokenizer(), err);
    for (w->now = 0; w->now < w->shards && !code; w->now++) {
        char name[48];
        name_shard(w, w->now, name, sizeof name);
        code = new_folder_file(folder, name, write_shard, w, err);
    }
    if (!code && w->shards > 1)
        code = write_json(folder, "model.safetensors.index.json", shard_index(w), err);
    return code ? code : new_folder_opens_as_model(folder, err);
}

esp_code synthetic_write(const synthetic_options *options, esp_error *err) {
    ESP_ASSERT(options->shape && options->shape->vocab >= 256 && options->shard_bytes > 0);
    new_folder folder;
    esp_code code = new_folder_begin(&folder, options->out, err);
    if (code) return code;
    writing w = {.options = options};
    w.tensors = synthetic_list(options->shape, &w.count);
    w.shard = mem_new(w.count, sizeof *w.shard);
    w.piece = mem_new(PIECE, sizeof *w.piece);
    deal_into_shards(&w);
    code = new_folder_end(&folder, fill_folder(&w, &folder, err), err);
    free(w.piece);
    free(w.shard);
    free(w.tensors);
    return code;
}
