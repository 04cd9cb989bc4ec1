/* store_lab.h - a store in a temporary folder, sources to import, and a look at what lies there. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TESTS_STORE_LAB_H
#define ESPALIER_TESTS_STORE_LAB_H

#include <dirent.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/adapters/store.h"
#include "tests/unit/adapter_folder.h"

static char lab_folder[64], lab_root[96];

static inline int lab_remove_one(const char *path, const struct stat *status, int type,
                                 struct FTW *walk) {
    (void)status, (void)type, (void)walk;
    return remove(path);
}

static inline int lab_open(void **state) {
    (void)state;
    /* In memory where that is: thousands of flushes. */
    bool memory = access("/dev/shm", W_OK) == 0;
    strcpy(lab_folder, memory ? "/dev/shm/test_store_XXXXXX" : "/tmp/test_store_XXXXXX");
    if (!mkdtemp(lab_folder)) return -1;
    snprintf(lab_root, sizeof lab_root, "%s/store", lab_folder);
    return 0;
}

static inline int lab_close(void **state) {
    (void)state;
    return nftw(lab_folder, lab_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* A path in the test's folder, good for four calls. */
static inline const char *lab_path(const char *format, ...) ESP_PRINTF(1, 2);
static inline const char *lab_path(const char *format, ...) {
    static char path[4][512];
    static int next;
    char *out = path[next++ % 4];
    int used = snprintf(out, sizeof path[0], "%s/", lab_folder);
    va_list args;
    va_start(args, format);
    vsnprintf(out + used, sizeof path[0] - (size_t)used, format, args);
    va_end(args);
    return out;
}

/* The source folder with the content of that seed. */
static inline const char *lab_source(uint32_t seed) {
    const char *path = lab_path("source_%u", seed);
    if (access(path, F_OK) != 0) adapter_folder_make(path, seed);
    return path;
}

static inline adapter_store *lab_store(const store_options *more) {
    store_options options = more ? *more : (store_options){0};
    options.root = lab_root;
    options.create = true;
    adapter_store *store;
    esp_error err = {0};
    if (store_open(&store, &options, &err) != ESP_OK) fail_msg("%s", err.message);
    return store;
}

static inline esp_code lab_try_import(adapter_store *store, const char *name, uint32_t seed,
                                      store_ref *out, esp_error *err) {
    return store_import(store, lab_source(seed), &(store_import_options){.name = name}, out, err);
}

static inline store_ref lab_import(adapter_store *store, const char *name, uint32_t seed) {
    store_ref ref;
    esp_error err = {0};
    if (lab_try_import(store, name, seed, &ref, &err) != ESP_OK) fail_msg("%s", err.message);
    return ref;
}

static inline store_ref lab_resolve(adapter_store *store, const char *reference) {
    store_ref ref;
    esp_error err = {0};
    if (store_resolve(store, reference, &ref, &err) != ESP_OK)
        fail_msg("%s: %s", reference, err.message);
    return ref;
}

/* Entries of a folder of the store. */
static inline int lab_count(const char *folder) {
    DIR *dir = opendir(lab_path("store/%s", folder));
    int count = 0;
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));)
        count += entry->d_name[0] != '.';
    closedir(dir);
    return count;
}

/* Digests that have a name. */
static inline int lab_named_blobs(const store_list *list) {
    int count = 0;
    for (uint32_t i = 0; i < list->count; i++)
        for (uint32_t v = 0; v < list->at[i].count; v++) {
            bool first = true;
            for (uint32_t j = 0; j <= i && first; j++)
                for (uint32_t w = 0; w < (j < i ? list->at[j].count : v) && first; w++)
                    first =
                        strcmp(list->at[j].versions[w].digest, list->at[i].versions[v].digest) != 0;
            count += first;
        }
    return count;
}

/* Opens the store anew, which clears up, and holds everything against everything. */
static inline void lab_check(void) {
    adapter_store *store = lab_store(NULL);
    store_list list;
    esp_error err = {0};
    assert_int_equal(store_read_list(store, &list, &err), ESP_OK);
    for (uint32_t i = 0; i < list.count; i++)
        for (uint32_t v = 0; v < list.at[i].count; v++)
            if (store_verify(store, list.at[i].versions[v].digest, &err) != ESP_OK)
                fail_msg("%s: %s", list.at[i].name, err.message);
    assert_int_equal(lab_count("stage"), 0);
    assert_int_equal(lab_count("unsure"), 0);
    assert_int_equal(lab_count("blobs/sha256"), lab_named_blobs(&list));
    store_list_free(&list);
    store_close(store);
}

#endif
