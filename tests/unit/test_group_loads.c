/* test_group_loads.c - adapters of two replicas changed as one: names and numbers mean the same content with both, a
 * slow load keeps nobody but its name's, and what fails with one alone is said and survived. */
// SPDX-License-Identifier: Apache-2.0
#include <ftw.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/replicas.h"
#include "tests/unit/hang.h"
#include "tests/unit/tiny_adapter.h"
#include "tests/unit/tiny_engine.h"

enum { REPLICAS = 2 };

static const tiny_llama_options BASE = {.layers = 1,
                                        .hidden = 64,
                                        .heads = 4,
                                        .kv_heads = 2,
                                        .head_dim = 16,
                                        .intermediate = 96,
                                        .vocab = 320,
                                        .context = 256,
                                        .dtype = DT_Q8_0,
                                        .seed = 3};

static char model_path[] = "/tmp/espalier-group-XXXXXX";
static char store_root[] = "/tmp/espalier-group-store-XXXXXX";

/* The store has "one", "two", and "heavy", which brings matrices of its own. */
static int make_files(void **state) {
    (void)state;
    static const char *const names[] = {"one", "two", "heavy"};
    adapter_store *store;
    log_set_level(LOG_OFF);
    tiny_write(model_path, &BASE);
    if (!mkdtemp(store_root)) return -1;
    store_options options = {.root = store_root, .create = true};
    assert_int_equal(store_open(&store, &options, NULL), ESP_OK);
    for (uint32_t i = 0; i < 3; i++) {
        char folder[TA_PATH_BYTES];
        store_ref ref;
        esp_error err = {0};
        tiny_adapter_options made = {
            .base = &BASE, .rank = 4, .targets = TA_Q, .wholes = i == 2, .seed = 5 + i};
        tiny_adapter_write(folder, &made);
        if (store_import(store, folder, &(store_import_options){.name = names[i]}, &ref, &err) !=
            ESP_OK)
            fail_msg("%s", err.message);
        tiny_adapter_remove(folder);
    }
    store_close(store);
    return 0;
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *walk) {
    (void)status, (void)type, (void)walk;
    return remove(path);
}

