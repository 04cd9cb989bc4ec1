/* progress.h - a bar on stderr for work of more than a second; nothing when stderr is no terminal.
 */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_PROGRESS_H
#define ESPALIER_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct progress {
    const char *label; /* "loading" */
    const char *unit;  /* "GB": done and total are bytes; else a plain count of these */
    int64_t began_us, shown_us;
    bool terminal, visible;
} progress;

progress progress_begin(const char *label, const char *unit);
/* Fits model_options.progress and engine_open: arg is the progress. */
void progress_step(void *arg, uint64_t done, uint64_t total);
/* Wipes the bar. */
void progress_end(progress *p);

#endif
