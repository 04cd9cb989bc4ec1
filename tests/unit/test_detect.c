/* test_detect.c - which level is chosen where the processor lacks something.
 *
 * A processor that lacks it is this one with a lie: Linux can let CPUID fault (arch_prctl(2),
 * ARCH_SET_CPUID), and the fault's handler answers for it. */
// SPDX-License-Identifier: Apache-2.0
#include <cpuid.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/kernels.h"

enum { ARCH_SET_CPUID = 0x1012, CPUID_BYTES = 2 };

static uint32_t hidden_ebx, hidden_ecx, hidden_edx; /* bits of leaf 7 */

static long let_cpuid_run(long runs) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, runs); }

static void answer(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    uint32_t leaf = (uint32_t)regs[REG_RAX], part = (uint32_t)regs[REG_RCX], eax, ebx, ecx, edx;
    const uint8_t *at = (const uint8_t *)regs[REG_RIP];
    if (at[0] != 0x0f || at[1] != 0xa2 || let_cpuid_run(1) != 0) _exit(1); /* a real fault */
    __cpuid_count(leaf, part, eax, ebx, ecx, edx);
    bool lies = leaf == 7 && part == 0;
    regs[REG_RAX] = eax;
    regs[REG_RBX] = lies ? ebx & ~hidden_ebx : ebx;
    regs[REG_RCX] = lies ? ecx & ~hidden_ecx : ecx;
    regs[REG_RDX] = lies ? edx & ~hidden_edx : edx;
    regs[REG_RIP] += CPUID_BYTES;
    let_cpuid_run(0);
}

static kern_level level_without(uint32_t ebx, uint32_t ecx, uint32_t edx) {
    struct sigaction now = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO}, before;
    hidden_ebx = ebx, hidden_ecx = ecx, hidden_edx = edx;
    assert_int_equal(sigaction(SIGSEGV, &now, &before), 0);
    if (let_cpuid_run(0) != 0) skip(); /* neither this processor nor this system can */
    kern_level level = kern_cpu_best_level();
    let_cpuid_run(1);
    sigaction(SIGSEGV, &before, NULL);
    return level;
}

static void a_level_needs_all_that_it_is_compiled_with(void **state) {
    (void)state;
    kern_level best = kern_cpu_best_level();
    assert_int_equal(level_without(0, 0, 0), best);
    if (best >= LEVEL_AMX) {
        assert_int_equal(level_without(0, bit_GFNI, 0), LEVEL_AVX512);
        assert_int_equal(level_without(0, 0, 1 << 24), LEVEL_AVX512); /* tiles */
    }
    if (best >= LEVEL_AVX512) {
        assert_int_equal(level_without(bit_AVX512BW, 0, 0), LEVEL_AVX2);
        assert_int_equal(level_without(bit_AVX512VL, 0, 0), LEVEL_AVX2);
    }
    if (best >= LEVEL_AVX2) assert_int_equal(level_without(bit_BMI2, 0, 0), LEVEL_AUTO);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_level_needs_all_that_it_is_compiled_with),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
