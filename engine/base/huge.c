/* huge.c - asks /proc and /sys about huge pages. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/base/huge.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

void huge_ask(const void *at, size_t bytes) {
    (void)madvise((void *)(uintptr_t)at, bytes, MADV_HUGEPAGE); /* refused: a matter of speed */
}

/* A mapping's lines in smaps: its range, then "Name: N kB" each. */
uint64_t huge_bytes(const void *at) {
    FILE *file = fopen("/proc/self/smaps", "re");
    char line[512];
    bool here = false;
    uint64_t sum = 0;
    while (file && fgets(line, sizeof line, file)) {
        uint64_t begin, end, kib;
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &begin, &end) == 2)
            here = begin <= (uintptr_t)at && (uintptr_t)at < end;
        else if (here && (sscanf(line, "AnonHugePages: %" SCNu64, &kib) == 1 ||
                          sscanf(line, "FilePmdMapped: %" SCNu64, &kib) == 1))
            sum += kib * 1024;
    }
    if (file) fclose(file);
    return sum;
}

bool huge_is_allowed(void) {
    char words[64] = "";
    FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
    if (!file) return false;
    bool read = fgets(words, sizeof words, file) != NULL;
    fclose(file);
    return read && !strstr(words, "[never]");
}
