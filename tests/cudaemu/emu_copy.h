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

/* Whole or not at all: when !whole the destination is zeroed and nothing is read, but `from` is aligned in any case. */
template <int bytes> inline void copy_async(void *to, const void *from, bool whole, Place place) {
    if (!is_shared(to, bytes)) fail("cp.async to what is not this block's shared memory", place);
    uintptr_t low_bits = reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from);
    if (low_bits & (bytes - 1)) fail("cp.async address not aligned", place);
    if (whole) {
        unsigned char touched[bytes]; /* so that a source out of bounds is reported at this line */
        memcpy(touched, from, bytes);
        __asm__ volatile("" : : "r"(touched) : "memory");
    }
    memset(to, 0xff, bytes);
    copy_queue(AsyncCopy{to, whole ? from : nullptr, bytes, 0}, place);
}

template <int bytes> inline void copy_arrive(const AsyncCopy &c) {
    if (c.from)
        memcpy(c.to, c.from, bytes);
    else
        memset(c.to, 0, bytes);
}

/* All but the `pending` newest groups of this thread arrive. */
inline void copy_wait(int pending) {
    AsyncCopy c;
    while (copy_take(processor.current->copy_group - 1 - pending, &c)) {
        if (c.bytes == 16) copy_arrive<16>(c);
        if (c.bytes == 8) copy_arrive<8>(c);
        if (c.bytes == 4) copy_arrive<4>(c);
    }
}

inline void copy_commit() { processor.current->copy_group++; }

} // namespace cuemu

#endif
