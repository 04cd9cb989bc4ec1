/* test_adapters.c - names, versions, tiers: one story each, the loader's turns taken by hand. */
// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/adapter_lab.h"

#include <pthread.h>

#include "engine/adapters/adapters_inner.h"

/* Loader and engine until neither has anything to say. */
static void settle(lab *l) {
    for (int i = 0; i < 50; i++) {
        while (loader_turn(l->a))
            continue;
        adapters_step(l->a, l->now_us += 100000);
    }
}

static void load(lab *l, const char *name, uint32_t file, uint8_t mark, uint32_t pieces) {
    l->files[file] = (lab_file){.mark = mark, .pieces = pieces};
    esp_error err = {0};
    if (adapters_load(l->a, name, lab_path(file), NULL, &err) != ESP_OK)
        fail_msg("%s", err.message);
}

static adapter *find_it(lab *l, const char *ref) {
    adapter *ad = NULL;
    esp_error err = {0};
    if (adapters_find(l->a, ref, &ad, &err) != ESP_OK) fail_msg("%s: %s", ref, err.message);
    return ad;
}

static adapter_info info_of(lab *l, const adapter *ad) {
    adapter_info info;
    adapter_read_info(l->a, ad, &info);
    return info;
}

static sched_turn hold_it(lab *l, adapter *ad) {
    sched_adapters how = adapters_for_scheduler(l->a);
    return how.hold(how.arg, ad, l->now_us);
}

static void drop_it(lab *l, adapter *ad) {
    sched_adapters how = adapters_for_scheduler(l->a);
    how.drop(how.arg, ad);
}

static adapter *bring(lab *l, const char *ref) {
    adapter *ad = find_it(l, ref);
    if (hold_it(l, ad) == SCHED_LATER) {
        settle(l);
        assert_int_equal(hold_it(l, ad), SCHED_HELD);
    }
    return ad;
}

static void let_go(lab *l, adapter *ad) {
    drop_it(l, ad);
    adapter_release(l->a, ad);
}

static void a_loaded_adapter_is_packed_and_comes_to_the_device_when_asked_for(void **state) {
    (void)state;
    lab *l = lab_open(&(lab_options){.pages = 16, .seqs_max = 4, .context_max = 64});
    load(l, "triage", 1, 7, 5);
    adapter *ad = find_it(l, "triage");
    assert_int_equal(info_of(l, ad).tier, ADAPTER_HOST);
    assert_int_equal(info_of(l, ad).bytes, 5 * LAB_PIECE);
    assert_int_equal(hold_it(l, ad), SCHED_LATER);
    settle(l);
    assert_int_equal(l->arrived, 1);
    assert_int_equal(hold_it(l, ad), SCHED_HELD);
    assert_int_equal(info_of(l, ad).tier, ADAPTER_DEVICE);
    assert_int_equal(kv_leased_count(sched_kv(l->sched)), 3);
    kv_check(sched_kv(l->sched));
    assert_true(lab_is(ad, 7));
    let_go(l, ad);
    lab_close(l);
}

static void without_an_arena_packed_memory_is_used_where_it_lies(void **state) {
    (void)state;
    lab *l =
        lab_open(&(lab_options){.pages = 16, .seqs_max = 4, .context_max = 64, .in_place = true});
    load(l, "triage", 1, 7, 600); /* more than a frame of it */
    adapter *ad = find_it(l, "triage");
    assert_true(lab_is(ad, 7)); /* at once, for a command that has no scheduler */
    adapter_release(l->a, ad);
    ad = bring(l, "triage");
    assert_true(lab_is(ad, 7));
    assert_int_equal(kv_leased_count(sched_kv(l->sched)), 0);
    let_go(l, ad);
    lab_close(l);
}

/* A request began with version 1; the name is loaded anew. It finishes on its own, others get 2, and
 * version 1 goes with it. */