static int drop_files(void **state) {
    (void)state;
    return unlink(model_path) | nftw(store_root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- replicas on devices that do as they are told ---- */

static kern_ops odd;
/* As they were opened: the replicas', then those with which each packs matrices, the first one's first. */
enum { PACKS_FOR_0 = REPLICAS, PACKS_FOR_1, DEVICES };
static kern_device *_Atomic devices[DEVICES];
static _Atomic uint32_t opened;
static _Atomic int fails_on; /* a device on which no matrix is packed; -1: none */
static _Atomic bool full;    /* which says so; else that the matrix is wrong */
static _Atomic bool held, waits;

static esp_code odd_open(kern_device **out, const kern_options *options, esp_error *err) {
    esp_code code = kern_ref.open(out, options, err);
    ESP_ASSERT(atomic_load(&opened) < DEVICES);
    if (code == ESP_OK) atomic_store(&devices[atomic_fetch_add(&opened, 1)], *out);
    return code;
}

static esp_code odd_pack(kern_device *dev, const kern_matrix_desc *desc, kern_matrix **out,
                         esp_error *err) {
    int which = atomic_load(&fails_on);
    if (which < 0 || dev != atomic_load(&devices[which])) return kern_ref.pack(dev, desc, out, err);
    return atomic_load(&full) ? esp_fail(err, ESP_EXHAUSTED, "the device is full")
                              : esp_fail(err, ESP_INVALID, "the matrix is no good");
}

/* Whoever packs an update while it is held waits. */
static void odd_lora_pack(const kern_device *dev, const kern_lora_desc *desc, size_t piece_max,
                          void *const *pieces) {
    int64_t until_us = clock_now_us() + HANG_US;
    while (atomic_load(&held) && clock_now_us() < until_us) {
        atomic_store(&waits, true);
        usleep(1000);
    }
    kern_ref.lora_pack(dev, desc, piece_max, pieces);
}

static replicas *open_two(void) {
    replicas *all = NULL;
    esp_error err = {0};
    odd = kern_ref;
    odd.open = odd_open;
    odd.pack = odd_pack;
    odd.lora_pack = odd_lora_pack;
    atomic_store(&opened, 0);
    atomic_store(&fails_on, -1);
    atomic_store(&held, false);
    atomic_store(&waits, false);
    model_config config = {.model_path = model_path,
                           .device = DEVICE_REF,
                           .ops = &odd,
                           .threads = REPLICAS,
                           .max_context = BASE.context,
                           .adapter_store = store_root};
    if (replicas_open(&all, &config, REPLICAS, NULL, NULL, &err) != ESP_OK)
        fail_msg("%s", err.message);
    return all;
}

static adapters *of(replicas *all, uint32_t index) {
    return engine_adapters(replicas_engine(all, index));
}

static void load_as(replicas *all, const char *name, const char *ref, adapter_info *info) {
    esp_error err = {0};
    if (group_load_stored_as(replicas_adapters(all), name, ref, info, &err) != ESP_OK)
        fail_msg("%s", err.message);
}

/* What the reference means with one of them; "" where it is unknown. */
static const char *content(replicas *all, uint32_t index, const char *ref) {
    static char digest[ADAPTER_DIGEST_CHARS];
    adapter *ad = NULL;
    esp_code code = adapters_find(of(all, index), ref, &ad, NULL);
    snprintf(digest, sizeof digest, "%s", code == ESP_OK ? adapter_content(ad) : "");
    adapter_release(of(all, index), ad);
    return digest;
}

/* ---- tests ---- */

/* The second one missed a load; it does not count on its own for that. */
static void a_number_means_one_content_with_all(void **state) {
    (void)state;
    adapter_info info;
    replicas *all = open_two();
    assert_int_equal(adapters_load_stored_as(of(all, 0), "x", "one", 0, NULL, NULL), ESP_OK);
    load_as(all, "x", "two", &info);
    assert_int_equal(info.version, 2);
    for (uint32_t i = 0; i < REPLICAS; i++) {
        assert_string_equal(content(all, i, "x@2"), info.digest);
        assert_string_equal(content(all, i, "x@1"), "");
    }
    replicas_close(all);
}

/* The second one has the content under a number that the first one has given to another meanwhile. */
static void content_that_is_there_gets_the_number_of_the_first(void **state) {
    (void)state;
    adapter_info info;
    replicas *all = open_two();
    assert_int_equal(adapters_load_stored_as(of(all, 1), "x", "two", 0, NULL, NULL), ESP_OK);
    assert_int_equal(adapters_load_stored_as(of(all, 0), "x", "one", 0, NULL, NULL), ESP_OK);
    load_as(all, "x", "two", &info);
    assert_int_equal(info.version, 2);
    for (uint32_t i = 0; i < REPLICAS; i++)
        assert_string_equal(content(all, i, "x@2"), info.digest);
    replicas_close(all);
}

static void *load_one(void *arg) {
    esp_code code = group_load_stored(replicas_adapters(arg), "one", NULL, NULL);
    return (void *)(uintptr_t)code;
}

/* While "one" is being read "x" is unloaded, and loaded again would be read after it. */
static void a_slow_load_keeps_no_other_name(void **state) {
    (void)state;
    pthread_t thread;
    void *code;
    replicas *all = open_two();
    load_as(all, "x", "two", NULL);
    atomic_store(&held, true);
    assert_int_equal(pthread_create(&thread, NULL, load_one, all), 0);
    int64_t until_us = clock_now_us() + HANG_US / 2;
    while (!atomic_load(&waits) && clock_now_us() < until_us)
        usleep(1000);
    assert_true(atomic_load(&waits));
    assert_int_equal(group_unload(replicas_adapters(all), "x", ADAPTER_END, NULL), ESP_OK);
    assert_true(clock_now_us() < until_us);
    atomic_store(&held, false);
    pthread_join(thread, &code);
    assert_int_equal((uintptr_t)code, ESP_OK);
    replicas_close(all);
}

static void load_fails(replicas *all, esp_code wanted, bool again) {
    esp_error err = {0};
    assert_int_equal(group_load_stored(replicas_adapters(all), "heavy", NULL, &err), wanted);
    assert_non_null(strstr(err.message, "replica 1: "));
    assert_int_equal(strstr(err.message, "ask again") != NULL, again);
}

static void only_what_passes_is_to_be_asked_again(void **state) {
    (void)state;
    replicas *all = open_two();
    atomic_store(&fails_on, PACKS_FOR_1);
    atomic_store(&full, false);
    load_fails(all, ESP_INVALID, false);
    atomic_store(&full, true);
    load_fails(all, ESP_EXHAUSTED, true);
    atomic_store(&fails_on, -1);
    assert_int_equal(group_load_stored(replicas_adapters(all), "heavy", NULL, NULL), ESP_OK);
    replicas_close(all);
}

/* ---- one that is broken with the first replica alone ---- */

static request *ask(replicas *all, esp_code *submitted) {
    adapters *first = of(all, 0);
    int32_t prompt[] = {5, 6, 7};
    request_options o = {.prompt = prompt,
                         .prompt_count = 3,
                         .output_max = 4,
                         .ignore_eos = true,
                         .adapters = first};
    request *r = NULL;
    assert_int_equal(adapters_find_anyhow(first, "heavy", &o.adapter, NULL), ESP_OK);
    assert_int_equal(request_new(&r, &o, BASE.vocab, NULL), ESP_OK);
    *submitted = replicas_submit(all, r, NULL);
    int64_t until_us = clock_now_us() + HANG_US;
    while (*submitted == ESP_OK && !atomic_load(&r->done)) {
        assert_true(clock_now_us() < until_us);
        usleep(1000);
    }
    return r;
}

static void what_the_first_one_cannot_read_others_serve(void **state) {
    (void)state;
    esp_code code;
    replicas *all = open_two();
    assert_int_equal(replicas_start(all, NULL), ESP_OK);
    atomic_store(&fails_on, PACKS_FOR_0);
    atomic_store(&full, false);
    replicas_set_stuck(all, 1, true);
    request *r = ask(all, &code); /* with the first, which cannot read it */
    assert_true(code != ESP_OK || r->finish == FINISH_ERROR);
    request_unref(r);
    replicas_set_stuck(all, 1, false);
    for (uint32_t i = 0; i < 4; i++) {
        r = ask(all, &code);
        assert_int_equal(code, ESP_OK);
        assert_int_equal(r->replica, 1);
        if (r->finish != FINISH_LENGTH) fail_msg("%s", r->error.message);
        request_unref(r);
    }
    replicas_close(all);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_number_means_one_content_with_all),
        cmocka_unit_test(content_that_is_there_gets_the_number_of_the_first),
        cmocka_unit_test(a_slow_load_keeps_no_other_name),
        cmocka_unit_test(only_what_passes_is_to_be_asked_again),
        cmocka_unit_test(what_the_first_one_cannot_read_others_serve),
    };
    return cmocka_run_group_tests(tests, make_files, drop_files);
}
