/* pack_inner.h - the records of a pack file (pack_file.h), for its reader and its writer alone. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_PACK_INNER_H
#define ESPALIER_MODEL_PACK_INNER_H

#include <assert.h>

#include "engine/base/file.h"
#include "engine/model/cache/pack_file.h"

static const char PACK_MAGIC[8] = {'E', 'S', 'P', 'P', 'A', 'C', 'K', '2'};
enum { PACK_ORDER_ALIGNMENT = 64, PACK_HASHED_HEADER = 120 };

typedef struct pack_header {
    char magic[8];
    pack_key key;
    uint64_t identity, file_bytes, table_at;
    uint32_t entries, stretches;
    uint64_t table_hash;
    uint64_t zeros[6];
    uint64_t header_hash;
} pack_header;
static_assert(sizeof(pack_header) == PACK_HEADER_BYTES, "the layout of pack_file.h");

typedef struct pack_entry {
    pack_place place;
    uint32_t rows, cols;
    char dtype[12];
    uint64_t at, order_bytes, bytes, zero;
} pack_entry;
static_assert(sizeof(pack_entry) == PACK_ENTRY_BYTES, "the layout of pack_file.h");

struct pack_file {
    file_view view;       /* of nothing: memory of the caller's, or a copy */
    void *copy;           /* in huge pages, or NULL */
    const uint8_t *bytes; /* wherever they lie */
    uint64_t count;
    pack_header header;
    const pack_entry *entries; /* inside the bytes; table_at is aligned */
    const uint64_t *hashes;    /* behind them, one a stretch */
};

/* Where a matrix's bytes begin behind its order. */
static inline uint64_t pack_order_room(uint64_t order_bytes) {
    return (order_bytes + PACK_ORDER_ALIGNMENT - 1) / PACK_ORDER_ALIGNMENT * PACK_ORDER_ALIGNMENT;
}

/* What of stretch i is hashed, in a file whose matrices end at `end`. */
static inline void pack_stretch(uint64_t i, uint64_t end, uint64_t *at, uint64_t *bytes) {
    uint64_t first = i * PACK_STRETCH_BYTES, next = first + PACK_STRETCH_BYTES;
    *at = first < PACK_ALIGNMENT ? PACK_ALIGNMENT : first;
    *bytes = (next < end ? next : end) - *at;
}

static inline uint64_t pack_stretch_count(uint64_t end) {
    return end / PACK_STRETCH_BYTES + (end % PACK_STRETCH_BYTES > 0);
}

/* Copies a mapped and checked pack into memory of huge pages (pack_copy.c): settle where it lies in
 * small ones and need not. */
void pack_file_settle(pack_file *pack, struct thread_pool *pool);
void pack_file_copy(pack_file *pack, struct thread_pool *pool);

#endif