static void a_request_keeps_the_version_it_began_with(void **state) {
    (void)state;
    lab *l = lab_open(&(lab_options){.pages = 32, .seqs_max = 4, .context_max = 64});
    load(l, "triage", 1, 7, 2);
    adapter *old = bring(l, "triage");
    load(l, "triage", 2, 9, 2);
    adapter *young = bring(l, "triage");
    assert_int_equal(adapter_version(young), 2);
    assert_true(lab_is(old, 7) && lab_is(young, 9));
    assert_int_equal(info_of(l, old).state, ADAPTER_LEAVING);
    adapter *again;
    esp_error err = {0};
    assert_int_equal(adapters_find(l->a, "triage@1", &again, &err), ESP_NOT_FOUND);
    drop_it(l, old);
    adapter_release(l->a, old);
    settle(l);
    adapters_stats stats;
    adapters_read_stats(l->a, &stats);
    assert_int_equal(stats.known, 1);
    assert_int_equal(kv_leased_count(sched_kv(l->sched)), 1);
    let_go(l, young);
    lab_close(l);
}

static void the_same_content_again_is_the_same_version(void **state) {
    (void)state;
    lab *l = lab_open(&(lab_options){.pages = 32, .seqs_max = 4, .context_max = 64});
    load(l, "triage", 1, 7, 2);
    load(l, "triage", 2, 7, 2);
    adapter *ad = find_it(l, "triage");
    assert_int_equal(adapter_version(ad), 1);
    adapter_release(l->a, ad);
    lab_close(l);
}

static void a_load_that_fails_leaves_the_old_version_serving(void **state) {
    (void)state;
    lab *l = lab_open(&(lab_options){.pages = 32, .seqs_max = 4, .context_max = 64});
    load(l, "triage", 1, 7, 2);
    l->files[2] = (lab_file){.fails = ESP_INVALID};
    esp_error err = {0};
    assert_int_equal(adapters_load(l->a, "triage", lab_path(2), NULL, &err), ESP_INVALID);
    assert_int_equal(adapters_load(l->a, "other", lab_path(2), NULL, &err), ESP_INVALID);
    adapter *ad = bring(l, "triage");
    assert_true(lab_is(ad, 7));
    let_go(l, ad);
    assert_int_equal(adapters_find(l->a, "other", &ad, &err), ESP_NOT_FOUND);
    assert_non_null(strstr(err.message, "triage"));
    lab_close(l);
}

static void names_that_cannot_be_are_refused(void **state) {
    (void)state;
    lab *l = lab_open(&(lab_options){.pages = 32, .seqs_max = 4, .context_max = 64});
    char big[301];
    memset(big, 'a', 300);
    big[300] = '\0';
    const char *names[] = {"../x", "", "a/b", "a@1", big};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        esp_error err = {0};
        assert_int_equal(adapters_load(l->a, names[i], lab_path(1), NULL, &err), ESP_INVALID);
    }
    const char *refs[] = {"../x",          "a@",          "a@x",        "a@0",
                          "a@99999999999", "a@sha256:12", "a@sha256:zz"};
    for (size_t i = 0; i < sizeof refs / sizeof *refs; i++) {
        esp_error err = {0};
        adapter *ad;
        assert_int_equal(adapters_find(l->a, refs[i], &ad, &err), ESP_INVALID);
        assert_null(ad);
    }
    assert_int_equal(l->reads, 0);
    lab_close(l);
}

static void versions_are_found_by_number_and_digest(void **state) {
    (void)state;
    lab *l = lab_open(&(lab_options){.pages = 32, .seqs_max = 4, .context_max = 64});
    load(l, "triage", 1, 7, 2);
    char digest[ADAPTER_DIGEST_CHARS], ref[128];
    lab_digest(7, 2, digest);
    snprintf(ref, sizeof ref, "triage@%s", digest);
    adapter *one = find_it(l, "triage@1"), *two = find_it(l, ref);
    assert_ptr_equal(one, two);
    assert_string_equal(adapter_content(one), digest);
    adapter_release(l->a, one);
    adapter_release(l->a, two);
    lab_close(l);
}

static adapter *ended_one;
static esp_code ended_why;
static void note_end(lab *l, adapter *ad, const esp_error *why) {
    (void)l;
    ended_one = ad;
    ended_why = why->code;
}

