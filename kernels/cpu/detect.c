/* detect.c - which instructions this machine may use.
 *
 * CPUID says what the processor has, XGETBV what the system saves on a context switch; both are
 * needed. Must itself run on any x86-64.
 *
 * Source  Intel SDM volume 1, 13.3 (XCR0) and 14.3, 15.2 (detection of AVX, AVX2, AVX-512) */
// SPDX-License-Identifier: Apache-2.0
#include <cpuid.h>
#include <stdint.h>

#include "kernels/kernels.h"

enum {
    XCR0_AVX = 0x06,    /* xmm and ymm state */
    XCR0_AVX512 = 0xe6, /* and opmask and zmm */
};

static const uint32_t AVX512_NEEDED = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;

static uint32_t enabled_state(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

kern_level kern_cpu_best_level(void) {
    uint32_t eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return LEVEL_AUTO;
    const uint32_t first_needed = bit_FMA | bit_F16C | bit_AVX | bit_OSXSAVE;
    if ((ecx & first_needed) != first_needed) return LEVEL_AUTO;
    uint32_t state = enabled_state();
    if ((state & XCR0_AVX) != XCR0_AVX) return LEVEL_AUTO;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return LEVEL_AUTO;
    const uint32_t avx2_needed = bit_AVX2 | bit_BMI2;
    if ((ebx & avx2_needed) != avx2_needed) return LEVEL_AUTO;
    if ((ebx & AVX512_NEEDED) != AVX512_NEEDED) return LEVEL_AVX2;
    return (state & XCR0_AVX512) == XCR0_AVX512 ? LEVEL_AVX512 : LEVEL_AVX2;
}
