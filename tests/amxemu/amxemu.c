/* amxemu.c - the trap of an instruction that this processor lacks, or this process may not use. See README.md.
 *
 * Nothing of it is on unless ESPALIER_AMXEMU is set: then no thread asks Linux for tiles, so that they trap where there is
 * AMX as well, and __wrap_... (the linker's --wrap) say of the processor what the emulation makes true. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <xmmintrin.h>

#include <cmocka.h>

#include "kernels/cpu/cpu.h"
#include "tests/amxemu/amxemu.h"
#include "tests/amxemu/bf16_vectors.h"
#include "tests/amxemu/tiles.h"

enum { SKIPPED = 77, SHOWN_BYTES = 8 };

/* What these instructions do whatever the program has set: to nearest even, denormals are zero, exceptions masked. */
enum { MXCSR = 0x9fc0 };

static bool on;

bool amxemu_on(void) { return on; }

_Noreturn void amxemu_fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("amxemu: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    abort();
}

static _Noreturn void unknown(const greg_t *regs) {
    const uint8_t *at = (const uint8_t *)(uintptr_t)regs[REG_RIP];
    fprintf(stderr, "amxemu: an instruction that it does not know:");
    for (uint32_t i = 0; i < SHOWN_BYTES; i++)
        fprintf(stderr, " %02x", at[i]);
    fputc('\n', stderr);
    abort();
}

static void run(const instruction *i, ucontext_t *context) {
    if (i->kind >= NARROW)
        bf16_vectors_do(i, context);
    else
        tiles_do(i);
    context->uc_mcontext.gregs[REG_RIP] += i->length;
}

/* What follows and would trap as well is done at once: a trap costs far more than an instruction. */
static void emulate(int number, siginfo_t *info, void *interrupted) {
    (void)number, (void)info;
    ucontext_t *context = interrupted;
    const greg_t *regs = context->uc_mcontext.gregs;
    instruction i = instruction_read(regs);
    if (i.kind == UNKNOWN) unknown(regs);
    _mm_setcsr(MXCSR); /* the program's comes back with its registers */
    do {
        run(&i, context);
        i = instruction_read(regs);
    } while (i.kind != UNKNOWN);
}

static bool has_vectors(void) {
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vbmi") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("gfni");
}

__attribute__((constructor)) static void begin(void) {
    const char *wanted = getenv("ESPALIER_AMXEMU");
    on = wanted != NULL && *wanted == '1';
    if (!on) return;
    if (!has_vectors()) {
        puts("skipped: this processor lacks AVX-512 with GFNI, VBMI or VNNI");
        fflush(stdout);
        _exit(SKIPPED);
    }
    const char *only = getenv("ESPALIER_AMXEMU_ONLY");
    if (only != NULL) cmocka_set_test_filter(only);
    bf16_vectors_open();
    struct sigaction action = {.sa_sigaction = emulate, .sa_flags = SA_SIGINFO};
    if (sigaction(SIGILL, &action, NULL) != 0) amxemu_fail("SIGILL cannot be handled");
}

/* Instead of libc's, also for cmocka, which takes SIGILL before each test. */
__sighandler_t signal(int number, __sighandler_t handler) {
    if (on && number == SIGILL) return SIG_DFL;
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART}, before;
    return sigaction(number, &action, &before) == 0 ? before.sa_handler : SIG_ERR;
}

/* Workers of the product take no signals; one that is raised by their own instruction they must. */
int __real_pthread_sigmask(int how, const sigset_t *set, sigset_t *before);
int __wrap_pthread_sigmask(int how, const sigset_t *set, sigset_t *before);
int __wrap_pthread_sigmask(int how, const sigset_t *set, sigset_t *before) {
    sigset_t without;
    if (!on || set == NULL || how == SIG_UNBLOCK) return __real_pthread_sigmask(how, set, before);
    without = *set;
    sigdelset(&without, SIGILL);
    return __real_pthread_sigmask(how, &without, before);
}

kern_level __real_kern_cpu_best_level(void);
kern_level __wrap_kern_cpu_best_level(void);
kern_level __wrap_kern_cpu_best_level(void) {
    return on ? LEVEL_AMX : __real_kern_cpu_best_level();
}

bool __real_cpu_has(cpu_feature feature);
bool __wrap_cpu_has(cpu_feature feature);
bool __wrap_cpu_has(cpu_feature feature) {
    return (on && feature == CPU_AMX_INT8) || __real_cpu_has(feature);
}