static void unload_waits_for_its_users_or_ends_them(void **state) {
    (void)state;
    lab *l = lab_open(&(lab_options){.pages = 32, .seqs_max = 4, .context_max = 64});
    l->on_end = note_end;
    load(l, "a", 1, 7, 2);
    load(l, "b", 2, 9, 2);
    adapter *a = bring(l, "a"), *b = bring(l, "b"), *none;
    esp_error err = {0};
    assert_int_equal(adapters_unload(l->a, "a", ADAPTER_WAIT, &err), ESP_OK);
    assert_int_equal(adapters_unload(l->a, "b@1", ADAPTER_END, &err), ESP_OK);
    assert_int_equal(adapters_find(l->a, "a", &none, &err), ESP_NOT_FOUND);
    assert_int_equal(adapters_unload(l->a, "a", ADAPTER_WAIT, &err), ESP_NOT_FOUND);
    ended_one = NULL;
    settle(l);
    assert_ptr_equal(ended_one, b);
    assert_int_equal(ended_why, ESP_ABORTED);
    assert_true(lab_is(a, 7));
    drop_it(l, b);
    assert_int_equal(hold_it(l, b), SCHED_NEVER);
    assert_int_equal(adapter_error(b, NULL), ESP_ABORTED);
    adapter_release(l->a, b);
    let_go(l, a);
    settle(l);
    adapters_stats stats;
    adapters_read_stats(l->a, &stats);
    assert_int_equal(stats.known, 0);
    assert_int_equal(stats.host_bytes, 0);
    assert_int_equal(kv_free_count(sched_kv(l->sched)), 32);
    lab_close(l);
}

/* Half of 16 frames is for adapters; three of three frames each do not fit, so the one that was used
 * longest ago goes, and comes back from memory without being read again. */
static void the_least_used_adapter_goes_when_frames_run_out(void **state) {
    (void)state;
    lab *l = lab_open(&(lab_options){.pages = 16, .seqs_max = 4, .context_max = 64});
    load(l, "a", 1, 1, 6);
    load(l, "b", 2, 2, 6);
    load(l, "c", 3, 3, 6);
    adapter *a = bring(l, "a"), *b = bring(l, "b");
    drop_it(l, a);
    drop_it(l, b);
    assert_int_equal(hold_it(l, b), SCHED_HELD);
    drop_it(l, b);
    adapter *c = bring(l, "c");
    assert_int_equal(info_of(l, a).tier, ADAPTER_HOST);
    assert_int_equal(info_of(l, b).tier, ADAPTER_DEVICE);
    assert_int_equal(info_of(l, a).evictions, 1);
    drop_it(l, c);
    assert_int_equal(hold_it(l, a), SCHED_LATER);
    settle(l);
    assert_int_equal(hold_it(l, a), SCHED_HELD);
    assert_true(lab_is(a, 1));
    assert_int_equal(l->reads, 3);
    let_go(l, a);
    adapter_release(l->a, b);
    adapter_release(l->a, c);
    lab_close(l);
}

/* What runs stays; the one that comes waits for it. */
static void an_adapter_in_use_is_not_evicted_for_another(void **state) {
    (void)state;
    lab *l = lab_open(&(lab_options){.pages = 16, .seqs_max = 4, .context_max = 64});
    load(l, "a", 1, 1, 10);
    load(l, "b", 2, 2, 10);
    adapter *a = bring(l, "a"), *b = find_it(l, "b");
    assert_int_equal(hold_it(l, b), SCHED_LATER);
    settle(l);
    assert_int_equal(hold_it(l, b), SCHED_LATER);
    assert_true(lab_is(a, 1));
    drop_it(l, a);
    settle(l);
    assert_int_equal(hold_it(l, b), SCHED_HELD);
    assert_true(lab_is(b, 2));
    let_go(l, b);
    adapter_release(l->a, a);
    lab_close(l);
}

