/* emu_settings.cpp - the environment, read once. */
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "emu_core.h"
#include "emu_settings.h"

namespace cuemu {

static long number(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text && *text ? strtol(text, nullptr, 0) : otherwise;
}

void seed(uint64_t value) {
    processor.shuffled = value != 0;
    processor.random = value * 0x9E3779B97F4A7C15ull + 1;
}

static emu_streams streams_of(const char *name) {
    if (name && strcmp(name, "lazy") == 0) return EMU_STREAMS_LAZY;
    if (name && strcmp(name, "random") == 0) return EMU_STREAMS_RANDOM;
    return EMU_STREAMS_EAGER;
}

static Settings from_environment() {
    Settings s = {};
    s.trap = number("CUEMU_TRAP", 0) == 1;
    s.interblock = number("CUEMU_INTERBLOCK", 0) == 1;
    s.streams = streams_of(getenv("CUEMU_STREAMS"));
    const char *numbers = getenv("CUEMU_NUMBERS");
    processor.rough = numbers && strcmp(numbers, "rough") == 0;
    s.sm = static_cast<int>(number("CUEMU_SM", 80));
    s.device_count = static_cast<int>(number("CUEMU_DEVICES", 1));
    s.memory_bytes = static_cast<size_t>(number("CUEMU_MEMORY", 256)) << 20;
    seed(static_cast<uint64_t>(number("CUEMU_SEED", 0)));
    s.random = processor.random;
    return s;
}

Settings *settings() {
    static Settings s = from_environment();
    return &s;
}

size_t shared_bytes_max() {
    int sm = settings()->sm;
    return sm >= 90 ? 227 * 1024 : sm == 80 ? 163 * 1024 : 99 * 1024;
}

} // namespace cuemu

using cuemu::processor;
using cuemu::settings;

void emu_seed(uint64_t value) {
    settings(); /* the environment first, or it would win later */
    cuemu::seed(value);
}

void emu_set_rough(bool rough) {
    settings();
    processor.rough = rough;
}

void emu_trap_faults(bool trap) { settings()->trap = trap; }
void emu_set_sm(int sm) { settings()->sm = sm; }

emu_counts emu_counted(void) {
    emu_counts counts;
    static_assert(sizeof counts == sizeof processor.counts, "one struct, two languages");
    memcpy(&counts, &processor.counts, sizeof counts);
    return counts;
}
