/* pack_inner.h - the records of a pack file (pack_file.h), for its reader and its writer alone. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_PACK_INNER_H
#define ESPALIER_MODEL_PACK_INNER_H

#include <assert.h>

#include "engine/model/cache/pack_file.h"

static const char PACK_MAGIC[8] = {'E', 'S', 'P', 'P', 'A', 'C', 'K', '1'};
enum { PACK_ORDER_ALIGNMENT = 64, PACK_HASHED_HEADER = 120 };

typedef struct pack_header {
    char magic[8];
    pack_key key;
    uint64_t identity, file_bytes, table_at;
    uint32_t entries, zero;
    uint64_t table_hash;
    uint64_t zeros[6];
    uint64_t header_hash;
} pack_header;
static_assert(sizeof(pack_header) == PACK_HEADER_BYTES, "the layout of pack_file.h");

typedef struct pack_entry {
    pack_place place;
    uint32_t rows, cols;
    char dtype[12];
    uint64_t at, order_bytes, bytes, hash;
} pack_entry;
static_assert(sizeof(pack_entry) == PACK_ENTRY_BYTES, "the layout of pack_file.h");

/* Where a matrix's bytes begin behind its order. */
static inline uint64_t pack_order_room(uint64_t order_bytes) {
    return (order_bytes + PACK_ORDER_ALIGNMENT - 1) / PACK_ORDER_ALIGNMENT * PACK_ORDER_ALIGNMENT;
}

#endif