static void a_pinned_adapter_comes_at_once_and_stays(void **state) {
    (void)state;
    lab *l = lab_open(&(lab_options){.pages = 32, .seqs_max = 4, .context_max = 64});
    load(l, "p", 1, 1, 16);
    load(l, "b", 2, 2, 12);
    load(l, "c", 3, 3, 12);
    esp_error err = {0};
    assert_int_equal(adapters_pin(l->a, "p", true, &err), ESP_OK);
    assert_int_equal(adapters_pin(l->a, "b", true, &err), ESP_EXHAUSTED);
    settle(l);
    let_go(l, bring(l, "b"));
    let_go(l, bring(l, "c"));
    adapter *p = find_it(l, "p");
    assert_int_equal(info_of(l, p).tier, ADAPTER_DEVICE);
    assert_int_equal(info_of(l, p).loads, 1);
    assert_int_equal(adapters_pin(l->a, "p", false, &err), ESP_OK);
    adapter_release(l->a, p);
    let_go(l, bring(l, "b"));
    let_go(l, bring(l, "c"));
    settle(l);
    lab_close(l);
}

/* Memory holds two images of three: the third comes, one goes to disk, and is read again. */
static void memory_is_bounded_and_the_disk_is_the_last_tier(void **state) {
    (void)state;
    lab *l = lab_open(&(lab_options){
        .pages = 64, .seqs_max = 4, .context_max = 64, .host_memory = 4 * LAB_FRAME});
    load(l, "a", 1, 1, 4);
    load(l, "b", 2, 2, 4);
    load(l, "c", 3, 3, 4);
    adapters_stats stats;
    adapters_read_stats(l->a, &stats);
    assert_int_equal(stats.host, 2);
    assert_int_equal(stats.host_bytes, 4 * LAB_FRAME);
    adapter *all[3] = {bring(l, "a"), bring(l, "b"), bring(l, "c")};
    for (uint8_t i = 0; i < 3; i++)
        assert_true(lab_is(all[i], (uint8_t)(i + 1)));
    assert_int_equal(l->reads, 6); /* a once more; for it b went, for that c, which was used before a */
    for (int i = 0; i < 3; i++)
        let_go(l, all[i]);
    esp_error err = {0};
    l->files[9] = (lab_file){.mark = 9, .pieces = 10};
    assert_int_equal(adapters_load(l->a, "big", lab_path(9), NULL, &err), ESP_EXHAUSTED);
    assert_string_equal(err.field, "--adapter-memory");
    lab_close(l);
}

static void one_larger_than_its_share_of_the_arena_is_refused(void **state) {
    (void)state;
    lab *l = lab_open(&(lab_options){.pages = 16, .seqs_max = 4, .context_max = 64});
    l->files[1] = (lab_file){.mark = 1, .pieces = 17};
    esp_error err = {0};
    assert_int_equal(adapters_load(l->a, "big", lab_path(1), NULL, &err), ESP_EXHAUSTED);
    assert_string_equal(err.field, "--kv-memory");
    adapters_stats stats;
    adapters_read_stats(l->a, &stats);
    assert_int_equal(stats.host_bytes, 0);
    lab_close(l);
}

/* Its image went to disk; there it is another one now, or gone: its requests are told why. */
static void files_that_changed_behind_our_back_break_the_adapter(void **state) {
    (void)state;
    lab *l = lab_open(&(lab_options){
        .pages = 64, .seqs_max = 4, .context_max = 64, .host_memory = 2 * LAB_FRAME});
    load(l, "a", 1, 1, 4);
    adapter *a = find_it(l, "a"), *none;
    load(l, "b", 2, 2, 4);
    l->files[1].mark = 5;
    assert_int_equal(hold_it(l, a), SCHED_LATER);
    settle(l);
    assert_int_equal(hold_it(l, a), SCHED_NEVER);
    esp_error err = {0};
    assert_int_equal(adapter_error(a, &err), ESP_DATA_LOSS);
    assert_int_equal(err.code, ESP_DATA_LOSS);
    assert_int_equal(adapters_find(l->a, "a", &none, &err), ESP_DATA_LOSS);
    adapter_release(l->a, a);
    load(l, "a", 1, 5, 4); /* what lies there now is loaded: it serves again */
    a = bring(l, "a");
    assert_true(lab_is(a, 5));
    let_go(l, a);
    lab_close(l);
}

typedef struct loading {
    lab *l;
    uint32_t file;
    esp_code code;
} loading;

static void *load_one(void *arg) {
    loading *one = arg;
    char path[32];
    snprintf(path, sizeof path, "/lab/%u", one->file);
    one->code = adapters_load(one->l->a, "triage", path, NULL, NULL);
    return NULL;
}

