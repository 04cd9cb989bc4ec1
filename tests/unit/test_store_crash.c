/* test_store_crash.c - the store after a process ended, or a step failed, anywhere in a change: each
 * change is cut short at its first step, its second, and so on until it runs through. */
// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <sys/wait.h>

#include "tests/unit/store_lab.h"

/* Fails, or ends the process, at one step. */
typedef struct fault {
    int at;    /* the step, counted from 1; 0: none */
    int error; /* 0: the process ends there */
    int seen;
    bool clears; /* the step that failed may have been to clear up */
} fault;

static int at_step(void *arg, const char *step) {
    fault *f = arg;
    if (++f->seen != f->at) return 0;
    if (!f->error) _exit(9);
    f->clears = !strcmp(step, "unlink") || !strcmp(step, "list");
    return f->error;
}

/* ---- the changes; each gives what the change gave ---- */

typedef esp_code (*change)(adapter_store *store);

static esp_code import_first(adapter_store *store) {
    return lab_try_import(store, "new", 3, NULL, NULL);
}

static esp_code import_next(adapter_store *store) {
    return lab_try_import(store, "a", 3, NULL, NULL);
}

static esp_code import_known(adapter_store *store) {
    return lab_try_import(store, "other", 1, NULL, NULL);
}

static esp_code move_alias(adapter_store *store) { return store_set_alias(store, "a", 1, NULL); }

static esp_code remove_version(adapter_store *store) {
    return store_remove(store, "a@1", NULL, NULL);
}

static esp_code remove_name(adapter_store *store) { return store_remove(store, "b", NULL, NULL); }

static esp_code cut_upload(adapter_store *store) {
    store_stage *stage;
    store_import_options options = {.name = "up"};
    esp_code code = store_stage_begin(store, &options, &stage, NULL);
    if (code != ESP_OK) return code;
    code = store_stage_file(stage, ADAPTER_CONFIG_FILE, 100, NULL);
    if (code == ESP_OK) code = store_stage_write(stage, "{", 1, NULL);
    store_stage_close(stage);
    return code;
}

static const struct {
    const char *what;
    change run;
} changes[] = {{"the first import of a name", import_first}, {"a further version", import_next},
               {"content that is there", import_known},      {"the alias", move_alias},
               {"a version's removal", remove_version},      {"a name's removal", remove_name},
               {"an upload that is given up", cut_upload}};
enum { CHANGES = sizeof changes / sizeof *changes };

/* "a" with versions 1 and 2, "b" with content of its own. */
static void fill_store(void) {
    adapter_store *store = lab_store(NULL);
    (void)lab_import(store, "a", 1);
    (void)lab_import(store, "a", 2);
    (void)lab_import(store, "b", 4);
    (void)lab_source(3);
    store_close(store);
}

static void empty_store(void) {
    assert_int_equal(nftw(lab_root, lab_remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

/* As before or as after: "a" means its version 2, or what the change made it mean. */
static void check_whole(change run) {
    lab_check();
    adapter_store *store = lab_store(NULL);
    uint32_t version = lab_resolve(store, "a").version;
    assert_true(version == 2 || (run == move_alias && version == 1) ||
                (run == import_next && version == 3));
    /* And it goes on from there. */
    (void)lab_import(store, "later", 7);
    assert_int_equal(store_remove(store, "later", NULL, NULL), ESP_OK);
    store_close(store);
}

/* ---- the process ends ---- */

/* Whether the change was cut at that step. */
static bool cut_by_exit(change run, int step) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        fault f = {0};
        adapter_store *store = lab_store(&(store_options){.hook = at_step, .hook_arg = &f});
        f = (fault){.at = step};
        (void)run(store);
        store_close(store);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 9));
    return WEXITSTATUS(status) == 9;
}

static void a_process_that_ends_anywhere_leaves_the_store_before_or_after(void **state) {
    (void)state;
    for (int i = 0; i < CHANGES; i++) {
        int step = 1;
        for (bool cut = true; cut; step++) {
            fill_store();
            cut = cut_by_exit(changes[i].run, step);
            check_whole(changes[i].run);
            empty_store();
        }
        assert_true(step > 5); /* there were steps to be cut at */
    }
}

/* A store that is being made; whoever comes next finishes it. */
static void a_process_that_ends_while_it_makes_the_store_is_in_nobodys_way(void **state) {
    (void)state;
    int step = 1;
    for (bool cut = true; cut; step++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            fault f = {.at = step};
            store_close(lab_store(&(store_options){.hook = at_step, .hook_arg = &f}));
            _exit(0);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        cut = WEXITSTATUS(status) == 9;
        fill_store();
        lab_check();
        empty_store();
    }
    assert_true(step > 8);
}

/* ---- a step fails ---- */

static void check_after_error(change run, const fault *f) {
    /* What was begun is taken back at once, unless taking back is what failed. */
    if (!f->clears) assert_int_equal(lab_count("stage"), 0);
    check_whole(run);
}

static void fail_everywhere(int error) {
    for (int i = 0; i < CHANGES; i++) {
        bool cut = true;
        for (int step = 1; cut; step++) {
            fault f = {0};
            fill_store();
            adapter_store *store = lab_store(&(store_options){.hook = at_step, .hook_arg = &f});
            f = (fault){.at = step, .error = error};
            (void)changes[i].run(store);
            cut = f.seen >= step;
            store_close(store);
            check_after_error(changes[i].run, &f);
            empty_store();
        }
    }
}

static void a_full_disk_anywhere_leaves_the_store_before_or_after(void **state) {
    (void)state;
    fail_everywhere(ENOSPC);
}

static void a_broken_disk_anywhere_leaves_the_store_before_or_after(void **state) {
    (void)state;
    fail_everywhere(EIO);
}

static int full_at_write(void *arg, const char *step) {
    return *(bool *)arg && !strcmp(step, "write") ? ENOSPC : 0;
}

static void a_full_disk_is_told_as_such(void **state) {
    (void)state;
    bool full = false;
    adapter_store *store = lab_store(&(store_options){.hook = full_at_write, .hook_arg = &full});
    (void)lab_import(store, "a", 1);
    full = true;
    esp_error err = {0};
    assert_int_equal(lab_try_import(store, "a", 2, NULL, &err), ESP_EXHAUSTED);
    assert_non_null(strstr(err.message, "make room"));
    assert_int_equal(lab_count("stage"), 0);
    assert_int_equal(lab_resolve(store, "a").version, 1);
    full = false;
    assert_int_equal(lab_import(store, "a", 2).version, 2);
    store_close(store);
    lab_check();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, lab_open, lab_close)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(a_process_that_ends_anywhere_leaves_the_store_before_or_after),
        TEST(a_process_that_ends_while_it_makes_the_store_is_in_nobodys_way),
        TEST(a_full_disk_anywhere_leaves_the_store_before_or_after),
        TEST(a_broken_disk_anywhere_leaves_the_store_before_or_after),
        TEST(a_full_disk_is_told_as_such),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
