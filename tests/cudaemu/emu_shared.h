/* emu_shared.h - a block's shared memory: static arrays and the dynamic one.
 *
 * Each array is poisoned with 0xff when a block begins (NaN in f32, f16 and bf16; -1 in integers),
 * has red zones under AddressSanitizer, and the alignment it was declared with and not one bit
 * more, because that is all a device promises. */
// SPDX-License-Identifier: Apache-2.0
#ifndef EMU_SHARED_H
#define EMU_SHARED_H

#include "emu_core.h"

namespace cuemu {

/* most_bytes: of dynamic and static arrays together. */
void shared_begin_grid(size_t dynamic_bytes, size_t most_bytes);
void shared_end_grid();
void shared_begin_block();
void shared_end_block();

/* The array that `key` (an address of its own for each declaration) stands for, in this block. */
void *shared_array(const void *key, size_t bytes, size_t align, Place place);
void *shared_dynamic(Place place);

/* Lies all of it within one shared array of this block? */
bool is_shared(const void *at, size_t bytes);

/* Where all shared arrays lie, with room between them: SHARED_AREA_BYTES. */
enum { SHARED_AREA_BYTES = 512 * 1024 };
const char *shared_area();

} // namespace cuemu

#endif
