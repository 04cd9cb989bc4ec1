/* pack_file.c - maps a file of packed matrices and believes nothing of it before its hash is right.
 */
// SPDX-License-Identifier: Apache-2.0
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/base/check.h"
#include "engine/base/huge.h"
#include "engine/base/mem.h"
#include "engine/base/pool.h"
#include "engine/model/cache/pack_inner.h"
#include "engine/model/family/family.h"

pack_key pack_key_of(const char *model_digest, const char *format, const char *layout) {
    pack_key key;
    char kind[256];
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(model_digest, strlen(model_digest)));
    memcpy(key.model, canonical.digest, sizeof key.model);
    int bytes = snprintf(kind, sizeof kind, "%s %s %s %d %d", ESPALIER_VERSION, format, layout,
                         (int)DT_COUNT, (int)TENSOR_ROLE_COUNT);
    ESP_ASSERT(bytes < (int)sizeof kind);
    key.kind = XXH3_64bits(kind, (size_t)bytes);
    return key;
}

/* --- checks ---------------------------------------------------------------------------------- */

static esp_code damaged(const pack_file *pack, esp_error *err, const char *what) {
    return esp_fail(err, ESP_INVALID, "%s: %s", pack->view.name[0] ? pack->view.name : "pack",
                    what);
}

/* The bytes of the table; false: they do not end with the file. */
static bool measure_table(const pack_file *pack, uint64_t *bytes) {
    const pack_header *h = &pack->header;
    uint64_t end;
    *bytes = (uint64_t)h->entries * sizeof(pack_entry) + (uint64_t)h->stretches * sizeof(uint64_t);
    return h->table_at >= PACK_ALIGNMENT && h->table_at % PACK_ORDER_ALIGNMENT == 0 &&
           check_add(h->table_at, *bytes, &end) && end == pack->count &&
           h->stretches == pack_stretch_count(h->table_at);
}

static esp_code check_header(pack_file *pack, esp_error *err) {
    pack_header *h = &pack->header;
    uint64_t table_bytes;
    if (pack->count < sizeof *h) return damaged(pack, err, "is shorter than its header");
    memcpy(h, pack->bytes, sizeof *h);
    if (memcmp(h->magic, PACK_MAGIC, sizeof h->magic) != 0)
        return damaged(pack, err, "does not begin with ESPPACK2");
    if (h->header_hash != XXH3_64bits(pack->bytes, PACK_HASHED_HEADER))
        return damaged(pack, err, "the header is damaged");
    if (h->file_bytes != pack->count)
        return damaged(pack, err, "is not as long as its header says");
    if (!measure_table(pack, &table_bytes))
        return damaged(pack, err, "the table does not end with the file");
    if (h->table_hash != XXH3_64bits(pack->bytes + h->table_at, table_bytes))
        return damaged(pack, err, "the table is damaged");
    pack->entries = (const pack_entry *)(const void *)(pack->bytes + h->table_at);
    pack->hashes = (const uint64_t *)(const void *)(pack->entries + h->entries);
    return ESP_OK;
}

/* The matrix lies between *end, where the one before ends, and the table; moves *end. */
static bool entry_fits(const pack_file *pack, const pack_entry *e, uint64_t *end) {
    uint64_t all, least = *end;
    if (e->order_bytes && e->order_bytes != (uint64_t)e->cols * sizeof(uint32_t)) return false;
    return check_add(pack_order_room(e->order_bytes), e->bytes, &all) && all > 0 &&
           e->at >= least && e->at % PACK_ALIGNMENT == 0 && check_add(e->at, all, end) &&
           *end <= pack->header.table_at;
}

typedef struct hash_job {
    const pack_file *pack;
    atomic_uint next;
    atomic_bool wrong;
} hash_job;

static void hash_stretches(void *arg, uint32_t worker, uint32_t workers) {
    hash_job *job = arg;
    const pack_file *pack = job->pack;
    (void)worker, (void)workers;
    for (uint32_t i; (i = atomic_fetch_add(&job->next, 1)) < pack->header.stretches;) {
        uint64_t at, bytes;
        pack_stretch(i, pack->header.table_at, &at, &bytes);
        if (XXH3_64bits(pack->bytes + at, bytes) != pack->hashes[i]) job->wrong = true;
    }
}

static esp_code check_all(pack_file *pack, thread_pool *pool, esp_error *err) {
    esp_code code = check_header(pack, err);
    if (code) return code;
    uint64_t end = PACK_ALIGNMENT;
    for (uint32_t i = 0; i < pack->header.entries; i++)
        if (!entry_fits(pack, &pack->entries[i], &end))
            return damaged(pack, err, "the matrices do not lie one behind the other");
    hash_job job = {.pack = pack};
    pool_run(pool, hash_stretches, &job);
    return job.wrong ? damaged(pack, err, "a matrix is damaged") : ESP_OK;
}

/* --- the door -------------------------------------------------------------------------------- */

esp_code pack_file_open_memory(pack_file **out, const void *bytes, size_t count, thread_pool *pool,
                               esp_error *err) {
    *out = NULL;
    pack_file *pack = mem_new(1, sizeof *pack);
    pack->bytes = bytes;
    pack->count = count;
    esp_code code = check_all(pack, pool, err);
    if (code) {
        pack_file_close(pack);
        return code;
    }
    *out = pack;
    return ESP_OK;
}

esp_code pack_file_open(pack_file **out, const char *path, thread_pool *pool, esp_error *err) {
    *out = NULL;
    pack_file *pack = mem_new(1, sizeof *pack);
    esp_code code = file_map(&pack->view, path, "a file of packed matrices", err);
    if (!code) {
        pack->bytes = pack->view.bytes;
        pack->count = pack->view.count;
        huge_ask(pack->bytes, pack->count);
        code = check_all(pack, pool, err);
    }
    if (code) {
        pack_file_close(pack);
        return code;
    }
    pack_file_settle(pack, pool);
    *out = pack;
    return ESP_OK;
}

void pack_file_close(pack_file *pack) {
    if (!pack) return;
    file_unmap(&pack->view);
    mem_unmap(pack->copy, pack->count);
    free(pack);
}

pack_key pack_file_key(const pack_file *pack) { return pack->header.key; }

uint64_t pack_file_identity(const pack_file *pack) { return pack->header.identity; }

const char *pack_file_how(const pack_file *pack) { return pack->copy ? "copied" : "mapped"; }

static bool find_dtype(const char *name, size_t bytes, esp_dtype *out) {
    for (int d = 0; d < DT_COUNT; d++) {
        const char *known = dtype_info((esp_dtype)d)->name;
        if (strlen(known) >= bytes || memcmp(known, name, strlen(known) + 1) != 0) continue;
        *out = (esp_dtype)d;
        return true;
    }
    return false;
}

/* What shape and dtype make of the bytes, open_image checks. */
bool pack_file_find(const pack_file *pack, pack_place place, kern_image *out) {
    for (uint32_t i = 0; i < pack->header.entries; i++) {
        const pack_entry *e = &pack->entries[i];
        if (memcmp(&e->place, &place, sizeof place) != 0) continue;
        const uint8_t *at = pack->bytes + e->at;
        *out = (kern_image){.rows = e->rows,
                            .cols = e->cols,
                            .order = e->order_bytes ? (const uint32_t *)(const void *)at : NULL,
                            .bytes = at + pack_order_room(e->order_bytes),
                            .count = e->bytes};
        return find_dtype(e->dtype, sizeof e->dtype, &out->dtype);
    }
    return false;
}
