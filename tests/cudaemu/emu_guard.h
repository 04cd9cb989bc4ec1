/* emu_guard.h - which memory a kernel may touch; the compiler asks before each access (cudaemu.cmake).
 *
 * Its own thread's stack, its arguments, constants, the block's shared arrays, and what the device
 * reaches of device and pinned memory, each to its last byte. Everything else is a fault: on a device
 * it would be an illegal address, or somebody else's bytes. Where a sanitizer is compiled in, that
 * looks instead. */
// SPDX-License-Identifier: Apache-2.0
#ifndef EMU_GUARD_H
#define EMU_GUARD_H

#include <cstddef>

namespace cuemu {

/* Between these two the calling OS thread runs a kernel of a device, whose arguments lie there. */
void guard_begin(int device, const void *arguments, size_t bytes);
void guard_end();

} // namespace cuemu

#endif
