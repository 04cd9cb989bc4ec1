/* cgroup.c - limits of version 2 groups, with version 1's files as a fallback.
 *
 * Only the process's own group and the root of what it sees are read: inside a container those are
 * the same, and outside one a parent's limit is the operator's to know. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/base/cgroup.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { PATH_BYTES = 1024, LINE_BYTES = 512 };

/* The group's path below /sys/fs/cgroup, from the "0::/path" line; "" when there is none. */
static void own_group(char *out, size_t bytes) {
    out[0] = '\0';
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (!file) return;
    char line[LINE_BYTES];
    while (fgets(line, sizeof line, file)) {
        if (strncmp(line, "0::/", 4) != 0) continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(out, bytes, "%s", line + 3);
    }
    fclose(file);
}

static FILE *open_below(const char *group, const char *name) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/%s", group, name);
    return fopen(path, "re");
}

/* A file of the own group, else of the root that this process sees; NULL when neither is there. */
static FILE *open_file(const char *name) {
    char group[LINE_BYTES];
    own_group(group, sizeof group);
    FILE *file = open_below(group, name);
    return file ? file : open_below("", name);
}

/* The file's one number; false when it is missing or says "max". */
static bool read_number(const char *name, uint64_t *out) {
    FILE *file = open_file(name);
    if (!file) return false;
    bool found = fscanf(file, "%" SCNu64, out) == 1;
    fclose(file);
    return found;
}

/* "QUOTA PERIOD" in microseconds, or "max PERIOD". */
static bool read_cpu_max(uint64_t *quota, uint64_t *period) {
    FILE *file = open_file("cpu.max");
    if (!file) return false;
    bool found = fscanf(file, "%" SCNu64 " %" SCNu64, quota, period) == 2;
    fclose(file);
    return found;
}

uint32_t cgroup_cpus(void) {
    uint64_t quota, period;
    bool found = read_cpu_max(&quota, &period) || (read_number("cpu/cpu.cfs_quota_us", &quota) &&
                                                   read_number("cpu/cpu.cfs_period_us", &period));
    /* Version 1 writes -1 for no quota, which reads as a huge number here. */
    if (!found || period == 0 || quota > UINT32_MAX) return UINT32_MAX;
    uint64_t cpus = (quota + period - 1) / period;
    return cpus == 0 ? 1 : (uint32_t)cpus;
}

/* The number behind a key of a memory.stat file, 0 when it is not there. */
static uint64_t read_stat(const char *name, const char *key) {
    FILE *file = open_file(name);
    if (!file) return 0;
    char word[128];
    uint64_t value, found = 0;
    while (fscanf(file, "%127s %" SCNu64, word, &value) == 2)
        if (strcmp(word, key) == 0) found = value;
    fclose(file);
    return found;
}

static uint64_t left_of(uint64_t limit, uint64_t used, uint64_t droppable) {
    used = used > droppable ? used - droppable : 0;
    return limit > used ? limit - used : 0;
}

uint64_t cgroup_memory_left(void) {
    uint64_t limit, used;
    if (read_number("memory.max", &limit) && read_number("memory.current", &used))
        return left_of(limit, used, read_stat("memory.stat", "inactive_file"));
    if (read_number("memory/memory.limit_in_bytes", &limit) &&
        read_number("memory/memory.usage_in_bytes", &used))
        return left_of(limit, used, read_stat("memory/memory.stat", "total_inactive_file"));
    return UINT64_MAX;
}
