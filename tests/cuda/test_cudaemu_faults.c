/* test_cudaemu_faults.c - each planted fault is found by the builds that can, and nothing else is.
 *
 * A fault runs in a process of its own, this program called with its name. What is expected differs
 * by build: the plain one sees wrong results and what the emulator checks, AddressSanitizer bounds
 * and alignment, ThreadSanitizer races. */
// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <cuda_runtime_api.h>

#include "fault_kernels.h"

/* How a run ended. */
enum outcome {
    RIGHT,
    WRONG,  /* other numbers */
    NAMED,  /* the emulator said what and where, and aborted */
    REPORT, /* a sanitizer did */
    OTHER   /* expected: it may end in any way */
};
static const char *const outcome_names[] = {"right", "wrong", "named", "reported", "other"};

enum { EXIT_WRONG = 3, EXIT_ADDRESS = 23, EXIT_THREAD = 66 };

#if defined(__SANITIZE_ADDRESS__)
enum { BUILD = 1 };
#elif defined(__SANITIZE_THREAD__)
enum { BUILD = 2 };
#else
enum { BUILD = 0 };
#endif

struct fault {
    const char *name;
    fault_kernel *kernel;
    enum outcome expected[3]; /* plain, address + undefined, thread */
};

/* The host itself reads device memory. */
static int host_reads_device(float *out, const float *in, bool planted) {
    float first = 0;
    if (planted) first = *(volatile const float *)in;
    return first != 0 || cudaMemcpy(out, in, FAULT_WORDS * 4, cudaMemcpyDeviceToDevice);
}

static const struct fault faults[] = {
#define FAULT(name, plain, address, thread)                                                        \
    {                                                                                              \
#name, fault_##name, { plain, address, thread }                                            \
    }
    FAULT(missing_barrier, WRONG, WRONG, REPORT),
    FAULT(barrier_missing_in_loop, WRONG, WRONG, REPORT),
    FAULT(order_by_luck, RIGHT, RIGHT, REPORT), /* plain: with seeds, below */
    FAULT(missing_syncwarp, WRONG, WRONG, REPORT),
    FAULT(exit_before_barrier, NAMED, NAMED, NAMED),
    FAULT(two_barriers, NAMED, NAMED, NAMED),
    FAULT(absent_lanes, NAMED, NAMED, NAMED),
    FAULT(dynamic_overrun, NAMED, REPORT, OTHER),
    FAULT(shared_overrun, NAMED, REPORT, OTHER),
    FAULT(global_write_overrun, NAMED, REPORT, OTHER),
    FAULT(global_read_overrun, RIGHT, REPORT, OTHER),
    FAULT(unwritten_shared, WRONG, WRONG, WRONG),
    FAULT(unwritten_global, WRONG, WRONG, WRONG),
    FAULT(copy_not_waited, WRONG, WRONG, REPORT),
    FAULT(copy_not_synced, RIGHT, RIGHT, REPORT),
    FAULT(copy_left_in_flight, NAMED, NAMED, NAMED),
    FAULT(copy_misaligned, NAMED, NAMED, NAMED),
    FAULT(misaligned_load, NAMED, NAMED, NAMED),
    FAULT(misaligned_vector, NAMED, REPORT, OTHER),
    FAULT(ldmatrix_misaligned, NAMED, NAMED, NAMED),
    FAULT(same_value_race, RIGHT, RIGHT, REPORT),
    FAULT(lost_update, RIGHT, RIGHT, REPORT),
    FAULT(race_between_blocks, RIGHT, RIGHT, REPORT),
    FAULT(host_pointer, NAMED, NAMED, NAMED),
    FAULT(no_dynamic_memory, NAMED, NAMED, NAMED),
    FAULT(host_in_struct, NAMED, OTHER, OTHER),
    FAULT(host_in_table, NAMED, OTHER, OTHER),
    FAULT(peer_in_struct, NAMED, OTHER, OTHER),
    FAULT(kept_too_long, NAMED, REPORT, OTHER),
    FAULT(static_and_dynamic, NAMED, NAMED, NAMED),
#undef FAULT
    {"host_reads_device", host_reads_device, {OTHER, REPORT, OTHER}},
};
enum { FAULTS = sizeof faults / sizeof faults[0] };

/* ---- the run itself, in a process of its own */

static int run_fault(const struct fault *fault, bool planted) {
    float host[FAULT_WORDS];
    void *in, *out;
    for (int i = 0; i < FAULT_WORDS; i++)
        host[i] = (float)i;
    if (cudaMalloc(&in, sizeof host) || cudaMalloc(&out, sizeof host) ||
        cudaMemcpy(in, host, sizeof host, cudaMemcpyHostToDevice) ||
        fault->kernel(out, in, planted) ||
        cudaMemcpy(host, out, sizeof host, cudaMemcpyDeviceToHost))
        return EXIT_WRONG;
    for (int i = 0; i < FAULT_WORDS; i++)
        if (host[i] != (float)i) return EXIT_WRONG;
    return cudaFree(in) || cudaFree(out) ? EXIT_WRONG : 0;
}

