/* test_includes.c - the arrows between folders point down.
 *
 *   layer 3  engine
 *   layer 2  scheduler (-> kvcache)   cluster (-> proto, kernels)
 *   layer 1  kvcache   kernels   proto
 *   layer 0  engine/base
 *
 * A folder may include itself, engine/base and what is listed above; engine may include all. */
// SPDX-License-Identifier: Apache-2.0
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const char *const arrows[][5] = {
    {"engine/base"},
    {"kernels", "engine/base"},
    {"kvcache", "engine/base"},
    {"proto", "engine/base"},
    {"scheduler", "kvcache", "engine/base"},
    {"cluster", "proto", "kernels", "engine/base"},
    {"engine"}, /* anything; kept last, for engine/base is a part of its path */
};
enum { FOLDERS = sizeof arrows / sizeof arrows[0] };

static bool is_below(const char *path, const char *folder) {
    size_t length = strlen(folder);
    return strncmp(path, folder, length) == 0 && path[length] == '/';
}

/* Row of the folder that a path from the root lies in, or -1. */
static int folder_of(const char *path) {
    for (int i = 0; i < FOLDERS; i++)
        if (is_below(path, arrows[i][0])) return i;
    return -1;
}

static bool allowed(const char *from, const char *to) {
    int row = folder_of(from);
    if (row < 0 || row == FOLDERS - 1) return true;
    for (int i = 0; i < 5 && arrows[row][i]; i++)
        if (is_below(to, arrows[row][i])) return true;
    return false;
}

static int files, includes, wrong;

/* The included file as a path from the root; false when it is none of ours (a system header, or
 * one that the build generates). */
static bool resolve(const char *from, const char *name, char *out, size_t bytes) {
    char full[2048];
    snprintf(out, bytes, "%s", name);
    snprintf(full, sizeof full, "%s/%s", TEST_SOURCE_DIR, name);
    if (access(full, R_OK) == 0) return true;
    const char *slash = strrchr(from, '/');
    snprintf(out, bytes, "%.*s/%s", slash ? (int)(slash - from) : 0, from, name);
    snprintf(full, sizeof full, "%s/%s", TEST_SOURCE_DIR, out);
    return strncmp(name, "../", 3) == 0 || access(full, R_OK) == 0;
}

static void look_at_line(const char *from, int line, const char *text) {
    char name[512], to[1024];
    if (sscanf(text, " # include %*1[\"<]%511[^\">]", name) != 1) return;
    if (!resolve(from, name, to, sizeof to)) return;
    includes++;
    if (!strstr(to, "../") && (folder_of(to) < 0 || allowed(from, to))) return;
    print_error("%s:%d includes %s: not an allowed arrow\n", from, line, to);
    wrong++;
}

static int look_at_file(const char *path, const struct stat *status, int type) {
    (void)status;
    const char *dot = strrchr(path, '.');
    if (type != FTW_F || !dot) return 0;
    if (strcmp(dot, ".c") != 0 && strcmp(dot, ".h") != 0 && strcmp(dot, ".cu") != 0 &&
        strcmp(dot, ".cuh") != 0)
        return 0;
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    files++;
    char text[1024];
    for (int line = 1; fgets(text, sizeof text, file); line++)
        look_at_line(path + strlen(TEST_SOURCE_DIR) + 1, line, text);
    fclose(file);
    return 0;
}

static void every_include_follows_the_layers(void **state) {
    (void)state;
    static const char *const roots[] = {"engine",  "kernels", "scheduler",
                                        "kvcache", "proto",   "cluster"};
    for (size_t i = 0; i < sizeof roots / sizeof roots[0]; i++) {
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", TEST_SOURCE_DIR, roots[i]);
        if (access(path, R_OK) == 0) assert_int_equal(ftw(path, look_at_file, 16), 0);
    }
    assert_true(files > 30 && includes > 60); /* the walk did see the tree */
    assert_int_equal(wrong, 0);
}

static void the_law_itself_refuses_arrows_that_point_up(void **state) {
    (void)state;
    assert_true(allowed("scheduler/step.c", "kvcache/kvcache.h"));
    assert_true(allowed("kernels/ref/ref.c", "engine/base/pool.h"));
    assert_true(allowed("engine/model/format/gguf.c", "kernels/kernels.h"));
    assert_true(allowed("cluster/comm.c", "proto/rpc.h"));
    assert_false(allowed("kernels/ref/ref.c", "engine/model/spec.h"));
    assert_false(allowed("kvcache/tables.c", "scheduler/scheduler.h"));
    assert_false(allowed("kvcache/tables.c", "kernels/kernels.h"));
    assert_false(allowed("engine/base/mem.c", "engine/engine.h"));
    assert_false(allowed("proto/rpc.c", "cluster/comm.h"));
    assert_false(allowed("cluster/comm.c", "scheduler/scheduler.h"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_include_follows_the_layers),
        cmocka_unit_test(the_law_itself_refuses_arrows_that_point_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