/* The second waits for the first: two versions, one after the other, and the name means one of them. */
static void two_loads_of_a_name_at_once_are_two_versions(void **state) {
    (void)state;
    lab *l = lab_open(&(lab_options){.pages = 32, .seqs_max = 4, .context_max = 64});
    for (uint32_t round = 0; round < 50; round++) {
        pthread_t threads[2];
        loading both[2] = {{.l = l, .file = 1}, {.l = l, .file = 2}};
        for (uint32_t i = 0; i < 2; i++) {
            l->files[1 + i] = (lab_file){.mark = (uint8_t)(1 + 2 * round + i), .pieces = 3};
            assert_int_equal(pthread_create(&threads[i], NULL, load_one, &both[i]), 0);
        }
        for (uint32_t i = 0; i < 2; i++) {
            pthread_join(threads[i], NULL);
            assert_int_equal(both[i].code, ESP_OK);
        }
        adapter *ad = bring(l, "triage");
        assert_int_equal(adapter_version(ad), 2 * round + 2);
        assert_true(lab_is(ad, (uint8_t)(1 + 2 * round)) || lab_is(ad, (uint8_t)(2 + 2 * round)));
        let_go(l, ad);
        settle(l);
        adapters_stats stats;
        adapters_read_stats(l->a, &stats);
        assert_int_equal(stats.known, 1);
    }
    lab_close(l);
}

/* A disk that was away for a while takes nobody out of service for good. */
static void files_that_are_back_are_read_again_after_a_while(void **state) {
    (void)state;
    lab *l = lab_open(&(lab_options){
        .pages = 64, .seqs_max = 4, .context_max = 64, .host_memory = 2 * LAB_FRAME});
    load(l, "a", 1, 1, 4);
    adapter *a = find_it(l, "a"), *none;
    load(l, "b", 2, 2, 4);
    l->files[1].fails = ESP_UNAVAILABLE;
    assert_int_equal(hold_it(l, a), SCHED_LATER);
    settle(l);
    assert_int_equal(hold_it(l, a), SCHED_NEVER);
    l->files[1].fails = ESP_OK;
    assert_int_equal(adapters_find(l->a, "a", &none, NULL), ESP_UNAVAILABLE);
    a->broken_us -= BROKEN_FOR_US + 1;
    adapter *again = bring(l, "a");
    assert_true(lab_is(again, 1));
    assert_int_equal(adapter_version(again), 1);
    adapter_release(l->a, a);
    let_go(l, again);
    settle(l);
    lab_close(l);
}

/* One that was broken and is listed anew. */
static adapter *list_anew(lab *l, uint32_t file) {
    load(l, "a", file, 1, 4);
    adapter *a = find_it(l, "a");
    adapter_break(l->a, a, &(esp_error){.code = ESP_UNAVAILABLE});
    a->broken_us -= BROKEN_FOR_US + 1;
    adapter *again = find_it(l, "a");
    assert_ptr_not_equal(again, a);
    adapter_release(l->a, a);
    return again;
}

static void words_are_read_once_and_without_the_rest(void **state) {
    (void)state;
    lab *l = lab_open(&(lab_options){.pages = 64, .seqs_max = 4, .context_max = 64});
    adapter *a = list_anew(l, 1);
    adapter_info info;
    uint64_t reads = l->reads;
    assert_false(adapter_has_words(a));
    assert_int_equal(adapters_read_words(l->a, a, NULL), ESP_OK);
    assert_true(adapter_has_words(a));
    assert_int_equal(adapters_read_words(l->a, a, NULL), ESP_OK);
    assert_int_equal(l->words, 1);
    assert_int_equal(l->reads, reads);
    adapter_read_info(l->a, a, &info);
    assert_int_equal(info.state, ADAPTER_LISTED);
    adapter_release(l->a, a);
    let_go(l, bring(l, "a"));
    settle(l);
    lab_close(l);
}

