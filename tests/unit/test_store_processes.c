/* test_store_processes.c - one store, several processes and threads, and many names. */
// SPDX-License-Identifier: Apache-2.0
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "tests/unit/store_lab.h"

enum { PROCESSES = 4, IMPORTS = 10, NAMES = 2000 };

/* ---- processes ---- */

/* Each imports contents of its own under one common name and one that only it uses, and opens the
 * store anew each time, which clears up beside the others. */
static void import_many(uint32_t process) {
    char own[32];
    snprintf(own, sizeof own, "own-%u", process);
    for (uint32_t i = 0; i < IMPORTS; i++) {
        adapter_store *store = lab_store(NULL);
        uint32_t seed = 100 * process + i;
        if (lab_try_import(store, "common", seed, NULL, NULL) != ESP_OK) _exit(1);
        if (lab_try_import(store, own, seed, NULL, NULL) != ESP_OK) _exit(2);
        if (i % 3 == 2 && store_remove(store, own, NULL, NULL) != ESP_OK) _exit(3);
        store_close(store);
    }
    _exit(0);
}

static void run_processes(void (*work)(uint32_t process)) {
    pid_t children[PROCESSES];
    for (uint32_t i = 0; i < PROCESSES; i++) {
        children[i] = fork();
        assert_true(children[i] >= 0);
        if (children[i] == 0) work(i);
    }
    for (uint32_t i = 0; i < PROCESSES; i++) {
        int status;
        assert_int_equal(waitpid(children[i], &status, 0), children[i]);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
    }
}

static void imports_of_four_processes_lose_nothing(void **state) {
    (void)state;
    run_processes(import_many);
    adapter_store *store = lab_store(NULL);
    store_name name;
    assert_int_equal(store_read_name(store, "common", &name, NULL), ESP_OK);
    assert_int_equal(name.count, PROCESSES * IMPORTS);
    for (uint32_t i = 0; i < name.count; i++)
        assert_int_equal(name.versions[i].version, i + 1);
    store_name_free(&name);
    store_close(store);
    lab_check();
}

static void import_the_same(uint32_t process) {
    (void)process;
    adapter_store *store = lab_store(NULL);
    for (uint32_t i = 0; i < IMPORTS; i++)
        if (lab_try_import(store, "same", i, NULL, NULL) != ESP_OK) _exit(1);
    store_close(store);
    _exit(0);
}

static void one_content_from_four_processes_is_one_version(void **state) {
    (void)state;
    for (uint32_t i = 0; i < IMPORTS; i++)
        (void)lab_source(i);
    run_processes(import_the_same);
    adapter_store *store = lab_store(NULL);
    store_name name;
    assert_int_equal(store_read_name(store, "same", &name, NULL), ESP_OK);
    assert_int_equal(name.count, IMPORTS);
    store_name_free(&name);
    store_close(store);
    assert_int_equal(lab_count("blobs/sha256"), IMPORTS);
    lab_check();
}

static void an_upload_under_way_is_no_rubbish_to_others(void **state) {
    (void)state;
    adapter_store *store = lab_store(NULL);
    store_stage *stage;
    store_import_options options = {.name = "a"};
    size_t count;
    char *tensors = adapter_folder_tensors(1, &count);
    const char *config = adapter_folder_config();
    assert_int_equal(store_stage_begin(store, &options, &stage, NULL), ESP_OK);
    assert_int_equal(store_stage_file(stage, ADAPTER_CONFIG_FILE, strlen(config), NULL), ESP_OK);
    assert_int_equal(store_stage_write(stage, config, strlen(config), NULL), ESP_OK);
    store_close(lab_store(NULL)); /* another clears up */
    assert_int_equal(lab_count("stage"), 1);
    assert_int_equal(store_stage_file(stage, ADAPTER_TENSORS_FILE, count, NULL), ESP_OK);
    assert_int_equal(store_stage_write(stage, tensors, count, NULL), ESP_OK);
    assert_int_equal(store_stage_commit(stage, NULL, NULL), ESP_OK);
    store_stage_close(stage);
    free(tensors);
    store_close(store);
    lab_check();
}

/* ---- threads ---- */

typedef struct reader {
    adapter_store *store;
    atomic_bool stop;
    atomic_uint reads, wrong;
} reader;

static void *read_on(void *arg) {
    reader *r = arg;
    while (!r->stop) {
        store_ref ref;
        if (store_resolve(r->store, "a", &ref, NULL) != ESP_OK || ref.version > 2) r->wrong++;
        r->reads++;
    }
    return NULL;
}

