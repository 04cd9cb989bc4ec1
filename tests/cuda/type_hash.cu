/* type_hash.cu - half and bfloat16 on the host: nvcc compiles the toolkit's types, g++ the emulator's. */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "cu.h"
#include "type_hash.h"

namespace {

/* FNV-1a over 64-bit words. */
struct Hash {
    uint64_t value = 1469598103934665603ull;
    void add(uint64_t word) { value = (value ^ word) * 1099511628211ull; }
    /* One number for all NaN: their payload is nobody's promise. */
    void add_float(float f) {
        uint32_t bits;
        memcpy(&bits, &f, 4);
        add(f != f ? 1 : bits);
    }
    void add_half(__half h) {
        uint32_t bits = __half_as_ushort(h);
        add((bits & 0x7fff) > 0x7c00 ? 1 : bits);
    }
    void add_bfloat(__nv_bfloat16 b) {
        uint32_t bits = __bfloat16_as_ushort(b);
        add((bits & 0x7fff) > 0x7f80 ? 1 : bits);
    }
};

uint32_t next(uint32_t x) {
    x ^= x << 13;
    x ^= x >> 17;
    return x ^ x << 5;
}

} // namespace

extern "C" uint64_t type_hash_widen(void) {
    Hash hash;
    for (uint32_t i = 0; i < 65536; i++) {
        hash.add_float(__half2float(__ushort_as_half((unsigned short)i)));
        hash.add_float(__bfloat162float(__ushort_as_bfloat16((unsigned short)i)));
    }
    return hash.value;
}

extern "C" uint64_t type_hash_narrow(void) {
    Hash hash;
    for (uint64_t i = 0; i < 0x100000000ull; i += 6007) {
        const uint32_t bits = (uint32_t)i;
        float f;
        memcpy(&f, &bits, 4);
        hash.add_half(__float2half(f));
        hash.add_bfloat(__float2bfloat16(f));
    }
    return hash.value;
}

extern "C" uint64_t type_hash_arithmetic(void) {
    Hash hash;
    uint32_t x = 1;
    for (int i = 0; i < 200000; i++) {
        x = next(x);
        const __half a = __ushort_as_half((unsigned short)x);
        const __half b = __ushort_as_half((unsigned short)(x >> 16));
        const __nv_bfloat16 c = __ushort_as_bfloat16((unsigned short)x);
        const __nv_bfloat16 d = __ushort_as_bfloat16((unsigned short)(x >> 16));
        hash.add_half(__hadd(a, b));
        hash.add_half(__hsub(a, b));
        hash.add_half(__hmul(a, b));
        hash.add_half(__hdiv(a, b));
        hash.add_bfloat(__hadd(c, d));
        hash.add_bfloat(__hsub(c, d));
        hash.add_bfloat(__hmul(c, d));
        hash.add_bfloat(__hdiv(c, d));
        hash.add(__hlt(a, b) | __hgt(a, b) << 1 | __heq(a, b) << 2);
        hash.add(__hlt(c, d) | __hgt(c, d) << 1 | __heq(c, d) << 2);
    }
    return hash.value;
}