static void words_that_fail_are_read_once_and_break_it(void **state) {
    (void)state;
    lab *l = lab_open(&(lab_options){.pages = 64, .seqs_max = 4, .context_max = 64});
    adapter *a = list_anew(l, 1);
    esp_error err = {0};
    l->files[1].fails = ESP_INVALID;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(adapters_read_words(l->a, a, &err), ESP_PRECONDITION);
        assert_string_equal(err.field, "model");
    }
    assert_int_equal(l->words, 1);
    assert_true(adapter_is_broken(a));
    assert_int_equal(hold_it(l, a), SCHED_NEVER); /* nobody waits for what is known to fail */
    settle(l);
    adapter_release(l->a, a);
    settle(l);
    lab_close(l);
}

/* Nobody is told that one is pinned which is then not computed with. */
static void a_broken_one_is_not_pinned(void **state) {
    (void)state;
    lab *l = lab_open(&(lab_options){.pages = 64, .seqs_max = 4, .context_max = 64});
    adapter *a = list_anew(l, 1);
    esp_error err = {0};
    l->files[1].fails = ESP_INVALID;
    assert_int_equal(adapters_read_words(l->a, a, NULL), ESP_PRECONDITION);
    l->files[1].fails = ESP_OK;
    assert_int_equal(adapters_pin(l->a, "a", true, &err), ESP_PRECONDITION);
    assert_non_null(strstr(err.message, "the file is no good"));
    assert_false(info_of(l, a).pinned);
    assert_int_equal(info_of(l, a).bytes, 0);
    a->broken_us -= BROKEN_FOR_US + 1;
    adapter_release(l->a, a);
    assert_int_equal(adapters_pin(l->a, "a", true, NULL), ESP_OK);
    settle(l);
    a = bring(l, "a");
    assert_true(info_of(l, a).pinned && lab_is(a, 1));
    let_go(l, a);
    settle(l);
    lab_close(l);
}

/* The words of l->owner are asked for beside the load, and cannot be read. */
static esp_code read_beside_words(const adapter_reader *reader, const char *path,
                                  adapter_image *image, adapter_facts *facts, esp_error *err) {
    lab *l = reader->arg;
    l->files[1].fails = ESP_INVALID;
    assert_int_equal(adapters_read_words(l->a, l->owner, NULL), ESP_PRECONDITION);
    l->files[1].fails = ESP_OK;
    return lab_read(reader, path, image, facts, err);
}

static void check_broken_beside_load(bool pins) {
    lab *l = lab_open(&(lab_options){.pages = 64, .seqs_max = 4, .context_max = 64});
    adapter *a = list_anew(l, 1);
    l->owner = a;
    l->reader.read = read_beside_words;
    if (pins) {
        assert_int_equal(adapters_pin(l->a, "a", true, NULL), ESP_PRECONDITION);
    } else {
        assert_int_equal(hold_it(l, a), SCHED_LATER);
        settle(l);
        assert_int_equal(hold_it(l, a), SCHED_NEVER);
    }
    assert_int_equal(info_of(l, a).state, ADAPTER_BROKEN);
    assert_int_equal(info_of(l, a).bytes, 0);
    l->reader.read = lab_read;
    a->broken_us -= BROKEN_FOR_US + 1;
    adapter_release(l->a, a);
    let_go(l, bring(l, "a"));
    settle(l);
    lab_close(l);
}

/* It is the one or the other, whoever loads. */
static void one_that_breaks_beside_its_load_is_not_loaded(void **state) {
    (void)state;
    check_broken_beside_load(true);
    check_broken_beside_load(false);
}

static void *read_words(void *arg) {
    adapter *ad = arg;
    assert_int_equal(adapters_read_words(ad->owner, ad, NULL), ESP_OK);
    assert_true(adapter_has_words(ad));
    return NULL;
}

/* Of all who read them at once one's are kept, and a load takes them as they are. */
static void words_are_read_by_many_beside_a_load(void **state) {
    (void)state;
    enum { ROUNDS = 50, READERS = 3 };
    lab *l =
        lab_open(&(lab_options){.pages = 64, .seqs_max = 4, .context_max = 64, .threaded = true});
    for (uint32_t i = 0; i < ROUNDS; i++) {
        adapter *a = list_anew(l, 1);
        pthread_t readers[READERS];
        for (uint32_t k = 0; k < READERS; k++)
            assert_int_equal(pthread_create(&readers[k], NULL, read_words, a), 0);
        assert_int_equal(adapters_load(l->a, "a", lab_path(1), NULL, NULL), ESP_OK);
        for (uint32_t k = 0; k < READERS; k++)
            pthread_join(readers[k], NULL);
        assert_int_equal(info_of(l, a).state, ADAPTER_READY);
        adapter_release(l->a, a);
        adapters_step(l->a, l->now_us += 1000);
    }
    lab_close(l);
}

