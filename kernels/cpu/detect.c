/* detect.c - which instructions this machine may use.
 *
 * CPUID says what the processor has, XGETBV what the system saves on a context switch; both are
 * needed. Must itself run on any x86-64.
 *
 * Source  Intel SDM volume 1, 13.3 (XCR0) and 14.3, 15.2 (detection of AVX, AVX2, AVX-512), 18 (AMX);
 *         Linux, Documentation/arch/x86/xstate.rst (permission for tiles) */
// SPDX-License-Identifier: Apache-2.0
#include <cpuid.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels/cpu/cpu.h"

enum {
    XCR0_AVX = 0x06,      /* xmm and ymm state */
    XCR0_AVX512 = 0xe6,   /* and opmask and zmm */
    XCR0_TILES = 0x60000, /* tile configuration and data */
    XFEATURE_TILE_DATA = 18,
    ARCH_REQ_XCOMP_PERM = 0x1023, /* asm/prctl.h of Linux 5.16 and later */
    LEAF7_EDX_AMX_BF16 = 1 << 22,
    LEAF7_EDX_AMX_TILE = 1 << 24,
    LEAF7_EDX_AMX_INT8 = 1 << 25,
    LEAF7_ECX_AVX512_VNNI = 1 << 11,
    LEAF7_1_EAX_AVX_VNNI = 1 << 4,
    LEAF7_1_EAX_AVX512_BF16 = 1 << 5,
};

static const uint32_t AVX512_NEEDED = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;

static uint32_t enabled_state(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

/* The processor has AMX, GFNI, VBMI and VNNI, the system saves its tiles, and lets this process use them: it must be asked
 * once, for all threads. */
static bool may_use_amx(uint32_t state, uint32_t leaf7_ecx, uint32_t leaf7_edx) {
    uint32_t eax, ebx, ecx, edx;
    const uint32_t needed = LEAF7_EDX_AMX_BF16 | LEAF7_EDX_AMX_TILE;
    const uint32_t vectors = bit_GFNI | bit_AVX512VBMI | LEAF7_ECX_AVX512_VNNI;
    if ((leaf7_ecx & vectors) != vectors) return false;
    if ((leaf7_edx & needed) != needed || (state & XCR0_TILES) != XCR0_TILES) return false;
    if (!__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) return false;
    if (!(eax & LEAF7_1_EAX_AVX512_BF16)) return false;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_TILE_DATA) == 0;
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
    if ((state & XCR0_AVX512) != XCR0_AVX512) return LEVEL_AVX2;
    return may_use_amx(state, ecx, edx) ? LEVEL_AMX : LEVEL_AVX512;
}

bool cpu_has(cpu_feature feature) {
    uint32_t eax, ebx, ecx, edx;
    if (!__get_cpuid_count(7, feature == CPU_AVX_VNNI ? 1 : 0, &eax, &ebx, &ecx, &edx))
        return false;
    switch (feature) {
    case CPU_AVX_VNNI:
        return eax & LEAF7_1_EAX_AVX_VNNI;
    case CPU_AVX512_VNNI:
        return ecx & LEAF7_ECX_AVX512_VNNI;
    case CPU_AMX_INT8:
        return edx & LEAF7_EDX_AMX_INT8;
    }
    return false;
}
