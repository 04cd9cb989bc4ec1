/* cpus.c - processors, cores and memory nodes as sysfs tells them. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/base/cpus.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 512, LIST_BYTES = 8192 };

/* One decimal number; NULL when there is none. A huge one counts as CPU_SETSIZE. */
static const char *parse_number(const char *text, uint32_t *out) {
    if (!isdigit((unsigned char)*text)) return NULL;
    for (*out = 0; isdigit((unsigned char)*text); text++)
        if (*out < CPU_SETSIZE) *out = *out * 10 + (uint32_t)(*text - '0');
    if (*out > CPU_SETSIZE) *out = CPU_SETSIZE;
    return text;
}

static const char *parse_range(const char *text, cpu_set_t *out) {
    uint32_t first, last;
    text = parse_number(text, &first);
    if (!text) return NULL;
    last = first;
    if (*text == '-' && !(text = parse_number(text + 1, &last))) return NULL;
    if (last < first) return NULL;
    for (uint32_t cpu = first; cpu <= last && cpu < CPU_SETSIZE; cpu++)
        CPU_SET(cpu, out);
    return text;
}

bool cpus_parse_list(const char *text, cpu_set_t *out) {
    CPU_ZERO(out);
    if (*text == '\0' || *text == '\n') return true; /* a node without processors */
    while ((text = parse_range(text, out)) && *text == ',')
        text++;
    return text && (*text == '\0' || (*text == '\n' && text[1] == '\0'));
}

static bool read_list(const char *path, cpu_set_t *out) {
    char text[LIST_BYTES];
    FILE *file = fopen(path, "re");
    if (!file) return false;
    size_t bytes = fread(text, 1, sizeof text - 1, file);
    bool whole = feof(file) != 0;
    fclose(file);
    text[bytes] = '\0';
    return whole && strlen(text) == bytes && cpus_parse_list(text, out);
}

/* A core counts with the first of its allowed processors. */
static bool first_of_core(const char *root, uint32_t cpu, const cpu_set_t *allowed) {
    char path[PATH_BYTES];
    cpu_set_t siblings;
    snprintf(path, sizeof path, "%s/cpu/cpu%u/topology/thread_siblings_list", root, cpu);
    if (!read_list(path, &siblings) || !CPU_ISSET(cpu, &siblings)) return true;
    for (uint32_t other = 0; other < cpu; other++)
        if (CPU_ISSET(other, &siblings) && CPU_ISSET(other, allowed)) return false;
    return true;
}

static void add_node(cpu_map *out, const char *root, uint32_t node, const cpu_set_t *allowed) {
    char path[PATH_BYTES];
    cpu_set_t cpus;
    snprintf(path, sizeof path, "%s/node/node%u/cpulist", root, node);
    if (!read_list(path, &cpus)) return;
    CPU_AND(&cpus, &cpus, allowed);
    if (CPU_COUNT(&cpus)) out->node[out->nodes++] = cpus;
}

void cpus_read(cpu_map *out, const cpu_set_t *allowed, const char *root) {
    *out = (cpu_map){.cpus = (uint32_t)CPU_COUNT(allowed)};
    for (uint32_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, allowed)) out->cores += first_of_core(root, cpu, allowed);
    for (uint32_t node = 0; node < CPU_NODES_MAX; node++)
        add_node(out, root, node, allowed);
    /* Nodes that share processors, or miss some, are no map. */
    uint32_t placed = 0;
    for (uint32_t n = 0; n < out->nodes; n++)
        placed += (uint32_t)CPU_COUNT(&out->node[n]);
    if (placed != out->cpus) out->nodes = 0;
    if (out->cpus == 0) out->cpus = out->cores = 1;
    if (out->nodes == 0) out->nodes = 1;
}

void cpus_read_own(cpu_map *out) {
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) CPU_ZERO(&allowed);
    cpus_read(out, &allowed, "/sys/devices/system");
}

uint32_t cpus_node_of(const cpu_map *map, uint32_t index, uint32_t count) {
    uint64_t at = (uint64_t)index * map->cpus / count, end = 0;
    for (uint32_t n = 0; n + 1 < map->nodes; n++) {
        end += (uint64_t)CPU_COUNT(&map->node[n]);
        if (at < end) return n;
    }
    return map->nodes - 1;
}

bool cpus_part(const cpu_map *map, uint32_t part, uint32_t parts, cpu_set_t *out) {
    if (map->nodes < 2 || parts < 2) return false;
    uint32_t first = (uint32_t)((uint64_t)part * map->nodes / parts);
    uint32_t end = (uint32_t)((uint64_t)(part + 1) * map->nodes / parts);
    *out = map->node[first];
    for (uint32_t n = first + 1; n < end; n++)
        CPU_OR(out, out, &map->node[n]);
    return true;
}
