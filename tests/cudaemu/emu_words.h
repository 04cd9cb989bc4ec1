/* emu_words.h - the words of CUDA C++ for a host compiler: qualifiers, vector types, dim3.
 *
 * Qualifiers vanish. __shared__ becomes static, which is legal while blocks run one after another,
 * but such an array is not poisoned: kernels say CU_SHARED (kernels/cuda/cu.h). */
// SPDX-License-Identifier: Apache-2.0
#ifndef EMU_WORDS_H
#define EMU_WORDS_H

#define __align__(n) __attribute__((aligned(n)))
#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__

#define EMU_VECTOR2(T, name, align)                                                                \
    struct __attribute__((aligned(align))) name {                                                  \
        T x, y;                                                                                    \
    };                                                                                             \
    static inline name make_##name(T x, T y) { return name{x, y}; }
#define EMU_VECTOR3(T, name, align)                                                                \
    struct __attribute__((aligned(align))) name {                                                  \
        T x, y, z;                                                                                 \
    };                                                                                             \
    static inline name make_##name(T x, T y, T z) { return name{x, y, z}; }
#define EMU_VECTOR4(T, name, align)                                                                \
    struct __attribute__((aligned(align))) name {                                                  \
        T x, y, z, w;                                                                              \
    };                                                                                             \
    static inline name make_##name(T x, T y, T z, T w) { return name{x, y, z, w}; }

/* Alignments as the device's: a load of such a type faults when its address has less. */
EMU_VECTOR2(signed char, char2, 2)
EMU_VECTOR4(signed char, char4, 4)
EMU_VECTOR2(unsigned char, uchar2, 2)
EMU_VECTOR4(unsigned char, uchar4, 4)
EMU_VECTOR2(short, short2, 4)
EMU_VECTOR4(short, short4, 8)
EMU_VECTOR2(unsigned short, ushort2, 4)
EMU_VECTOR4(unsigned short, ushort4, 8)
EMU_VECTOR2(int, int2, 8)
EMU_VECTOR3(int, int3, 4)
EMU_VECTOR4(int, int4, 16)
EMU_VECTOR2(unsigned, uint2, 8)
EMU_VECTOR3(unsigned, uint3, 4)
EMU_VECTOR4(unsigned, uint4, 16)
EMU_VECTOR2(float, float2, 8)
EMU_VECTOR3(float, float3, 4)
EMU_VECTOR4(float, float4, 16)
EMU_VECTOR2(double, double2, 16)
EMU_VECTOR2(long long, longlong2, 16)
EMU_VECTOR2(unsigned long long, ulonglong2, 16)

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

#endif
