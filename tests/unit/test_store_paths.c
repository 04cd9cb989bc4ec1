/* test_store_paths.c - the store among hostile files: links, pipes, devices and damaged files where
 * its own should be, and sources that are no adapters. */
// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <sys/stat.h>

#include "tests/unit/store_lab.h"

static void put(const char *path, const char *text) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void expect_resolve(adapter_store *store, esp_code wanted) {
    store_ref ref;
    esp_error err = {0};
    assert_int_equal(store_resolve(store, "a", &ref, &err), wanted);
    assert_true(wanted == ESP_OK || err.message[0]);
}

/* ---- links and special files in the store ---- */

static void a_link_in_the_place_of_a_name_is_not_followed(void **state) {
    (void)state;
    adapter_store *store = lab_store(NULL);
    (void)lab_import(store, "b", 1);
    assert_int_equal(symlink("b.json", lab_path("store/names/a.json")), 0);
    expect_resolve(store, ESP_INVALID);
    assert_int_equal(unlink(lab_path("store/names/a.json")), 0);
    assert_int_equal(symlink("/etc/passwd", lab_path("store/names/a.json")), 0);
    expect_resolve(store, ESP_INVALID);
    store_close(store);
}

static void a_pipe_in_the_place_of_a_name_holds_nobody_up(void **state) {
    (void)state;
    adapter_store *store = lab_store(NULL);
    assert_int_equal(mkfifo(lab_path("store/names/a.json"), 0600), 0);
    expect_resolve(store, ESP_INVALID);
    assert_int_equal(unlink(lab_path("store/names/a.json")), 0);
    assert_int_equal(mkdir(lab_path("store/names/a.json"), 0700), 0);
    expect_resolve(store, ESP_INVALID);
    store_close(store);
}

static void a_link_in_the_place_of_files_is_not_followed(void **state) {
    (void)state;
    adapter_store *store = lab_store(NULL);
    store_ref ref = lab_import(store, "a", 1);
    store_manifest manifest;
    const char *away = lab_path("away");
    assert_int_equal(rename(ref.path, away), 0);
    assert_int_equal(symlink(away, ref.path), 0);
    expect_resolve(store, ESP_DATA_LOSS);
    assert_int_equal(store_read_manifest(store, ref.digest, &manifest, NULL), ESP_INVALID);
    assert_int_not_equal(store_verify(store, ref.digest, NULL), ESP_OK);
    /* Importing again puts files in its place, and what the link led to stays as it was. */
    (void)lab_import(store, "a", 1);
    expect_resolve(store, ESP_OK);
    assert_int_equal(access(lab_path("away/" ADAPTER_CONFIG_FILE), R_OK), 0);
    store_close(store);
    lab_check();
}

static void a_link_in_the_place_of_a_tensor_file_is_not_followed(void **state) {
    (void)state;
    adapter_store *store = lab_store(NULL);
    store_ref ref = lab_import(store, "a", 1);
    char file[PATH_MAX + 32];
    snprintf(file, sizeof file, "%s/" ADAPTER_TENSORS_FILE, ref.path);
    assert_int_equal(rename(file, lab_path("away")), 0);
    assert_int_equal(symlink(lab_path("away"), file), 0);
    assert_int_equal(store_verify(store, ref.digest, NULL), ESP_INVALID);
    assert_int_equal(store_remove(store, "a", NULL, NULL), ESP_OK);
    assert_int_equal(access(lab_path("away"), R_OK), 0); /* only the link went */
    store_close(store);
    lab_check();
}

