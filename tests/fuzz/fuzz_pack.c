/* fuzz_pack.c - any bytes as a file of packed matrices; what is accepted is opened as matrices. The
 * hashes are made right first, else nothing would come through. Seeds: corpus/pack. */
// SPDX-License-Identifier: Apache-2.0
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/base/pool.h"
#include "engine/model/cache/pack_inner.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool is_span(uint64_t at, uint64_t bytes, size_t size) {
    return at <= size && bytes <= size - at;
}

static void mend_stretches(uint8_t *bytes, const pack_header *h, uint64_t hashes_at) {
    for (uint64_t i = 0; i < h->stretches; i++) {
        uint64_t at, count;
        if (h->table_at < PACK_ALIGNMENT || i >= pack_stretch_count(h->table_at)) return;
        pack_stretch(i, h->table_at, &at, &count);
        uint64_t hash = XXH3_64bits(bytes + at, count);
        memcpy(bytes + hashes_at + i * sizeof hash, &hash, sizeof hash);
    }
}

/* What an attacker who knows the format would do. */
static void mend_hashes(uint8_t *bytes, size_t size) {
    pack_header h;
    if (size < sizeof h) return;
    memcpy(&h, bytes, sizeof h);
    uint64_t entries = (uint64_t)h.entries * sizeof(pack_entry);
    uint64_t table = entries + (uint64_t)h.stretches * sizeof(uint64_t);
    if (is_span(h.table_at, table, size)) {
        mend_stretches(bytes, &h, h.table_at + entries);
        h.table_hash = XXH3_64bits(bytes + h.table_at, table);
    }
    h.file_bytes = size;
    h.header_hash = XXH3_64bits(&h, PACK_HASHED_HEADER);
    memcpy(bytes, &h, sizeof h);
}

static void open_matrices(const pack_file *pack, const kern_ops *ops, thread_pool *pool) {
    kern_device *dev;
    kern_options options = {.pool = pool, .kv_dtype = DT_F32, .tokens_max = 4};
    if (ops->open(&dev, &options, NULL)) return;
    for (uint32_t role = 0; role < 4; role++) {
        kern_image image;
        kern_matrix *matrix;
        if (!pack_file_find(pack, (pack_place){role, 0, 0}, &image)) continue;
        if (image.cols > 1 << 16) continue; /* the device's working space grows with it */
        if (ops->open_image(dev, &image, &matrix, NULL)) continue;
        float *row = malloc((size_t)image.cols * sizeof *row);
        const int32_t last = (int32_t)image.rows - 1;
        ops->embed(
            dev,
            &(kern_embed){.table = matrix, .ids = &last, .token_count = 1, .scale = 1, .out = row});
        free(row);
        ops->matrix_close(dev, matrix);
    }
    ops->close(dev);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    thread_pool *pool;
    pack_file *pack;
    if (pool_open(&pool, 1, NULL) != ESP_OK) return 0;
    uint8_t *copy = aligned_alloc(64, (size + 64) / 64 * 64);
    memcpy(copy, data, size);
    if (pack_file_open_memory(&pack, copy, size, pool, NULL) == ESP_OK) pack_file_close(pack);
    mend_hashes(copy, size);
    if (pack_file_open_memory(&pack, copy, size, pool, NULL) == ESP_OK) {
        open_matrices(pack, &kern_ref, pool);
        if (kern_cpu_best_level() != LEVEL_AUTO) open_matrices(pack, &kern_cpu, pool);
        pack_file_close(pack);
    }
    free(copy);
    pool_close(pool);
    return 0;
}
