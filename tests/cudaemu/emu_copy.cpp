/* emu_copy.cpp - each thread's queue of cp.async. */
// SPDX-License-Identifier: Apache-2.0
#include "emu_copy.h"

namespace cuemu {

void copy_queue(const AsyncCopy &copy, Place place) {
    Fiber *self = processor.current;
    self->place = place;
    if (self->copies_tail - self->copies_head == COPIES_MAX)
        fail("more cp.async in flight than the emulator holds", place);
    AsyncCopy *slot = &self->copies[self->copies_tail++ % COPIES_MAX];
    *slot = copy;
    slot->group = self->copy_group;
}

bool copy_take(int last_group, AsyncCopy *out) {
    Fiber *self = processor.current;
    if (self->copies_head == self->copies_tail) return false;
    const AsyncCopy *oldest = &self->copies[self->copies_head % COPIES_MAX];
    if (oldest->group > last_group) return false;
    *out = *oldest;
    self->copies_head++;
    return true;
}

} // namespace cuemu