static int run_named(const char *name, bool planted) {
    for (int i = 0; i < FAULTS; i++)
        if (strcmp(faults[i].name, name) == 0) return run_fault(&faults[i], planted);
    return 2;
}

/* ---- looking at it from outside */

static char self[1024], said[65536];

static _Noreturn void become_child(const char *name, bool planted, int seed, int output) {
    char number[16];
    snprintf(number, sizeof number, "%d", seed);
    setenv("CUEMU_SEED", number, 1);
    setenv("CUEMU_INTERBLOCK", "1", 1);
    setenv("CUEMU_DEVICES", "2", 1);
    setenv("ASAN_OPTIONS", "exitcode=23:detect_leaks=0", 1);
    setenv("UBSAN_OPTIONS", "exitcode=23", 1);
    setenv("TSAN_OPTIONS", "exitcode=66", 1);
    dup2(output, 1);
    dup2(output, 2);
    execl(self, self, name, planted ? "planted" : "whole", (char *)NULL);
    _exit(127);
}

static void read_all(int from) {
    size_t used = 0;
    ssize_t got;
    while ((got = read(from, said + used, sizeof said - 1 - used)) > 0) {
        used += (size_t)got;
        if (used == sizeof said - 1) used /= 2; /* only its kind matters */
    }
    said[used] = 0;
}

static enum outcome outcome_of(int status) {
    if (WIFSIGNALED(status))
        return WTERMSIG(status) == SIGABRT && strstr(said, "cudaemu: ") ? NAMED : OTHER;
    switch (WEXITSTATUS(status)) {
    case 0:
        return RIGHT;
    case EXIT_WRONG:
        return WRONG;
    case EXIT_ADDRESS:
    case EXIT_THREAD:
        return REPORT;
    default:
        return OTHER;
    }
}

static enum outcome look(const struct fault *fault, bool planted, int seed) {
    int ends[2], status = 0;
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) become_child(fault->name, planted, seed, ends[1]);
    close(ends[1]);
    read_all(ends[0]);
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    return outcome_of(status);
}

static void every_fault_is_found_where_it_can_be(void **state) {
    (void)state;
    int missed = 0;
    for (int i = 0; i < FAULTS; i++) {
        enum outcome expected = faults[i].expected[BUILD];
        if (expected == OTHER) continue;
        enum outcome seen = look(&faults[i], true, 0);
        if (seen == expected) continue;
        print_error("%s: %s, expected %s\n%s\n", faults[i].name, outcome_names[seen],
                    outcome_names[expected], said);
        missed++;
    }
    assert_int_equal(missed, 0);
}

/* No build's column alone covers the table, but all together do. */
static void every_fault_has_a_build_that_finds_it(void **state) {
    (void)state;
    for (int i = 0; i < FAULTS; i++) {
        bool found = false;
        for (int build = 0; build < 3; build++) {
            enum outcome e = faults[i].expected[build];
            found = found || e == WRONG || e == NAMED || e == REPORT;
        }
        assert_true(found);
    }
}

/* In the order of their numbers thread 0 is first; with a seed it is not. */
static void an_order_by_luck_is_wrong_with_seeds(void **state) {
    (void)state;
    if (BUILD == 2) return; /* found without */
    const struct fault *luck = NULL;
    for (int i = 0; i < FAULTS; i++)
        if (faults[i].kernel == fault_order_by_luck) luck = &faults[i];
    assert_non_null(luck);
    for (int seed = 1; seed <= 4; seed++)
        assert_int_equal(look(luck, true, seed), WRONG);
}

static void the_emulator_says_where(void **state) {
    (void)state;
    const struct fault *early = NULL;
    for (int i = 0; i < FAULTS; i++)
        if (faults[i].kernel == fault_exit_before_barrier) early = &faults[i];
    assert_non_null(early);
    assert_int_equal(look(early, true, 0), NAMED);
    assert_non_null(
        strstr(said, "barrier not reached by all: 48 of 64 threads wait, 16 have exited"));
    assert_non_null(strstr(said, "fault_kernels.cu:"));
    assert_non_null(strstr(said, "exit_before_barrier<true>"));
}

static void what_is_whole_raises_no_alarm(void **state) {
    (void)state;
    int alarms = 0;
    for (int seed = 0; seed < 3; seed++)
        for (int i = 0; i < FAULTS; i++) {
            enum outcome seen = look(&faults[i], false, seed);
            if (seen == RIGHT) continue;
            print_error("%s, seed %d: %s without a fault\n%s\n", faults[i].name, seed,
                        outcome_names[seen], said);
            alarms++;
        }
    assert_int_equal(alarms, 0);
}

int main(int argc, char **argv) {
    if (argc == 3) return run_named(argv[1], strcmp(argv[2], "planted") == 0);
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length <= 0) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_fault_is_found_where_it_can_be),
        cmocka_unit_test(every_fault_has_a_build_that_finds_it),
        cmocka_unit_test(an_order_by_luck_is_wrong_with_seeds),
        cmocka_unit_test(the_emulator_says_where),
        cmocka_unit_test(what_is_whole_raises_no_alarm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
