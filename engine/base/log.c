/* log.c - logfmt lines, one write each. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 2048 };

static _Atomic int lowest_level = LOG_INFO;

void log_set_level(log_level level) {
    atomic_store_explicit(&lowest_level, (int)level, memory_order_relaxed);
}

static const char *level_name(log_level level) {
    static const char *const names[] = {"debug", "info", "warn", "error"};
    return names[level];
}

/* "ts=2024-05-01T12:34:56.789Z level=info event=NAME"; returns its length. */
static size_t write_head(char *line, size_t bytes, log_level level, const char *event) {
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    char ts[32];
    strftime(ts, sizeof ts, "%Y-%m-%dT%H:%M:%S", &utc);
    int length = snprintf(line, bytes, "ts=%s.%03dZ level=%s event=%s", ts,
                          (int)(now.tv_nsec / 1000000), level_name(level), event);
    return length < 0 ? 0 : (size_t)length < bytes ? (size_t)length : bytes - 1;
}

/* A value that holds a newline must not look like a second event. */
static void flatten(char *line, size_t length) {
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f) line[i] = '?';
}

void log_event(log_level level, const char *event, const char *format, ...) {
    if (level >= LOG_OFF) return;
    if ((int)level < atomic_load_explicit(&lowest_level, memory_order_relaxed)) return;
    char line[LINE_MAX_BYTES + 1]; /* room for the newline */
    size_t length = write_head(line, LINE_MAX_BYTES, level, event);
    if (format && *format && length + 2 < LINE_MAX_BYTES) {
        line[length++] = ' ';
        va_list args;
        va_start(args, format);
        size_t room = LINE_MAX_BYTES - length;
        int wanted = vsnprintf(line + length, room, format, args);
        va_end(args);
        if (wanted > 0) length += (size_t)wanted < room ? (size_t)wanted : room - 1;
    }
    flatten(line, length);
    line[length++] = '\n';
    /* A log that cannot be written has nowhere to complain. */
    ssize_t written = write(STDERR_FILENO, line, length);
    (void)written;
}
