/* weight_room.c - memory of packed weights: matrices side by side in large mappings.
 *
 * A small model's matrices are smaller than a huge page (2 MiB), and the end of a large one never
 * fills its last. In a mapping of their own they would lie in pages of 4 KiB, and the reading of
 * weights, which is what decoding waits for, would lose a fifth of its speed.
 *
 *   room     a mapping of ROOM_BYTES, filled from its begin; nothing is taken twice, so that memory
 *            is zero when it is given out. It goes with its last matrix.
 *   large    what would leave much of a room empty has a mapping of its own: a room that ends with it */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/cpu/cpu.h"

enum { ROOM_BYTES = 64 << 20, LARGE_BYTES = 16 << 20 };

struct cpu_room {
    cpu_room *next;
    uint8_t *at;
    size_t bytes, used;
    uint32_t users; /* matrices */
};

static cpu_room *add_room(kern_device *dev, size_t bytes) {
    cpu_room *room = mem_new(1, sizeof *room);
    room->bytes = bytes < LARGE_BYTES ? ROOM_BYTES : bytes;
    room->at = mem_map(room->bytes);
    if (!room->at) {
        free(room);
        return NULL;
    }
    room->next = dev->rooms;
    return dev->rooms = room;
}

static cpu_room *find_room(const kern_device *dev, size_t bytes) {
    cpu_room *room = dev->rooms;
    while (room && room->bytes - room->used < bytes)
        room = room->next;
    return room;
}

void *cpu_room_take(kern_device *dev, size_t bytes) {
    uint64_t padded;
    if (!check_align(bytes, CACHE_LINE_BYTES, &padded)) return NULL;
    cpu_room *room = find_room(dev, padded);
    if (!room) room = add_room(dev, padded);
    if (!room) return NULL;
    void *at = room->at + room->used;
    room->used += padded;
    room->users++;
    return at;
}

static bool holds(const cpu_room *room, const uint8_t *at) {
    return at >= room->at && at < room->at + room->bytes;
}

void cpu_room_give_back(kern_device *dev, const void *at) {
    cpu_room **link = &dev->rooms;
    while (*link && !holds(*link, at))
        link = &(*link)->next;
    cpu_room *room = *link;
    ESP_ASSERT(room && room->users > 0);
    if (--room->users > 0) return;
    *link = room->next;
    mem_unmap(room->at, room->bytes);
    free(room);
}
