/* pack_copy.c - a pack that the system maps in small pages, copied into huge ones.
 *
 * Reading weights over pages of 4 KiB costs a fifth of the bandwidth, for as long as the process
 * lives; copying costs about what packing saves in memory traffic, once. A page of the file is given
 * back as soon as it is copied, so that the process never holds both. */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "engine/base/huge.h"
#include "engine/base/mem.h"
#include "engine/base/pool.h"
#include "engine/model/cache/pack_inner.h"

enum { SMALL_BYTES = 4 << 20 /* what small pages are good enough for */ };

static void copy_bytes(const pack_file *pack, uint64_t at, uint64_t end) {
    while (at < end) {
        uint64_t left = end - at, bytes = left < PACK_STRETCH_BYTES ? left : PACK_STRETCH_BYTES;
        memcpy((uint8_t *)pack->copy + at, pack->view.bytes + at, bytes);
        file_done_with(pack->view.bytes + at, bytes);
        at += bytes;
    }
}

/* Each worker its share of every matrix: rows are shared out the same way in a linear, so memory is
 * first touched where it will be read. */
static void copy_share(void *arg, uint32_t worker, uint32_t workers) {
    const pack_file *pack = arg;
    for (uint32_t i = 0; i < pack->header.entries; i++) {
        const pack_entry *e = &pack->entries[i];
        uint64_t bytes = pack_order_room(e->order_bytes) + e->bytes;
        copy_bytes(pack, e->at + bytes * worker / workers, e->at + bytes * (worker + 1) / workers);
    }
    if (worker == 0) copy_bytes(pack, pack->header.table_at, pack->count);
}

static bool lies_well(const pack_file *pack) {
    return pack->count < SMALL_BYTES || huge_bytes(pack->bytes) > pack->count / 2 ||
           !huge_is_allowed();
}

void pack_file_copy(pack_file *pack, thread_pool *pool) {
    pack->copy = mem_map(pack->count);
    if (!pack->copy) return; /* small pages are better than none */
    pool_run(pool, copy_share, pack);
    pack->bytes = pack->copy;
    pack->entries = (const pack_entry *)(const void *)(pack->bytes + pack->header.table_at);
    pack->hashes = (const uint64_t *)(const void *)(pack->entries + pack->header.entries);
    file_unmap(&pack->view);
}

void pack_file_settle(pack_file *pack, thread_pool *pool) {
    if (!lies_well(pack)) pack_file_copy(pack, pool);
}
