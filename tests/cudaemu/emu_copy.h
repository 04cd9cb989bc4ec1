/* emu_copy.h - cp.async: the bytes arrive only when they are waited for, as late as the rules allow.
 *
 * At issue the destination becomes poison; the copy happens in the wait of the thread that issued
 * it. Whoever reads too early reads NaN. */
// SPDX-License-Identifier: Apache-2.0
#ifndef EMU_COPY_H
#define EMU_COPY_H

#include <cstring>

#include "emu_core.h"
#include "emu_shared.h"

namespace cuemu {

void copy_queue(const AsyncCopy &copy, Place place);
/* Takes the oldest copy of a group <= last_group off the queue. */
bool copy_take(int last_group, AsyncCopy *out);

/* Copies from_bytes, zeroes the rest of bytes: what the device does when told a shorter source. */
inline void copy_async(void *to, const void *from, int bytes, int from_bytes, Place place) {
    if (!is_shared(to, static_cast<size_t>(bytes)))
        fail("cp.async to what is not this block's shared memory", place);
    uintptr_t low_bits = reinterpret_cast<uintptr_t>(to);
    if (from_bytes) low_bits |= reinterpret_cast<uintptr_t>(from);
    if (low_bits & static_cast<uintptr_t>(bytes - 1)) fail("cp.async address not aligned", place);
    unsigned char touched[16]; /* so that a source out of bounds is reported at this line */
    memcpy(touched, from, static_cast<size_t>(from_bytes));
    __asm__ volatile("" : : "r"(touched) : "memory");
    memset(to, 0xff, static_cast<size_t>(bytes));
    copy_queue(AsyncCopy{to, from, bytes, from_bytes, 0}, place);
}

/* All but the `pending` newest groups of this thread arrive. */
inline void copy_wait(int pending) {
    AsyncCopy c;
    while (copy_take(processor.current->copy_group - 1 - pending, &c)) {
        memcpy(c.to, c.from, static_cast<size_t>(c.from_bytes));
        memset(static_cast<char *>(c.to) + c.from_bytes, 0,
               static_cast<size_t>(c.bytes - c.from_bytes));
    }
}

inline void copy_commit() { processor.current->copy_group++; }

} // namespace cuemu

#endif
