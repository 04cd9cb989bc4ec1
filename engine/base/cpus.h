/* cpus.h - the processors that this process may run on: how many, how many cores they are, and which
 * lie beside which memory.
 *
 * What the system does not tell is taken to be simple: each processor a core of its own, all of them
 * beside one memory. Source  Linux, Documentation/ABI: sysfs-devices-system-cpu, -node */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_BASE_CPUS_H
#define ESPALIER_BASE_CPUS_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

enum { CPU_NODES_MAX = 64 };

typedef struct cpu_map {
    uint32_t cpus;                 /* 1 at least */
    uint32_t cores;                /* of them; two threads of one core are one */
    uint32_t nodes;                /* 1 at least; 1: node[] says nothing */
    cpu_set_t node[CPU_NODES_MAX]; /* the allowed processors beside each memory, none empty */
} cpu_map;

/* Of the allowed processors; root is "/sys/devices/system" or a test's copy of it. */
void cpus_read(cpu_map *out, const cpu_set_t *allowed, const char *root);

/* The same of the processors that the calling thread may use. */
void cpus_read_own(cpu_map *out);

/* The node of worker index of count: neighbours share one, each gets workers by its processors. */
uint32_t cpus_node_of(const cpu_map *map, uint32_t index, uint32_t count);

/* The processors of one of several that share the machine out by its memories: each has some memories to itself where
 * there are enough, else one with others. false: one memory, nothing to share out. */
bool cpus_part(const cpu_map *map, uint32_t part, uint32_t parts, cpu_set_t *out);

/* "0-3,8,10-11" as sysfs writes it; false when the text is anything else. Numbers that a cpu_set_t
 * has no room for are passed over. */
bool cpus_parse_list(const char *text, cpu_set_t *out);

#endif
