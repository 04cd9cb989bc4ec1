/* emu_guard.cpp - what -fsanitize=kernel-address and -fsanitize=alignment call, and what they get to hear. */
// SPDX-License-Identifier: Apache-2.0
#include "emu_guard.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "emu_device.h"
#include "emu_launch.h"
#include "emu_runtime.h"
#include "emu_shared.h"

#ifdef EMU_GUARD

/* The linker's: the program begins; its data that may be written does. */
extern "C" const char __executable_start, data_start;

namespace cuemu {

enum { KNOWN_MAX = 8, TEXT_BYTES = 320 };

struct Range {
    uintptr_t from;
    size_t bytes;
    bool has(uintptr_t at, size_t n) const { return at - from < bytes && n <= from + bytes - at; }
};

/* Reachable memory that was touched before in this launch. */
static struct {
    Range arguments, constants, shared, known[KNOWN_MAX];
    int device;
    unsigned next;
} guard;

/* Kernels' files have host code as well, which other threads may run meanwhile. */
static thread_local bool inside;

static Range range_of(const void *from, size_t bytes) {
    return Range{reinterpret_cast<uintptr_t>(from), bytes};
}

void guard_begin(int device, const void *arguments, size_t bytes) {
    const char *program = &__executable_start;
    guard.arguments = range_of(arguments, bytes);
    guard.constants = range_of(program, static_cast<size_t>(&data_start - program));
    guard.shared = range_of(shared_area(), SHARED_AREA_BYTES);
    for (Range &range : guard.known)
        range = Range{};
    guard.device = device;
    inside = true;
}

void guard_end() { inside = false; }

/* Of the allocation that begins nearest before it. */
static void describe(char *text, uintptr_t at, size_t bytes, const char *does) {
    const void *p = reinterpret_cast<const void *>(at);
    const Allocation *a = allocation_before(p);
    const size_t far = a ? at - reinterpret_cast<uintptr_t>(a->at) : 0;
    if (a && a->device >= 0 && far < a->bytes && !device_reaches(guard.device, a->device))
        snprintf(text, TEXT_BYTES,
                 "%s %zu bytes of device %d's memory, which device %d cannot reach", does, bytes,
                 a->device, guard.device);
    else if (a && far < a->bytes + 4096)
        snprintf(text, TEXT_BYTES, "%s %zu bytes, from byte %zu of an allocation of %zu", does,
                 bytes, far, a->bytes);
    else
        snprintf(text, TEXT_BYTES, "%s %zu bytes at %p, which is no memory of device %d", does,
                 bytes, p, guard.device);
}

[[noreturn, gnu::noinline, gnu::cold]] static void stop(uintptr_t at, size_t bytes,
                                                        const char *does, const void *code) {
    char text[TEXT_BYTES + 64], where[TEXT_BYTES];
    if (guard.shared.has(at, 1))
        snprintf(where, sizeof where, "%s %zu bytes beyond a shared array", does, bytes);
    else
        describe(where, at, bytes, does);
    const ptrdiff_t offset = static_cast<const char *>(code) - &__executable_start;
    snprintf(text, sizeof text, "%s (addr2line -e PROGRAM 0x%tx says the line)", where, offset - 1);
    fail(text, Place{"kernel", 0});
    abort(); /* fail does not return to a fiber */
}

/* In books, which are slow; kept for the next time. */
static bool is_reachable(uintptr_t at, size_t bytes) {
    const Allocation *a = allocation_of(reinterpret_cast<const void *>(at), bytes);
    if (!a || (a->device >= 0 && !device_reaches(guard.device, a->device))) return false;
    guard.known[guard.next++ % KNOWN_MAX] = range_of(a->at, a->bytes);
    return true;
}

static bool is_known(uintptr_t at, size_t bytes) {
    for (const Range &range : guard.known)
        if (range.has(at, bytes)) return true;
    return false;
}

static bool is_constant(uintptr_t at, size_t bytes) {
    return guard.arguments.has(at, bytes) || guard.constants.has(at, bytes);
}

/* The processor has the thread's own index, and its queue of copies. */
static inline void look(uintptr_t at, size_t bytes, bool writes, const void *code) {
    if (!inside) return;
    if (at - reinterpret_cast<uintptr_t>(processor.current->stack) < FIBER_STACK_BYTES) return;
    if (range_of(&processor, sizeof processor).has(at, bytes)) return;
    if (guard.shared.has(at, 1)) {
        if (is_shared(reinterpret_cast<const void *>(at), bytes)) return;
    } else if (is_known(at, bytes) || (!writes && is_constant(at, bytes)) ||
               is_reachable(at, bytes)) {
        return;
    }
    stop(at, bytes, writes ? "writes" : "reads", code);
}

/* What the compiler tells of a pointer that has less alignment than its type wants. */
struct Mismatch {
    const char *file;
    uint32_t line, column;
    const void *type;
    unsigned char alignment_log, kind;
};

[[noreturn]] static void stop_misaligned(const Mismatch *m, uintptr_t at) {
    char text[96];
    snprintf(text, sizeof text, "access not aligned to %u: address %p", 1u << m->alignment_log,
             reinterpret_cast<const void *>(at));
    fail(text, Place{m->file, static_cast<int>(m->line)});
    abort();
}

} // namespace cuemu

using namespace cuemu;

#define EMU_GUARDED(bytes)                                                                         \
    extern "C" void __asan_load##bytes##_noabort(uintptr_t at) {                                   \
        look(at, bytes, false, __builtin_return_address(0));                                       \
    }                                                                                              \
    extern "C" void __asan_store##bytes##_noabort(uintptr_t at) {                                  \
        look(at, bytes, true, __builtin_return_address(0));                                        \
    }
EMU_GUARDED(1)
EMU_GUARDED(2)
EMU_GUARDED(4)
EMU_GUARDED(8)
EMU_GUARDED(16)
#undef EMU_GUARDED

extern "C" void __asan_loadN_noabort(uintptr_t at, size_t bytes) {
    look(at, bytes, false, __builtin_return_address(0));
}
extern "C" void __asan_storeN_noabort(uintptr_t at, size_t bytes) {
    look(at, bytes, true, __builtin_return_address(0));
}
extern "C" void __asan_handle_no_return(void) {}
extern "C" void __ubsan_handle_type_mismatch_v1_abort(const Mismatch *m, uintptr_t at) {
    stop_misaligned(m, at);
}

#else

void cuemu::guard_begin(int, const void *, size_t) {}
void cuemu::guard_end() {}

#endif