/* Who is larger than one may be does not wait for the memory that others have. */
static void one_that_is_too_large_is_not_read_over_and_over(void **state) {
    (void)state;
    lab *l = lab_open(&(lab_options){
        .pages = 8, .seqs_max = 4, .context_max = 64, .host_memory = 6 * LAB_FRAME});
    load(l, "a", 1, 1, 4);
    load(l, "b", 2, 2, 4);
    load(l, "c", 3, 3, 4);
    load(l, "d", 4, 4, 4);
    adapter *a = find_it(l, "a"), *b = find_it(l, "b");
    assert_int_equal(hold_it(l, b), SCHED_LATER);
    assert_true(loader_turn(l->a)); /* b is on its way from here on: memory that comes back */
    l->files[1].pieces = 10;
    assert_int_equal(hold_it(l, a), SCHED_LATER);
    uint32_t turns = 0;
    while (turns < 10 && loader_turn(l->a))
        turns++;
    assert_int_equal(turns, 1);
    settle(l);
    assert_int_equal(hold_it(l, a), SCHED_NEVER);
    assert_int_equal(hold_it(l, b), SCHED_HELD);
    adapter_release(l->a, a);
    let_go(l, b);
    lab_close(l);
}

/* The queues between the threads have room for all, those on their way out too. */
static void no_more_are_known_at_once_than_there_may_be(void **state) {
    (void)state;
    lab *l = lab_open(&(lab_options){.pages = 64, .seqs_max = 4, .context_max = 64});
    l->files[1] = (lab_file){.mark = 1}; /* packed, it takes nothing */
    esp_error err = {0};
    for (uint32_t i = 0; i < ADAPTERS_MAX; i++) {
        char name[16];
        snprintf(name, sizeof name, "n%u", i);
        assert_int_equal(adapters_load(l->a, name, lab_path(1), NULL, &err), ESP_OK);
    }
    assert_int_equal(adapters_load(l->a, "more", lab_path(1), NULL, &err), ESP_EXHAUSTED);
    assert_int_equal(adapters_unload(l->a, "n7", ADAPTER_WAIT, &err), ESP_OK);
    while (loader_turn(l->a))
        continue;
    assert_int_equal(adapters_load(l->a, "more", lab_path(1), NULL, &err), ESP_EXHAUSTED);
    settle(l);
    assert_int_equal(adapters_load(l->a, "more", lab_path(1), NULL, &err), ESP_OK);
    lab_close(l);
}

static void the_list_shows_each_version_once(void **state) {
    (void)state;
    lab *l = lab_open(&(lab_options){.pages = 64, .seqs_max = 4, .context_max = 64});
    load(l, "b", 1, 1, 4);
    load(l, "a", 2, 2, 4);
    adapter *old = find_it(l, "a");
    load(l, "a", 3, 3, 4);
    adapter_info *list;
    size_t count;
    adapters_list(l->a, &list, &count);
    assert_int_equal(count, 3);
    assert_string_equal(list[0].name, "a");
    assert_int_equal(list[0].version, 1);
    assert_int_equal(list[0].state, ADAPTER_LEAVING);
    assert_int_equal(list[0].users, 1);
    assert_false(list[0].current);
    assert_true(list[1].current && list[2].current);
    assert_string_equal(list[2].name, "b");
    free(list);
    adapter_release(l->a, old);
    lab_close(l);
}

