/* kernel_cases.h - how many cases of the kernel matrix a program ran.
 *
 * A case is one op over one shape (counts, widths, formats, epilogue, ...) whose results are held to what ref, the
 * host or a plain formula makes of it. That the same comes out another way is no case of its own. tests/cuda sums
 * them over all programs (count_cases.sh). */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TESTS_KERNEL_CASES_H
#define ESPALIER_TESTS_KERNEL_CASES_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static uint32_t kernel_cases_ran;

/* One was held to its reference, and is good. */
static inline void kernel_case(void) { kernel_cases_ran++; }

/* Says how many there were, also to the file that KERNEL_CASES names; status: of the program's tests. */
static inline int kernel_cases_end(int status) {
    const char *path = getenv("KERNEL_CASES");
    printf("cases: %u\n", kernel_cases_ran);
    FILE *file = path && status == 0 ? fopen(path, "w") : NULL;
    if (!file) return path && status == 0 ? EXIT_FAILURE : status;
    bool written = fprintf(file, "%u\n", kernel_cases_ran) > 0;
    return fclose(file) == 0 && written ? status : EXIT_FAILURE;
}

#endif
