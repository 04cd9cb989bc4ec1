/* test_file.c - mapping whole files: what is seen, and what is refused by name. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/base/file.h"

static char folder[] = "/tmp/test_file_XXXXXX";

static const char *in_folder(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void write_file(const char *name, const char *text) {
    FILE *file = fopen(in_folder(name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
    assert_int_equal(fclose(file), 0);
}

static void regular_file_is_mapped_whole(void **state) {
    (void)state;
    write_file("a.bin", "seven b");
    file_view view;
    esp_error err = {0};
    assert_int_equal(file_map(&view, in_folder("a.bin"), "bytes", &err), ESP_OK);
    assert_int_equal(view.count, 7);
    assert_memory_equal(view.bytes, "seven b", 7);
    assert_string_equal(view.name, "a.bin");
    file_unmap(&view);
    assert_null(view.bytes);
    file_unmap(&view);
    unlink(in_folder("a.bin"));
}

static void refused(const char *name, esp_code wanted, const char *sentence) {
    file_view view;
    esp_error err = {0};
    assert_int_equal(file_map(&view, in_folder(name), "a model", &err), wanted);
    assert_string_equal(err.message, sentence);
    assert_null(view.bytes);
}

/* A folder, an empty file, a pipe that nobody writes to, a name that is not there. */
static void what_is_no_file_with_bytes_is_refused_by_name(void **state) {
    (void)state;
    write_file("empty", "");
    assert_int_equal(mkdir(in_folder("sub"), 0700), 0);
    assert_int_equal(mkfifo(in_folder("pipe"), 0600), 0);
    refused("empty", ESP_INVALID, "empty: the file is empty; wanted a model");
    refused("sub", ESP_INVALID, "sub: is a folder; wanted a model");
    refused("pipe", ESP_INVALID, "pipe: is not a regular file; wanted a model");
    refused("none", ESP_NOT_FOUND, "none: cannot open: No such file or directory");
    unlink(in_folder("empty"));
    unlink(in_folder("pipe"));
    rmdir(in_folder("sub"));
}

static void shown_name_is_short_and_printable(void **state) {
    (void)state;
    char name[8];
    file_show_name(name, sizeof name, "/a/b\n.c");
    assert_string_equal(name, "b?.c");
    file_show_name(name, sizeof name, "/a/0123456789");
    assert_string_equal(name, "0123...");
    file_show_name(name, sizeof name, "a/");
    assert_string_equal(name, "a/");
}

static void shown_path_is_whole_and_printable(void **state) {
    (void)state;
    char path[8];
    file_show_path(path, sizeof path, "/a/b\n.c");
    assert_string_equal(path, "/a/b?.c");
    file_show_path(path, sizeof path, "/a/0123456789");
    assert_string_equal(path, "/a/0...");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(regular_file_is_mapped_whole),
        cmocka_unit_test(what_is_no_file_with_bytes_is_refused_by_name),
        cmocka_unit_test(shown_name_is_short_and_printable),
        cmocka_unit_test(shown_path_is_whole_and_printable),
    };
    if (!mkdtemp(folder)) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(folder);
    return failed;
}
