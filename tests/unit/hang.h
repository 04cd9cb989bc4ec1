/* hang.h - what a test takes for a hang: a busy machine stops a thread for seconds, and emulated GPUs under a sanitizer
 * take minutes. So long do those wait who are not late on purpose, ranks for each other too. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TESTS_HANG_H
#define ESPALIER_TESTS_HANG_H

enum {
    HANG_SECONDS = 300,
    HANG_MS = HANG_SECONDS * 1000,
    HANG_US = HANG_SECONDS * 1000000,
};

#endif
