/* adapter_lab.h - residency without a model: adapters whose files are a table, whose pieces hold one byte
 * over and over, and an engine that steps nothing but the scheduler. Who computes with the wrong adapter
 * sees another byte. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TESTS_ADAPTER_LAB_H
#define ESPALIER_TESTS_ADAPTER_LAB_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/adapters/adapter_reader.h"
#include "engine/adapters/adapters.h"
#include "engine/base/mem.h"
#include "kernels/kernels.h"

enum { LAB_FILES = 256, LAB_FRAME = 8192, LAB_PIECE = 4096, LAB_LAYERS = 2 };

/* What lies at the path "/lab/<index>". */
typedef struct lab_file {
    uint8_t mark;    /* of every byte of its pieces, and its digest */
    uint32_t pieces; /* of LAB_PIECE bytes; two a frame */
    esp_code fails;  /* what reading it gives */
} lab_file;

typedef struct lab {
    lab_file files[LAB_FILES];
    bool endless; /* instead, whatever the index, something lies there that never changes */
    _Atomic uint64_t reads, words; /* how often an adapter was read; its words alone */
    kern_ops ops;
    adapter_reader reader;
    scheduler *sched;
    adapters *a;
    uint8_t *arena;
    uint32_t pages;
    int64_t now_us;
    _Atomic uint32_t wakes;
    uint32_t arrived, ended;
    void (*on_end)(struct lab *, adapter *, const esp_error *);
    void *owner;
} lab;

/* The desc's first rank is the count of pieces, its scale the mark. */
static uint32_t lab_pieces(const kern_device *dev, const kern_lora_desc *desc, size_t piece_max,
                           size_t *bytes) {
    (void)dev;
    (void)piece_max;
    for (uint32_t i = 0; bytes && i < desc->part[0].rank; i++)
        bytes[i] = LAB_PIECE;
    return desc->part[0].rank;
}

static void lab_pack(const kern_device *dev, const kern_lora_desc *desc, size_t piece_max,
                     void *const *pieces) {
    (void)dev;
    (void)piece_max;
    for (uint32_t i = 0; i < desc->part[0].rank; i++)
        memset(pieces[i], (int)desc->part[0].scale, LAB_PIECE);
}

static void lab_digest(uint8_t mark, uint32_t pieces, char out[ADAPTER_DIGEST_CHARS]) {
    snprintf(out, ADAPTER_DIGEST_CHARS, "sha256:%032x%032x", mark, pieces);
}

static lab_file lab_file_at(const lab *l, const char *path) {
    uint32_t index = (uint32_t)atoi(strrchr(path, '/') + 1);
    if (l->endless) return (lab_file){.mark = (uint8_t)(1 + index % 251), .pieces = 1 + index % 8};
    return l->files[index];
}

static esp_code lab_read(const adapter_reader *reader, const char *path, adapter_image *image,
                         adapter_facts *facts, esp_error *err) {
    lab *l = reader->arg;
    const lab_file file = lab_file_at(l, path);
    l->reads++;
    if (file.fails) return esp_fail(err, file.fails, "the file is no good");
    *facts = (adapter_facts){.rank = 8, .parameters = 1, .file_bytes = file.pieces};
    lab_digest(file.mark, file.pieces, facts->digest);
    for (uint32_t layer = 0; layer < LAB_LAYERS; layer++) {
        uint32_t half = file.pieces / LAB_LAYERS + (layer < file.pieces % LAB_LAYERS);
        kern_lora_desc desc = {
            .cols = 1, .part_count = 1, .part = {{.rank = half, .rows = 1, .scale = file.mark}}};
        esp_code code = image_add(image, ROLE_QKV, layer, &desc, err);
        if (code != ESP_OK) return code;
    }
    adapter_words words = {.labels = mem_new(1, sizeof *words.labels)};
    lab_digest(file.mark, 0, words.from);
    image_set_words(image, &words);
    image_finish(image);
    return ESP_OK;
}

/* None; but what they own is somebody's. */
static esp_code lab_read_words(const adapter_reader *reader, const char *path, adapter_words *out,
                               esp_error *err) {
    lab *l = reader->arg;
    const lab_file file = lab_file_at(l, path);
    l->words++;
    if (file.fails) return esp_fail(err, file.fails, "the file is no good");
    *out = (adapter_words){.labels = mem_new(1, sizeof *out->labels)};
    lab_digest(file.mark, 0, out->from);
    return ESP_OK;
}

static void lab_wake(void *arg) { ((lab *)arg)->wakes++; }

static void lab_arrived(void *arg, adapter *ad) {
    lab *l = arg;
    l->arrived++;
    if (l->sched) sched_retry(l->sched, ad);
}

static void lab_end_users(void *arg, adapter *ad, const esp_error *why) {
    lab *l = arg;
    l->ended++;
    if (l->on_end) l->on_end(l, ad, why);
}

typedef struct lab_options {
    uint32_t pages, seqs_max, context_max;
    uint64_t host_memory; /* 0: plenty */
    bool threaded, in_place;
    adapter_store *store;
} lab_options;

static lab *lab_open(const lab_options *o) {
    lab *l = mem_new(1, sizeof *l);
    l->pages = o->pages;
    l->ops = kern_ref;
    l->ops.lora_pieces = lab_pieces;
    l->ops.lora_pack = lab_pack;
    l->reader = (adapter_reader){.read = lab_read, .read_words = lab_read_words, .arg = l};
    sched_options sched = {.seqs_max = o->seqs_max,
                           .waiting_max = 256,
                           .step_tokens = 64,
                           .context_max = o->context_max,
                           .kv = {.page_count = o->pages, .group_count = 1}};
    assert_int_equal(sched_open(&l->sched, &sched, NULL), ESP_OK);
    l->arena = mem_new(o->pages, LAB_FRAME);
    adapters_options options = {.ops = &l->ops,
                                .sched = o->in_place ? NULL : l->sched,
                                .arena = l->arena,
                                .frame_bytes = LAB_FRAME,
                                .frame_count = o->pages,
                                .host_memory = o->host_memory ? o->host_memory : 1 << 30,
                                .store = o->store,
                                .wake = lab_wake,
                                .arrived = lab_arrived,
                                .end_users = lab_end_users,
                                .arg = l,
                                .reader = &l->reader,
                                .layers = LAB_LAYERS,
                                .by_hand = !o->threaded};
    assert_int_equal(adapters_open(&l->a, &options, NULL), ESP_OK);
    sched_adapters how = adapters_for_scheduler(l->a);
    sched_set_adapters(l->sched, &how);
    return l;
}

static void lab_close(lab *l) {
    adapters_close(l->a);
    kv_check(sched_kv(l->sched));
    assert_int_equal(kv_leased_count(sched_kv(l->sched)), 0);
    sched_close(l->sched);
    free(l->arena);
    free(l);
}

static const char *lab_path(uint32_t file) {
    static _Thread_local char path[32];
    snprintf(path, sizeof path, "/lab/%u", file);
    return path;
}

/* Every byte of what forward would read of the adapter. */
static bool lab_is(const adapter *ad, uint8_t mark) {
    const model_adapter *view = adapter_resident(ad);
    for (uint32_t layer = 0; layer < LAB_LAYERS; layer++) {
        const kern_lora *lora = view->linears[0] ? view->linears[0][layer] : NULL;
        for (uint32_t i = 0; lora && i < lora->part[0].rank; i++) {
            const uint8_t *bytes = lora->pieces[i];
            if (bytes[0] != mark || memcmp(bytes, bytes + 1, LAB_PIECE - 1) != 0) return false;
        }
    }
    return true;
}

#endif
