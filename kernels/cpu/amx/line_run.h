/* line_run.h - rows of bytes on their way into the cache, line by line, while something else is computed: where a
 * strip's sums will go. Other workers wrote there, or nobody for long. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_LINE_RUN_H
#define ESPALIER_LINE_RUN_H

#include "kernels/cpu/level/level.h"

typedef struct line_run {
    const char *at;
    size_t row, bytes, in_row; /* from row to row; of a row that are wanted, that are fetched */
    uint32_t rows;             /* left */
} line_run;

ALWAYS_INLINE void fetch_line(line_run *run) {
    if (run->rows == 0) return;
    __builtin_prefetch(run->at + run->in_row, 1);
    run->in_row += CACHE_LINE_BYTES;
    if (run->in_row < run->bytes) return;
    run->in_row = 0;
    run->at += run->row;
    run->rows--;
}

#endif