/* The loader, which takes it apart, has not run yet. */
static void the_list_shows_nothing_that_is_over(void **state) {
    (void)state;
    lab *l = lab_open(&(lab_options){.pages = 64, .seqs_max = 4, .context_max = 64});
    adapter_info *list;
    size_t count;
    load(l, "a", 1, 1, 4);
    assert_int_equal(adapters_unload(l->a, "a", ADAPTER_WAIT, NULL), ESP_OK);
    adapters_list(l->a, &list, &count);
    assert_int_equal(count, 0);
    free(list);
    adapters_stats stats;
    adapters_read_stats(l->a, &stats);
    assert_int_equal(stats.known, 1);
    settle(l);
    adapters_read_stats(l->a, &stats);
    assert_int_equal(stats.known, 0);
    lab_close(l);
}

typedef struct looker {
    adapters *a;
    _Atomic bool over;
    uint64_t looks, odd;
} looker;

static void *look_on(void *arg) {
    looker *who = arg;
    while (!atomic_load(&who->over)) {
        adapter_info *list;
        size_t count;
        adapters_stats stats;
        adapters_look(who->a, &list, &count, &stats);
        for (size_t i = 0; i < count; i++) {
            stats.loads -= list[i].loads;
            stats.evictions -= list[i].evictions;
        }
        who->looks++;
        who->odd += stats.loads || stats.evictions;
        free(list);
    }
    return NULL;
}

/* Two that do not fit together take turns while somebody looks on: a move that is in the sum is some adapter's. */
static void sums_and_lists_are_of_one_moment(void **state) {
    (void)state;
    enum { TURNS = 20000 };
    lab *l = lab_open(&(lab_options){.pages = 8, .seqs_max = 1, .context_max = 16});
    looker who = {.a = l->a};
    pthread_t thread;
    load(l, "a", 1, 1, 6);
    load(l, "b", 2, 2, 6);
    assert_int_equal(pthread_create(&thread, NULL, look_on, &who), 0);
    for (int i = 0; i < TURNS; i++)
        let_go(l, bring(l, i % 2 ? "a" : "b"));
    atomic_store(&who.over, true);
    pthread_join(thread, NULL);
    adapters_stats stats;
    adapters_read_stats(l->a, &stats);
    assert_int_equal(stats.loads, TURNS);
    assert_int_equal(stats.evictions, TURNS - 1);
    if (who.odd)
        fail_msg("%llu of %llu looks", (unsigned long long)who.odd, (unsigned long long)who.looks);
    lab_close(l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_loaded_adapter_is_packed_and_comes_to_the_device_when_asked_for),
        cmocka_unit_test(without_an_arena_packed_memory_is_used_where_it_lies),
        cmocka_unit_test(a_request_keeps_the_version_it_began_with),
        cmocka_unit_test(the_same_content_again_is_the_same_version),
        cmocka_unit_test(a_load_that_fails_leaves_the_old_version_serving),
        cmocka_unit_test(names_that_cannot_be_are_refused),
        cmocka_unit_test(versions_are_found_by_number_and_digest),
        cmocka_unit_test(unload_waits_for_its_users_or_ends_them),
        cmocka_unit_test(the_least_used_adapter_goes_when_frames_run_out),
        cmocka_unit_test(an_adapter_in_use_is_not_evicted_for_another),
        cmocka_unit_test(a_pinned_adapter_comes_at_once_and_stays),
        cmocka_unit_test(memory_is_bounded_and_the_disk_is_the_last_tier),
        cmocka_unit_test(one_larger_than_its_share_of_the_arena_is_refused),
        cmocka_unit_test(files_that_changed_behind_our_back_break_the_adapter),
        cmocka_unit_test(two_loads_of_a_name_at_once_are_two_versions),
        cmocka_unit_test(files_that_are_back_are_read_again_after_a_while),
        cmocka_unit_test(words_are_read_once_and_without_the_rest),
        cmocka_unit_test(words_that_fail_are_read_once_and_break_it),
        cmocka_unit_test(a_broken_one_is_not_pinned),
        cmocka_unit_test(one_that_breaks_beside_its_load_is_not_loaded),
        cmocka_unit_test(words_are_read_by_many_beside_a_load),
        cmocka_unit_test(one_that_is_too_large_is_not_read_over_and_over),
        cmocka_unit_test(no_more_are_known_at_once_than_there_may_be),
        cmocka_unit_test(the_list_shows_each_version_once),
        cmocka_unit_test(the_list_shows_nothing_that_is_over),
        cmocka_unit_test(sums_and_lists_are_of_one_moment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
