/* emu_types.h - __half and __nv_bfloat16, bit for bit what the toolkit computes.
 *
 * Own types: the toolkit's headers lack half of the operations on the host and bring a runtime API
 * along whose names are the emulator's. */
// SPDX-License-Identifier: Apache-2.0
#ifndef EMU_TYPES_H
#define EMU_TYPES_H

#include <cstdint>
#include <cstring>

#include "emu_words.h"

struct __half {
    uint16_t x;
};
struct __nv_bfloat16 {
    uint16_t x;
};
struct __attribute__((aligned(4))) __half2 {
    __half x, y;
};
struct __attribute__((aligned(4))) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};
typedef __half half;
typedef __half2 half2;

inline unsigned __float_as_uint(float f) {
    unsigned u;
    memcpy(&u, &f, 4);
    return u;
}
inline float __uint_as_float(unsigned u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}

inline float __bfloat162float(__nv_bfloat16 h) { return __uint_as_float(uint32_t{h.x} << 16); }

/* To nearest, ties to even; every NaN becomes 0x7fff. */
inline __nv_bfloat16 __float2bfloat16(float f) {
    uint32_t u = __float_as_uint(f);
    if ((u & 0x7fffffff) > 0x7f800000) return {0x7fff};
    return {static_cast<uint16_t>((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}
inline __nv_bfloat16 __float2bfloat16_rn(float f) { return __float2bfloat16(f); }

inline float __half2float(__half h) {
    uint32_t sign = (h.x & 0x8000u) << 16, exponent = h.x >> 10 & 31, mantissa = h.x & 0x3ff;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000 | mantissa << 13);
    if (exponent) return __uint_as_float(sign | (exponent + 112) << 23 | mantissa << 13);
    return __uint_as_float(sign | __float_as_uint(static_cast<float>(mantissa) * 0x1p-24f));
}

inline __half __float2half(float f) {
    uint32_t u = __float_as_uint(f), sign = u >> 16 & 0x8000;
    u &= 0x7fffffff;
    if (u > 0x7f800000) return {0x7fff};
    if (u >= 0x477ff000) return {static_cast<uint16_t>(sign | 0x7c00)};
    if (u < 0x38800000) { /* subnormal: adding 0.5 makes the FPU round at the right place */
        uint32_t rounded = __float_as_uint(__uint_as_float(u) + 0.5f) - 0x3f000000;
        return {static_cast<uint16_t>(sign | rounded)};
    }
    u += 0xfff + (u >> 13 & 1);
    return {static_cast<uint16_t>(sign | (u - 0x38000000) >> 13)};
}
inline __half __float2half_rn(float f) { return __float2half(f); }

/* Arithmetic is done in f32 and rounded once; for + - * / that is the right result. A product of
 * two is exact in f64, so that fma rounds twice only in rare ties. */
#define EMU_NARROW(T, T2, to_float, from_float)                                                    \
    inline T __hadd(T a, T b) { return from_float(to_float(a) + to_float(b)); }                    \
    inline T __hsub(T a, T b) { return from_float(to_float(a) - to_float(b)); }                    \
    inline T __hmul(T a, T b) { return from_float(to_float(a) * to_float(b)); }                    \
    inline T __hdiv(T a, T b) { return from_float(to_float(a) / to_float(b)); }                    \
    inline T __hneg(T a) { return T{static_cast<uint16_t>(a.x ^ 0x8000)}; }                        \
    inline T __habs(T a) { return T{static_cast<uint16_t>(a.x & 0x7fff)}; }                        \
    inline bool __hlt(T a, T b) { return to_float(a) < to_float(b); }                              \
    inline bool __hgt(T a, T b) { return to_float(a) > to_float(b); }                              \
    inline bool __heq(T a, T b) { return to_float(a) == to_float(b); }                             \
    inline bool __hisnan(T a) { return to_float(a) != to_float(a); }                               \
    inline T __hmax(T a, T b) { return __hisnan(a) || __hgt(b, a) ? b : a; }                       \
    inline T __hmin(T a, T b) { return __hisnan(a) || __hlt(b, a) ? b : a; }                       \
    inline T __hfma(T a, T b, T c) {                                                               \
        return from_float(static_cast<float>(double{to_float(a)} * to_float(b) + to_float(c)));    \
    }                                                                                              \
    inline T2 __hadd2(T2 a, T2 b) { return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; }                 \
    inline T2 __hsub2(T2 a, T2 b) { return {__hsub(a.x, b.x), __hsub(a.y, b.y)}; }                 \
    inline T2 __hmul2(T2 a, T2 b) { return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; }                 \
    inline T2 __hfma2(T2 a, T2 b, T2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; } \
    inline float __low2float(T2 a) { return to_float(a.x); }                                       \
    inline float __high2float(T2 a) { return to_float(a.y); }
EMU_NARROW(__half, __half2, __half2float, __float2half)
EMU_NARROW(__nv_bfloat16, __nv_bfloat162, __bfloat162float, __float2bfloat16)
#undef EMU_NARROW

inline __half2 __floats2half2_rn(float a, float b) { return {__float2half(a), __float2half(b)}; }
inline __half2 __half2half2(__half a) { return {a, a}; }
inline __half2 __halves2half2(__half a, __half b) { return {a, b}; }
inline float2 __half22float2(__half2 a) { return {__half2float(a.x), __half2float(a.y)}; }
inline unsigned short __half_as_ushort(__half h) { return h.x; }
inline __half __ushort_as_half(unsigned short u) { return {u}; }

inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) {
    return {__float2bfloat16(a), __float2bfloat16(b)};
}
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 a) { return {a, a}; }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 a, __nv_bfloat16 b) { return {a, b}; }
inline float2 __bfloat1622float2(__nv_bfloat162 a) {
    return {__bfloat162float(a.x), __bfloat162float(a.y)};
}
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 h) { return h.x; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short u) { return {u}; }

#endif
