/* emu_shared.cpp - two areas, one of static arrays and one of the dynamic array. */
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <cstdlib>

#include <sys/mman.h>

#include "emu_sanitizers.h"
#include "emu_settings.h"
#include "emu_shared.h"

namespace cuemu {

enum { ARRAYS_MAX = 64, STATIC_BYTES_MAX = 48 * 1024, AREA_BYTES = SHARED_AREA_BYTES / 2, RED_ZONE = 4096 };

struct SharedArray {
    const void *key;
    char *at;
    size_t bytes;
};

static struct {
    char *dynamic_area, *static_area, *dynamic;
    size_t dynamic_bytes, static_used, static_declared, most_bytes;
    SharedArray arrays[ARRAYS_MAX];
    int count;
} shared;

/* Pages at `at` (anywhere if null). New pages at an old place: ThreadSanitizer forgets what was done there. */
static char *fresh_pages(char *at, size_t bytes) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED : 0);
    void *p = mmap(at, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (p == MAP_FAILED) {
        perror("cudaemu: shared memory");
        abort();
    }
    return static_cast<char *>(p);
}

const char *shared_area() {
    if (!shared.dynamic_area) {
        shared.dynamic_area = fresh_pages(nullptr, SHARED_AREA_BYTES);
        shared.static_area = shared.dynamic_area + AREA_BYTES;
    }
    return shared.dynamic_area;
}

void shared_begin_grid(size_t dynamic_bytes, size_t most_bytes) {
    (void)shared_area();
    memory_forbid(shared.dynamic_area, SHARED_AREA_BYTES);
    shared.dynamic = dynamic_bytes ? shared.dynamic_area + RED_ZONE : nullptr;
    shared.dynamic_bytes = dynamic_bytes;
    shared.most_bytes = most_bytes;
    memory_allow(shared.dynamic, dynamic_bytes);
}

void shared_end_grid() {
    shared.dynamic = nullptr;
    shared.dynamic_bytes = 0;
    shared.count = 0;
}

/* Where races between blocks are looked for, the next block's threads have not synchronised with
 * this one's, and yet its shared memory is another. */
static void forget_accesses() {
#ifdef EMU_TSAN
    if (!settings()->interblock) return;
    fresh_pages(shared.dynamic_area, RED_ZONE + (shared.dynamic_bytes + 4095) / 4096 * 4096);
    fresh_pages(shared.static_area, RED_ZONE + (shared.static_used + 4095) / 4096 * 4096);
#endif
}

void shared_begin_block() {
    forget_accesses();
    if (shared.dynamic) fill_unseen(shared.dynamic, 0xff, shared.dynamic_bytes);
    shared.count = 0;
    shared.static_used = shared.static_declared = 0;
}

void shared_end_block() { memory_forbid(shared.static_area, RED_ZONE + shared.static_used); }

static void *new_array(const void *key, size_t bytes, size_t align, Place place) {
    if (shared.count == ARRAYS_MAX || shared.static_declared + bytes > STATIC_BYTES_MAX)
        fail("more than 48 KB or 64 arrays of static shared memory", place);
    if (shared.static_declared + bytes + shared.dynamic_bytes > shared.most_bytes)
        fail("static and dynamic shared memory are more than the device gives a block", place);
    char *at = shared.static_area + RED_ZONE + shared.static_used + align;
    shared.static_used += (align + bytes + 256) / 128 * 128;
    shared.static_declared += bytes;
    memory_allow(at, bytes);
    fill_unseen(at, 0xff, bytes);
    shared.arrays[shared.count++] = SharedArray{key, at, bytes};
    return at;
}

void *shared_array(const void *key, size_t bytes, size_t align, Place place) {
    for (int i = 0; i < shared.count; i++)
        if (shared.arrays[i].key == key) return shared.arrays[i].at;
    return new_array(key, bytes, align, place);
}

void *shared_dynamic(Place place) {
    if (!shared.dynamic) fail("the launch gave no dynamic shared memory", place);
    return shared.dynamic;
}

bool is_shared(const void *at, size_t bytes) {
    const char *p = static_cast<const char *>(at);
    const char *d = shared.dynamic;
    if (d && p >= d && p + bytes <= d + shared.dynamic_bytes) return true;
    for (int i = 0; i < shared.count; i++) {
        const SharedArray *a = &shared.arrays[i];
        if (p >= a->at && p + bytes <= a->at + a->bytes) return true;
    }
    return false;
}

} // namespace cuemu
