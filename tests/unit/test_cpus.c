/* test_cpus.c - processors, cores and memory nodes, read from a made-up sysfs. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "engine/base/cpus.h"

enum { PATH_BYTES = 256 };

static char root[64];

/* root/path holds text; the folders on the way are made. */
static void put(const char *path, const char *text) {
    char whole[PATH_BYTES];
    snprintf(whole, sizeof whole, "%s/%s", root, path);
    for (char *slash = whole + strlen(root) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        mkdir(whole, 0700);
        *slash = '/';
    }
    FILE *file = fopen(whole, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    fclose(file);
}

static int make_root(void **state) {
    (void)state;
    snprintf(root, sizeof root, "/tmp/esp_cpus_XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state) {
    (void)state;
    char command[PATH_BYTES];
    snprintf(command, sizeof command, "rm -r %s", root);
    return system(command);
}

static cpu_set_t set_of(const char *list) {
    cpu_set_t set;
    assert_true(cpus_parse_list(list, &set));
    return set;
}

static cpu_map map_of(const char *allowed) {
    cpu_map map;
    cpu_set_t set = set_of(allowed);
    cpus_read(&map, &set, root);
    return map;
}

static void siblings(uint32_t cpu, const char *list) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "cpu/cpu%u/topology/thread_siblings_list", cpu);
    put(path, list);
}

static void lists_are_read_as_sysfs_writes_them(void **state) {
    (void)state;
    cpu_set_t set = set_of("0-3,8,10-11\n");
    assert_int_equal(CPU_COUNT(&set), 7);
    assert_true(CPU_ISSET(0, &set) && CPU_ISSET(3, &set) && CPU_ISSET(8, &set));
    assert_true(CPU_ISSET(10, &set) && CPU_ISSET(11, &set) && !CPU_ISSET(9, &set));
    set = set_of("\n");
    assert_int_equal(CPU_COUNT(&set), 0);
    set = set_of("1023-4294967296000,99999999999999999999");
    assert_int_equal(CPU_COUNT(&set), 1);
}

static void other_texts_are_no_lists(void **state) {
    (void)state;
    const char *const texts[] = {",",    "0,",   "0-",     "-1",   "3-2",   "0x1",
                                 "0-1 ", " 0-1", "0\n1\n", "0--1", "0-1-2", "all"};
    cpu_set_t set;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        assert_false(cpus_parse_list(texts[i], &set));
}

/* A container's sysfs may be empty. */
static void without_sysfs_each_processor_is_a_core_beside_one_memory(void **state) {
    (void)state;
    cpu_map map = map_of("0-4,7");
    assert_int_equal(map.cpus, 6);
    assert_int_equal(map.cores, 6);
    assert_int_equal(map.nodes, 1);
}

/* Nothing allowed is what a failed system call leaves. */
static void there_is_always_one_processor(void **state) {
    (void)state;
    cpu_map map = map_of("");
    assert_int_equal(map.cpus, 1);
    assert_int_equal(map.cores, 1);
    assert_int_equal(map.nodes, 1);
}

/* Four cores of two threads; the group allows both threads of core 0 and one each of cores 1 and 2. */
static void two_threads_of_a_core_count_once(void **state) {
    (void)state;
    for (uint32_t cpu = 0; cpu < 8; cpu++) {
        char list[16];
        snprintf(list, sizeof list, "%u,%u\n", cpu % 4, cpu % 4 + 4);
        siblings(cpu, list);
    }
    assert_int_equal(map_of("0-7").cores, 4);
    cpu_map map = map_of("0,4,1,6");
    assert_int_equal(map.cpus, 4);
    assert_int_equal(map.cores, 3);
    siblings(6, "rubbish");
    assert_int_equal(map_of("0-7").cores, 5);
}

/* Two memories beside 4 processors each, of which 2 and 4 are allowed, and one without processors. */
static void workers_go_to_the_nodes_by_their_processors(void **state) {
    (void)state;
    put("node/node0/cpulist", "0-3\n");
    put("node/node1/cpulist", "4-7\n");
    put("node/node2/cpulist", "\n");
    cpu_map map = map_of("2-7");
    assert_int_equal(map.nodes, 2);
    assert_int_equal(CPU_COUNT(&map.node[0]), 2);
    assert_int_equal(CPU_COUNT(&map.node[1]), 4);
    const uint32_t of_six[] = {0, 0, 1, 1, 1, 1}, of_three[] = {0, 1, 1};
    for (uint32_t i = 0; i < 6; i++)
        assert_int_equal(cpus_node_of(&map, i, 6), of_six[i]);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(cpus_node_of(&map, i, 3), of_three[i]);
    assert_int_equal(cpus_node_of(&map, 0, 1), 0);
    assert_int_equal(map_of("4-7").nodes, 1);
}

static void assert_part(const cpu_map *map, uint32_t part, uint32_t parts, const char *list) {
    cpu_set_t set, wanted = set_of(list);
    assert_true(cpus_part(map, part, parts, &set));
    assert_true(CPU_EQUAL(&set, &wanted));
}

/* Four memories of two processors: whole ones for each where they suffice, else one is shared. */
static void memories_are_shared_out_whole(void **state) {
    (void)state;
    cpu_set_t set;
    put("node/node0/cpulist", "0-1\n");
    put("node/node1/cpulist", "2-3\n");
    put("node/node2/cpulist", "4-5\n");
    put("node/node3/cpulist", "6-7\n");
    cpu_map map = map_of("0-7");
    assert_part(&map, 0, 2, "0-3");
    assert_part(&map, 1, 2, "4-7");
    assert_part(&map, 0, 3, "0-1");
    assert_part(&map, 2, 3, "4-7");
    assert_part(&map, 3, 4, "6-7");
    assert_part(&map, 4, 8, "4-5");
    assert_part(&map, 5, 8, "4-5");
    assert_false(cpus_part(&map, 0, 1, &set));
    map = map_of("0-1");
    assert_false(cpus_part(&map, 0, 2, &set));
}

/* Two nodes with one processor in common, or an allowed one that no node has. */
static void nodes_that_contradict_each_other_are_no_map(void **state) {
    (void)state;
    put("node/node0/cpulist", "0-4\n");
    put("node/node1/cpulist", "4-7\n");
    assert_int_equal(map_of("0-7").nodes, 1);
    put("node/node0/cpulist", "0-3\n");
    assert_int_equal(map_of("0-8").nodes, 1);
    assert_int_equal(map_of("0-7").nodes, 2);
}

#define WITH_ROOT(test) cmocka_unit_test_setup_teardown(test, make_root, remove_root)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_are_read_as_sysfs_writes_them),
        cmocka_unit_test(other_texts_are_no_lists),
        WITH_ROOT(without_sysfs_each_processor_is_a_core_beside_one_memory),
        WITH_ROOT(there_is_always_one_processor),
        WITH_ROOT(two_threads_of_a_core_count_once),
        WITH_ROOT(workers_go_to_the_nodes_by_their_processors),
        WITH_ROOT(memories_are_shared_out_whole),
        WITH_ROOT(nodes_that_contradict_each_other_are_no_map),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
