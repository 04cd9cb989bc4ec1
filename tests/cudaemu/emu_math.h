/* emu_math.h - device functions of numbers and bits. Approximate ones (__expf) are exact here, or rough where that
 * is asked for: then off by as much as the programming guide allows a device, one way or the other as their
 * argument has it. */
// SPDX-License-Identifier: Apache-2.0
#ifndef EMU_MATH_H
#define EMU_MATH_H

#include <cmath>
#include <cstdint>

#include "emu_core.h"
#include "emu_types.h"

template <class T> inline T min(T a, T b) { return b < a ? b : a; }
template <class T> inline T max(T a, T b) { return a < b ? b : a; }

namespace cuemu {
/* At most `most` units in the last place beside `exact`, of which the bits of x decide. */
inline float rough(float exact, float x, unsigned most) {
    if (!processor.rough || !(fabsf(exact) < 1e38f) || fabsf(exact) < 1e-36f) return exact;
    const unsigned hash = __float_as_uint(x) * 2654435761u >> 8;
    const unsigned off = hash % (2 * most + 1);
    return __uint_as_float(__float_as_uint(exact) + off - most);
}
} // namespace cuemu

inline float __expf(float x) {
    return cuemu::rough(expf(x), x, 2 + static_cast<unsigned>(fminf(fabsf(1.173f * x), 100)));
}
inline float __exp10f(float x) { return powf(10.0f, x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __fdividef(float a, float b) { return cuemu::rough(a / b, b, 2); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }
inline float rsqrtf(float x) { return cuemu::rough(1.0f / sqrtf(x), x, 2); }
inline float __frsqrt_rn(float x) { return static_cast<float>(1.0 / sqrt(double{x})); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }

inline int __float_as_int(float f) { return static_cast<int>(__float_as_uint(f)); }
inline float __int_as_float(int i) { return __uint_as_float(static_cast<unsigned>(i)); }

/* To an integer: out of range gives the nearest end, NaN gives 0, as the device does. */
namespace cuemu {
inline int to_int(float whole) {
    if (whole != whole) return 0;
    if (whole >= 2147483648.0f) return INT32_MAX;
    if (whole < -2147483648.0f) return INT32_MIN;
    return static_cast<int>(whole);
}
inline unsigned to_unsigned(float whole) {
    if (!(whole > 0)) return 0;
    return whole >= 4294967296.0f ? UINT32_MAX : static_cast<unsigned>(whole);
}
} // namespace cuemu
inline int __float2int_rn(float f) { return cuemu::to_int(nearbyintf(f)); }
inline int __float2int_rz(float f) { return cuemu::to_int(truncf(f)); }
inline int __float2int_rd(float f) { return cuemu::to_int(floorf(f)); }
inline int __float2int_ru(float f) { return cuemu::to_int(ceilf(f)); }
inline unsigned __float2uint_rn(float f) { return cuemu::to_unsigned(nearbyintf(f)); }
inline unsigned __float2uint_rz(float f) { return cuemu::to_unsigned(truncf(f)); }
inline float __int2float_rn(int i) { return static_cast<float>(i); }
inline float __uint2float_rn(unsigned u) { return static_cast<float>(u); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) {
    return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64;
}
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
    unsigned r = 0;
    for (int i = 0; i < 32; i++)
        r |= (x >> i & 1) << (31 - i);
    return r;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>(uint64_t{a} * b >> 32);
}
inline int __mulhi(int a, int b) { return static_cast<int>(int64_t{a} * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>((uint64_t{high} << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>((uint64_t{high} << 32 | low) >> (shift & 31));
}

/* prmt: each nibble of `select` picks one of the eight bytes of b:a; its top bit spreads the sign. */
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned select) {
    uint64_t bytes = uint64_t{b} << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) {
        unsigned c = select >> (4 * i) & 15, byte = bytes >> (8 * (c & 7)) & 0xff;
        if (c & 8) byte = byte & 0x80 ? 0xff : 0;
        r |= byte << (8 * i);
    }
    return r;
}

inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++)
        c += int{static_cast<int8_t>(a >> (8 * i))} * static_cast<int8_t>(b >> (8 * i));
    return c;
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
    for (int i = 0; i < 4; i++)
        c += (a >> (8 * i) & 0xff) * (b >> (8 * i) & 0xff);
    return c;
}

/* Loads and stores with a hint where to keep the line. */
template <class T> inline T __ldg(const T *p) { return *p; }
template <class T> inline T __ldca(const T *p) { return *p; }
template <class T> inline T __ldcg(const T *p) { return *p; }
template <class T> inline T __ldcs(const T *p) { return *p; }
template <class T> inline void __stcg(T *p, T value) { *p = value; }
template <class T> inline void __stcs(T *p, T value) { *p = value; }

#endif