static void a_link_in_the_place_of_a_folder_makes_it_no_store(void **state) {
    (void)state;
    static const char *const folders[] = {"names", "stage", "unsure", "blobs/sha256", "blobs"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        adapter_store *store = lab_store(NULL);
        store_close(store);
        const char *path = lab_path("store/%s", folders[i]), *away = lab_path("away");
        assert_int_equal(rename(path, away), 0);
        assert_int_equal(symlink(away, path), 0);
        esp_error err = {0};
        store_options options = {.root = lab_root, .create = true};
        assert_int_equal(store_open(&store, &options, &err), ESP_INVALID);
        assert_null(store);
        assert_non_null(strstr(err.message, "is not an adapter store"));
        assert_int_equal(nftw(lab_root, lab_remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
        assert_int_equal(nftw(away, lab_remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
    }
}

/* What lies in stage/ and unsure/ without our doing is cleared away, but nothing behind a link. */
static void clearing_up_follows_no_link(void **state) {
    (void)state;
    store_close(lab_store(NULL));
    put(lab_path("kept"), "x");
    assert_int_equal(mkdir(lab_path("folder"), 0700), 0);
    put(lab_path("folder/kept"), "x");
    assert_int_equal(symlink(lab_path("folder"), lab_path("store/stage/one")), 0);
    assert_int_equal(mkdir(lab_path("store/stage/two"), 0700), 0);
    assert_int_equal(symlink(lab_path("kept"), lab_path("store/stage/two/x")), 0);
    put(lab_path("store/stage/three"), "x");
    assert_int_equal(symlink(lab_path("kept"), lab_path("store/unsure/four")), 0);
    lab_check();
    assert_int_equal(access(lab_path("kept"), R_OK), 0);
    assert_int_equal(access(lab_path("folder/kept"), R_OK), 0);
}

static int no_openat2(void *arg, const char *step) {
    *(int *)arg += !strcmp(step, "openat2");
    return strcmp(step, "openat2") == 0 ? ENOSYS : 0;
}

static void without_openat2_links_are_not_followed_either(void **state) {
    (void)state;
    int asked = 0;
    adapter_store *store = lab_store(&(store_options){.hook = no_openat2, .hook_arg = &asked});
    store_ref ref = lab_import(store, "a", 1);
    assert_int_equal(store_verify(store, ref.digest, NULL), ESP_OK);
    assert_true(asked > 10);
    assert_int_equal(rename(lab_path("store/names/a.json"), lab_path("a.json")), 0);
    assert_int_equal(symlink(lab_path("a.json"), lab_path("store/names/a.json")), 0);
    expect_resolve(store, ESP_INVALID);
    assert_int_equal(rename(lab_path("a.json"), lab_path("store/names/a.json")), 0);
    assert_int_equal(rename(ref.path, lab_path("away")), 0);
    assert_int_equal(symlink(lab_path("away"), ref.path), 0);
    assert_int_equal(store_verify(store, ref.digest, NULL), ESP_INVALID);
    (void)lab_import(store, "a", 1);
    assert_int_equal(store_verify(store, ref.digest, NULL), ESP_OK);
    store_close(store);
    lab_check();
}

/* ---- roots ---- */

static void a_folder_of_other_things_is_not_made_a_store(void **state) {
    (void)state;
    adapter_store *store;
    esp_error err = {0};
    put(lab_path("letter"), "x");
    store_options options = {.root = lab_folder, .create = true};
    assert_int_equal(store_open(&store, &options, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "holds other things"));
    options = (store_options){.root = lab_path("letter"), .create = true};
    assert_int_equal(store_open(&store, &options, &err), ESP_INVALID);
    options = (store_options){.root = lab_path("absent")};
    assert_int_equal(store_open(&store, &options, &err), ESP_NOT_FOUND);
    assert_non_null(strstr(err.message, "espalier adapter import makes one"));
    assert_int_equal(access(lab_path("absent"), F_OK), -1);
}

static void a_store_is_made_with_the_folders_above_it(void **state) {
    (void)state;
    adapter_store *store;
    store_options options = {.root = lab_path("x/y/z"), .create = true};
    assert_int_equal(store_open(&store, &options, NULL), ESP_OK);
    store_close(store);
    struct stat status;
    assert_int_equal(stat(lab_path("x/y/z"), &status), 0);
    assert_int_equal(status.st_mode & 077, 0); /* nobody else's business */
    options.create = false;
    assert_int_equal(store_open(&store, &options, NULL), ESP_OK);
    store_close(store);
}

/* ---- damaged files ---- */

static void a_damaged_name_is_refused_and_nothing_is_removed_for_it(void **state) {
    (void)state;
    adapter_store *store = lab_store(NULL);
    (void)lab_import(store, "a", 1);
    (void)lab_import(store, "b", 2);
    static const char *const wrong[] = {
        "",
        "{",
        "[]",
        "{}",
        "{\"format\":\"espalier.adapter-name.v2\"}",
        "{\"format\":\"espalier.adapter-name.v1\",\"alias\":1,\"next\":2,\"versions\":[]}",
        "{\"format\":\"espalier.adapter-name.v1\",\"alias\":1,\"next\":2,\"versions\":[{"
        "\"version\":"
        "1,\"digest\":\"sha256:../../../../../etc/passwd\",\"imported\":\"\"}]}"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        put(lab_path("store/names/a.json"), wrong[i]);
        expect_resolve(store, ESP_INVALID);
        /* Nobody knows now which files "a" has. */
        assert_int_equal(lab_count("blobs/sha256"), 2);
    }
    assert_int_equal(store_remove(store, "b", NULL, NULL), ESP_OK);
    assert_int_equal(lab_count("blobs/sha256"), 2);
    assert_int_equal(unlink(lab_path("store/names/a.json")), 0);
    (void)lab_import(store, "a", 1);
    store_close(store);
    lab_check();
}

static void files_in_names_that_are_no_names_are_left_alone(void **state) {
    (void)state;
    adapter_store *store = lab_store(NULL);
    (void)lab_import(store, "a", 1);
    static const char *const others[] = {".json",  "A.json",  "a..b.json",
                                         "readme", "a.json~", "-.json"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        put(lab_path("store/names/%s", others[i]), "x");
    store_list list;
    assert_int_equal(store_read_list(store, &list, NULL), ESP_OK);
    assert_int_equal(list.count, 1);
    store_list_free(&list);
    store_close(store);
}

/* ---- sources ---- */

static void expect_refused(adapter_store *store, const char *path, esp_code wanted,
                           const char *words) {
    esp_error err = {0};
    esp_code code = store_import(store, path, &(store_import_options){.name = "x"}, NULL, &err);
    if (code != wanted || !strstr(err.message, words))
        fail_msg("%s: %s: %s", path, esp_code_name(code), err.message);
    assert_int_equal(lab_count("stage"), 0);
    assert_int_equal(lab_count("names"), 0);
}

/* A source without one of its files; the path is good until the next call. */
static const char *source_without(const char *name, uint32_t seed) {
    static char source[256];
    char path[300];
    snprintf(source, sizeof source, "%.200s", lab_source(seed));
    snprintf(path, sizeof path, "%s/%s", source, name);
    assert_int_equal(unlink(path), 0);
    return source;
}

static void sources_that_are_no_adapters_are_refused(void **state) {
    (void)state;
    adapter_store *store = lab_store(NULL);
    expect_refused(store, lab_path("absent"), ESP_NOT_FOUND, "absent: cannot open it");
    expect_refused(store, "/dev/null", ESP_INVALID, "wanted a regular file");
    assert_int_equal(mkfifo(lab_path("pipe"), 0600), 0);
    expect_refused(store, lab_path("pipe"), ESP_INVALID, "wanted a regular file");
    expect_refused(store, source_without(ADAPTER_CONFIG_FILE, 10), ESP_NOT_FOUND,
                   "has no adapter_config.json");
    const char *pickled = source_without(ADAPTER_TENSORS_FILE, 11);
    expect_refused(store, pickled, ESP_NOT_FOUND, "has no adapter_model.safetensors");
    put(lab_path("source_11/adapter_model.bin"), "x");
    expect_refused(store, pickled, ESP_NOT_FOUND, "is a pickle");
    assert_int_equal(symlink("/dev/zero", lab_path("source_11/" ADAPTER_TENSORS_FILE)), 0);
    expect_refused(store, pickled, ESP_INVALID, "wanted a regular file");
    put(lab_path("empty"), "");
    expect_refused(store, lab_path("empty"), ESP_INVALID, "has 0 bytes");
    store_close(store);
    lab_check();
}

static void sources_that_are_damaged_are_refused(void **state) {
    (void)state;
    adapter_store *store = lab_store(NULL);
    const char *source = lab_source(1);
    put(lab_path("source_1/" ADAPTER_TENSORS_FILE), "not tensors at all");
    expect_refused(store, source, ESP_INVALID, ADAPTER_TENSORS_FILE);
    source = lab_source(2);
    put(lab_path("source_2/" ADAPTER_CONFIG_FILE), "{\"r\": ");
    expect_refused(store, source, ESP_INVALID, ADAPTER_CONFIG_FILE);
    source = lab_source(3);
    assert_int_equal(
        truncate(lab_path("source_3/" ADAPTER_CONFIG_FILE), STORE_CONFIG_BYTES_MAX + 1), 0);
    expect_refused(store, source, ESP_INVALID, "wanted 1 to 1048576");
    put(lab_path("note.txt"), "some text");
    expect_refused(store, lab_path("note.txt"), ESP_INVALID, "");
    store_close(store);
    lab_check();
}

/* Caches of models keep links in their folders. */
static void links_in_a_source_are_followed(void **state) {
    (void)state;
    adapter_store *store = lab_store(NULL);
    const char *source = lab_source(1);
    assert_int_equal(rename(lab_path("source_1/" ADAPTER_TENSORS_FILE), lab_path("content")), 0);
    assert_int_equal(symlink("../content", lab_path("source_1/" ADAPTER_TENSORS_FILE)), 0);
    assert_int_equal(store_import(store, source, &(store_import_options){.name = "a"}, NULL, NULL),
                     ESP_OK);
    struct stat status;
    store_ref ref = lab_resolve(store, "a");
    char file[PATH_MAX + 32];
    snprintf(file, sizeof file, "%s/" ADAPTER_TENSORS_FILE, ref.path);
    assert_int_equal(lstat(file, &status), 0);
    assert_true(S_ISREG(status.st_mode));
    store_close(store);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, lab_open, lab_close)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(a_link_in_the_place_of_a_name_is_not_followed),
        TEST(a_pipe_in_the_place_of_a_name_holds_nobody_up),
        TEST(a_link_in_the_place_of_files_is_not_followed),
        TEST(a_link_in_the_place_of_a_tensor_file_is_not_followed),
        TEST(a_link_in_the_place_of_a_folder_makes_it_no_store),
        TEST(clearing_up_follows_no_link),
        TEST(without_openat2_links_are_not_followed_either),
        TEST(a_folder_of_other_things_is_not_made_a_store),
        TEST(a_store_is_made_with_the_folders_above_it),
        TEST(a_damaged_name_is_refused_and_nothing_is_removed_for_it),
        TEST(files_in_names_that_are_no_names_are_left_alone),
        TEST(sources_that_are_no_adapters_are_refused),
        TEST(sources_that_are_damaged_are_refused),
        TEST(links_in_a_source_are_followed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
