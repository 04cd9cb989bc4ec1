/* progress.c - "loading [=====>    ]  52%  1.31 GB/s" */
// SPDX-License-Identifier: Apache-2.0
#include "engine/commands/progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/clock.h"

enum { SHOW_AFTER_US = 1000000, SHOW_EVERY_US = 100000, BAR_COLUMNS = 40 };

progress progress_begin(const char *label, const char *unit) {
    return (progress){.label = label,
                      .unit = unit,
                      .began_us = clock_now_us(),
                      .terminal = isatty(STDERR_FILENO) == 1};
}

static void show(const progress *p, uint64_t done, uint64_t total, int64_t now_us) {
    double share = total ? (double)done / (double)total : 0;
    double seconds = (double)(now_us - p->began_us) * 1e-6;
    bool bytes = !strcmp(p->unit, "GB");
    int full = (int)(share * BAR_COLUMNS);
    fprintf(stderr, "\r%s [%.*s%*s] %3.0f%%  %.*f %s/s\033[K", p->label, full,
            "========================================", BAR_COLUMNS - full, "", share * 100,
            bytes ? 2 : 1, (double)done / seconds * (bytes ? 1e-9 : 1), p->unit);
    fflush(stderr);
}

void progress_step(void *arg, uint64_t done, uint64_t total) {
    progress *p = arg;
    if (!p->terminal || done > total) return;
    int64_t now_us = clock_now_us();
    if (now_us - p->began_us < SHOW_AFTER_US || now_us - p->shown_us < SHOW_EVERY_US) return;
    p->shown_us = now_us;
    p->visible = true;
    show(p, done, total, now_us);
}

void progress_end(progress *p) {
    if (p->visible) fprintf(stderr, "\r\033[K");
    p->visible = false;
}