static void a_reader_sees_the_alias_before_or_after_a_move(void **state) {
    (void)state;
    reader r = {.store = lab_store(NULL)};
    (void)lab_import(r.store, "a", 1);
    (void)lab_import(r.store, "a", 2);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, read_on, &r), 0);
    for (uint32_t i = 0; i < 200 || r.reads < 200; i++)
        assert_int_equal(store_set_alias(r.store, "a", 1 + i % 2, NULL), ESP_OK);
    r.stop = true;
    pthread_join(thread, NULL);
    assert_int_equal(r.wrong, 0);
    store_close(r.store);
    lab_check();
}

typedef struct importer {
    adapter_store *store;
    uint32_t first;
    atomic_uint failed;
} importer;

static void *import_some(void *arg) {
    importer *m = arg;
    for (uint32_t i = 0; i < IMPORTS; i++) {
        /* lab_source's paths are not for threads. */
        char path[512];
        snprintf(path, sizeof path, "%s/source_%u", lab_folder, m->first + i);
        store_import_options options = {.name = "a"};
        if (store_import(m->store, path, &options, NULL, NULL) != ESP_OK) m->failed++;
    }
    return NULL;
}

static void threads_with_one_store_lose_nothing(void **state) {
    (void)state;
    pthread_t threads[PROCESSES];
    importer work[PROCESSES];
    adapter_store *store = lab_store(NULL);
    for (uint32_t i = 0; i < PROCESSES * IMPORTS; i++)
        (void)lab_source(i);
    for (uint32_t i = 0; i < PROCESSES; i++) {
        work[i] = (importer){.store = store, .first = i * IMPORTS};
        assert_int_equal(pthread_create(&threads[i], NULL, import_some, &work[i]), 0);
    }
    for (uint32_t i = 0; i < PROCESSES; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(work[i].failed, 0);
    }
    store_name name;
    assert_int_equal(store_read_name(store, "a", &name, NULL), ESP_OK);
    assert_int_equal(name.count, PROCESSES * IMPORTS);
    store_name_free(&name);
    store_close(store);
    lab_check();
}

/* ---- many names ---- */

static int count_opens(void *arg, const char *step) {
    *(uint32_t *)arg += !strcmp(step, "open") || !strcmp(step, "list");
    return 0;
}

/* 2,000 names of one content. */
static void put_names(const char *digest) {
    for (uint32_t i = 0; i < NAMES; i++) {
        FILE *file = fopen(lab_path("store/names/name-%04u.json", i), "wb");
        assert_non_null(file);
        fprintf(file,
                "{\"format\":\"espalier.adapter-name.v1\",\"alias\":1,\"next\":2,\"versions\":[{"
                "\"version\":1,\"digest\":\"%s\",\"imported\":\"2026-11-21T10:00:00Z\"}]}",
                digest);
        assert_int_equal(fclose(file), 0);
    }
}

static void many_names_cost_one_open_file_each_and_one_name_costs_one(void **state) {
    (void)state;
    uint32_t opens = 0;
    adapter_store *store = lab_store(&(store_options){.hook = count_opens, .hook_arg = &opens});
    put_names(lab_import(store, "first", 1).digest);
    opens = 0;
    store_list list;
    assert_int_equal(store_read_list(store, &list, NULL), ESP_OK);
    assert_int_equal(list.count, NAMES + 1);
    assert_int_equal(opens, NAMES + 2);
    for (uint32_t i = 1; i < list.count; i++)
        assert_true(strcmp(list.at[i - 1].name, list.at[i].name) < 0);
    store_list_free(&list);
    opens = 0;
    (void)lab_resolve(store, "name-1234");
    assert_int_equal(opens, 1);
    /* An import does not look at the others. */
    opens = 0;
    (void)lab_import(store, "name-0001", 2);
    assert_true(opens < 20);
    /* Nor does opening a store that was left in order. */
    opens = 0;
    store_close(lab_store(&(store_options){.hook = count_opens, .hook_arg = &opens}));
    assert_true(opens < 20);
    /* A removal reads each once, to know what nobody has any more. */
    opens = 0;
    assert_int_equal(store_remove(store, "name-0001", NULL, NULL), ESP_OK);
    assert_true(opens < NAMES + 20);
    store_close(store);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, lab_open, lab_close)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(imports_of_four_processes_lose_nothing),
        TEST(one_content_from_four_processes_is_one_version),
        TEST(an_upload_under_way_is_no_rubbish_to_others),
        TEST(a_reader_sees_the_alias_before_or_after_a_move),
        TEST(threads_with_one_store_lose_nothing),
        TEST(many_names_cost_one_open_file_each_and_one_name_costs_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
