/* emu_settings.h - how the emulator behaves: read once from the environment, set by tests. */
// SPDX-License-Identifier: Apache-2.0
#ifndef EMU_SETTINGS_H
#define EMU_SETTINGS_H

#include <cstddef>
#include <cstdint>

#include "emu_control.h"

namespace cuemu {

struct Settings {
    bool trap, interblock;
    emu_streams streams;
    int sm, device_count;
    size_t memory_bytes; /* of each device */
    uint64_t random;     /* for streams, never 0 */
};
Settings *settings();
void seed(uint64_t value);

/* Most dynamic shared memory a block may opt in to on this architecture. */
size_t shared_bytes_max();

} // namespace cuemu

#endif
